"""One simulated process: the production driver, core, log and recovery, over virtual time, disk and network."""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from perenne.dimse.meta import file_meta
from perenne.standing import StandingReport
from replication.api import Draft
from replication.coordination.port import ClusterRecord
from replication.core import effects as fx
from replication.core import events as ev
from replication.core.situation import Settings
from replication.core.values import Identity, ReplicaId, TierMode
from replication.opening import open_store
from replication.replicator import Replicator
from replication.settings import ReplicatorSettings
from replication.tier.port import ObjectStore
from replication.tier.probe import Trust
from replication.watchdog import Patience
from storage.deletion import SMALL_KINDS
from storage.errors import StorageError
from storage.index import Index
from storage.log import Log, LogIdentity
from storage.metadata import NodeIdentity, read_identity, write_identity
from storage.position import LogPoint, RecordHeader
from storage.reader import Payload
from storage.staging import StagingArea
from storage.writer import CommitQueue
from tests.simulation.bucket import Bucket, BucketClient
from tests.simulation.client import Client
from tests.simulation.compacting import SimCompactor
from tests.simulation.disk import Medium, SimDisk
from tests.simulation.evicting import evictor_of, keep_evicting
from tests.simulation.network import Network
from tests.simulation.observer import Observer
from tests.simulation.scrubbing import Mirror, SimScrubber
from tests.simulation.world import PowerCut, ProcessLoop, World
from tests.simulation.zookeeper import Service

P = ParamSpec("P")
T = TypeVar("T")
CLUSTER_ID = "simulated"
SEGMENT_BYTES = 64 * 1024
CT = "1.2.840.10008.5.1.4.1.1.2"
IMPLICIT = "1.2.840.10008.1.2"
RESERVE_BYTES = 512 * 1024
WALL_US = 1_800_000_000_000_000


class Worker:
    """One thread: jobs in order, each taking as long as its disk operations say."""

    def __init__(self, process: "Process") -> None:
        self._process = process
        self._jobs: deque[Callable[[], object]] = deque()
        self._busy = False

    def put(self, job: Callable[[], object]) -> None:
        self._jobs.append(job)
        if not self._busy:
            self._busy = True
            self._next(20)

    def _next(self, delay_us: int) -> None:
        world, process = self._process.world, self._process
        if process.hung_until_us > world.now_us:
            delay_us = max(delay_us, 20_000)
        world.after(delay_us, process.loop, self._run)

    def _run(self) -> None:
        process = self._process
        if process.hung_until_us > process.world.now_us:
            self._next(0)  # it may heal before its time
            return
        process.disk.cost_us, process.working = 1, True
        try:
            self._jobs.popleft()()
        finally:
            cost, process.disk.cost_us, process.working = process.disk.cost_us, 0, False
        if self._jobs:
            self._next(cost)
        else:
            self._process.world.after(cost, process.loop, self._idle)

    def _idle(self) -> None:
        if self._jobs:
            self._run()
        else:
            self._busy = False


class SimExecutor(Executor):
    """Some threads; here one after another, which is one of the orders that several would allow."""

    def __init__(self, process: "Process") -> None:
        self._worker = Worker(process)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        future: Future[T] = Future()

        def job() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except Exception as error:  # noqa: BLE001 - it belongs to whoever asked
                future.set_exception(error)
            else:
                future.set_result(result)

        self._worker.put(job)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        pass


class SimCommitQueue(CommitQueue):
    """The log thread."""

    def __init__(
        self,
        process: "Process",
        log: Log,
        on_durable: Callable[[LogPoint], None],
        on_failure: Callable[[StorageError], None],
    ) -> None:
        super().__init__(log, on_durable, on_failure)
        self._process = process
        self._worker = Worker(process)

    def submit(self, header: RecordHeader, chain: bytes, payload: Payload) -> None:
        if header.kind in SMALL_KINDS:
            self._process.observer.said(header, b"".join(bytes(part) for part in payload.parts()))
        self._process.observer.appended(self._process, header, chain)
        super().submit(header, chain, payload)

    def submit_stub(self, header: RecordHeader, chain: bytes, tombstone: int) -> None:
        self._process.observer.appended(self._process, header, chain)
        super().submit_stub(header, chain, tombstone)

    def _put(self, item: Any) -> None:
        self._queue.append(item)
        self._worker.put(self._work)

    def _work(self) -> None:
        if self._queue:
            self.work_once()

    def close(self) -> None:
        while self._queue:
            self.work_once()


class Process:
    """Built on what lies on `medium`; raises StorageError where a real node would refuse to start."""

    def __init__(
        self,
        world: World,
        net: Network,
        service: Service,
        observer: Observer,
        *,
        number: int,
        name: str,
        medium: Medium,
        host_boot: str,
        settings: Settings,
        boot: str,
        bucket: Bucket,
        evicts: bool = False,
        compacts_us: int | None = None,
        mirror: Mirror | None = None,
        die_in: tuple[int, bool] | None = None,
        died: "Callable[[Process], None]",
    ) -> None:
        self.world = world
        self.net = net
        self.service = service
        self.observer = observer
        self.number = number
        self.name = name
        self.medium = medium
        self.started_us = world.now_us
        self.hung_until_us = 0
        self.working = False
        """Whether a thread works right now, rather than the event loop."""
        self.skew_us = 0
        self.stopping_task: asyncio.Task[None] | None = None
        self.loop = ProcessLoop(world, number, name, net)
        self.loop.failed = lambda message, error: observer.failed(self, message, error)
        self.disk = SimDisk(medium)
        self.disk.before = self._before
        self.loop.threads_behind_us = lambda: self.disk.cost_us
        self.die_in = die_in
        self.fail_next_sync = self.fail_next_rename = False
        self._died = died
        self.power_lost = False
        self.barred = ""
        """Why it may not take part any more with the disk that it has."""
        self._ids = itertools.count(1)
        self._boot = boot
        self._canary_us = world.now_us
        self._trouble: str | None = None
        self.client = Client(service, self.loop)
        self.bucket = BucketClient(bucket, self.loop)
        self.scrubber: SimScrubber | None = None
        self.compactor: SimCompactor | None = None
        self.loop.enter(lambda: self._build(settings, host_boot, evicts=evicts))
        if mirror is not None:
            self.loop.enter(lambda: self._scrub(mirror))
        if compacts_us is not None:
            self.loop.enter(lambda: self._compact(compacts_us))

    def _build(self, settings: Settings, host_boot: str, *, evicts: bool) -> None:
        identity = read_identity(self.disk)
        if identity is None:
            identity = NodeIdentity(CLUSTER_ID, self.name, f"disk-{self._boot}")
            write_identity(self.disk, identity)
        self.incarnation = identity.incarnation
        store = open_store(
            self.disk, LogIdentity(CLUSTER_ID, SEGMENT_BYTES), host_boot=host_boot, direct=False, spares=0
        )
        self.log, self.promise = store.log, store.promise
        self.staging = StagingArea(self.disk, memory_instance_bytes=96 * 1024, pool_bytes=1024 * 1024)
        index = Index.open(self.disk)
        me = Identity(ReplicaId(self.name), identity.incarnation, self._boot)
        self.replicator = Replicator(
            ReplicatorSettings(
                core=replace(settings, identity=me, host_rebooted=store.host_rebooted),
                cluster=ClusterRecord(CLUSTER_ID, 1, SEGMENT_BYTES),
                acknowledge_timeout_ms=4 * settings.session_timeout_ms,
                peer_host="127.0.0.1",
                peer_port=self.number,
                advertise_host="127.0.0.1",
                dicom_port=0,
                http_port=0,
                ae_title="SIM",
                version="simulated",
                evicts=lambda: self.evictor.evicts,
            ),
            disk=self.disk,
            log=self.log,
            promise=self.promise,
            index=index,
            staging=self.staging,
            coordination=self.client,
            new_id=self._new_id,
            runtime=self,
            tier=self.bucket if settings.tier_mode is not TierMode.OFF else None,
            prove_tier=self._believes,
        )
        self.core = self.replicator.core
        tiered = settings.tier_mode is not TierMode.OFF
        self.evictor = evictor_of(self, self.bucket if tiered else None, on=evicts)
        if evicts:
            self.replicator.spawn(keep_evicting(self, self.evictor))
        step = self.core.step

        def observed(event: ev.Event, now_ms: int, wall_us: int) -> list[fx.Effect]:
            found = step(event, now_ms, wall_us)
            self.observer.stepped(self, event, found)
            return found

        setattr(self.core, "step", observed)  # noqa: B010 - a method is replaced on purpose
        self.replicator.operations.when_retired = self._retired
        self.reported = StandingReport(self.replicator, self.disk, Path())
        self.loop.create_task(self.replicator.start())
        self.replicator.spawn(self.reported.keep())
        self._patience = Patience.for_session(settings.session_timeout_ms / 1000)
        self._canary_worker = Worker(self)
        self._beat = settings.session_timeout_ms * 100
        self._canary()

    def _scrub(self, mirror: Mirror) -> None:
        self.scrubber = SimScrubber(self, mirror)
        self.scrubber.start()

    def _compact(self, undo_us: int) -> None:
        self.compactor = self.replicator.compactor = SimCompactor(self, undo_us)
        self.compactor.start()

    @property
    def hopeless(self) -> bool:
        """Whether the scrub found something wrong with an evicted segment, and says that nothing here can mend it."""
        if self.scrubber is None or not self.scrubber.report().faults:
            return False
        return any(segment.evicted for segment in self.log.segments())

    async def _believes(self, store: ObjectStore) -> Trust:
        """Probing is tested with real stores."""
        return Trust()

    def _new_id(self) -> str:
        return f"{self._boot}x{next(self._ids)}"

    # The production port `Runtime`

    def now_ms(self) -> int:
        return self.world.now_us // 1000

    def wall_us(self) -> int:
        return WALL_US + self.world.now_us + self.skew_us

    def chance(self) -> float:
        return self.world.random.random()

    def executor(self, name: str, threads: int) -> Executor:
        return SimExecutor(self)

    def commit_queue(
        self, log: Log, on_durable: Callable[[LogPoint], None], on_failure: Callable[[StorageError], None]
    ) -> CommitQueue:
        return SimCommitQueue(self, log, on_durable, on_failure)

    # The canary and its watchdog, by the production judgement

    def _canary(self) -> None:
        def turned() -> None:
            self._canary_us = self.world.now_us

        self._canary_worker.put(turned)
        age_s = (self.world.now_us - self._canary_us) / 1_000_000
        low = "the disk is nearly full" if self.medium.room < RESERVE_BYTES else None
        trouble = self._patience.trouble(age_s, low)
        if trouble != self._trouble:
            self._trouble = trouble
            self.replicator.feed(ev.DataPathChanged(trouble))
        if self._patience.what_stood_still(age_s, low, 0.0) is not None:
            self.world.say(self.name, "the watchdog ends the process")
            self._die(power=False)
        else:
            self.world.after(max(self._beat, 50_000), self.loop, self._canary)

    # Ends

    def _before(self, operation: str, name: str) -> None:
        if self.die_in is not None:
            left, power = self.die_in
            self.die_in = (left - 1, power)
            if left <= 0:
                self.die_in = None
                self._die(power=power)
                raise PowerCut
        if operation == "sync" and self.fail_next_sync and name.startswith("log/"):
            self.fail_next_sync = False
            raise OSError(5, "Input/output error")
        if operation == "rename" and self.fail_next_rename and name.startswith("log/"):
            self.fail_next_rename = False
            raise OSError(5, "Input/output error")

    def _die(self, *, power: bool) -> None:
        self.loop.dead = self.disk.dead = True
        self.power_lost = power
        self.world.at(0, None, self._died, self)

    def kill(self, *, power: bool = False) -> None:
        """End now, between two callbacks."""
        if not self.loop.dead:
            self._die(power=power)

    def _retired(self, why: str) -> None:
        self.barred = why
        self.world.at(0, None, self.kill)

    def pause(self) -> None:
        self.loop.paused = True
        self.service.unheard(self.client.session)

    def resume(self) -> None:
        if self.loop.paused:
            self._canary_us = self.world.now_us
            self.loop.resume()
            self.world.at(0, self.loop, self.client.resumed)

    # What a sender does

    def draft(self, uid: str, dataset: bytes) -> Draft:
        """Stage an instance as DIMSE does."""
        meta = file_meta(sop_class_uid=CT, sop_instance_uid=uid, transfer_syntax_uid=IMPLICIT, source_ae="")
        receiving = self.staging.begin(meta)
        receiving.write(memoryview(dataset))
        return Draft(
            staged=receiving.finish(),
            sop_class_uid=CT,
            sop_instance_uid=uid,
            study_instance_uid="1.2.3",
            series_instance_uid="1.2.3.4",
            transfer_syntax_uid=IMPLICIT,
        )
