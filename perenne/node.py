"""The composition root: builds every part of one node, starts and stops them in order. Only this file constructs."""

import asyncio
import gc
import logging
import os
import secrets
import signal
import socket
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

import uvloop

from monitoring import listing
from monitoring.drill import DrillMetrics
from monitoring.health import judge
from monitoring.http import HttpServer
from monitoring.metrics import Metrics
from monitoring.room import RoomMetrics
from perenne import VERSION, logs
from perenne.config import Config
from perenne.config_tier import blocking_store, eviction, patient_store
from perenne.config_tls import door, keyrings, zookeeper_access
from perenne.dimse.server import DimseServer
from perenne.doors import log_doors
from perenne.housekeeping import compaction_settings, scrub_settings
from perenne.joining import CannotStart, identified
from perenne.limits import raise_descriptor_limit
from perenne.notify import notified
from perenne.retention import TWO_PERSON
from perenne.standing import StandingReport
from perenne.tls import TlsUnusable
from replication.api import InstanceBytes, ReplicatorStatistics
from replication.compacting import Compactor
from replication.coordination.port import (
    ClusterRecord,
    Coordination,
)
from replication.coordination.standalone import FileCoordination
from replication.coordination.zookeeper import ZooKeeperCoordination
from replication.core import events as ev
from replication.core.situation import ConflictPolicy, Settings
from replication.core.values import Identity, Phase, ReplicaId, TierMode
from replication.evicting import Evictor
from replication.opening import open_store
from replication.register import Register
from replication.replicator import Replicator, ReplicatorSettings
from replication.reporting import role, statistics, why_not_replica
from replication.runtime import ThreadRuntime
from replication.scrubber import Scrubber
from replication.tier.claims import Claims
from replication.tier.manifest import proved_for
from replication.tier.port import BlockingStore, ObjectStore, TierError
from replication.watchdog import Watchdog
from storage.dataset import scan
from storage.disk import Disk, RealDisk
from storage.errors import StorageError
from storage.index import Index, Selection
from storage.log import LogIdentity
from storage.metadata import NodeIdentity
from storage.staging import StagingArea

_LOG: Final = logging.getLogger("perenne.node")
DRAIN_S: Final = 15.0
ALONE: Final = "one copy only: configure a tier, or ZooKeeper, or allow_solo"
GC_THRESHOLDS: Final = (20_000, 20, 50)
HAND_OVER_S: Final = 6.0


def run(config: Config) -> int:
    """Run a node until SIGTERM or SIGINT; return the exit code."""
    logs.configure(config.log.level, config.log.format)
    _LOG.info("open files allowed", extra={"descriptors": raise_descriptor_limit()})
    log_doors(config)
    try:
        uvloop.run(_serve(config))
    except CannotStart as error:
        _LOG.critical("the node cannot start", extra={"reason": str(error)})
        return 1
    return 0


async def _serve(config: Config) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    try:
        config.node.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotStart(f"{config.node.data_dir} cannot be made: {error.strerror}; see [node] data_dir") from error
    disk = RealDisk(config.node.data_dir)
    tier = patient_store(config.tier, tier_store(config)) if config.tier.on else None
    identity, cluster = await identified(config, disk, tier, stopping)
    if identity is None:
        return
    coordination: Coordination = (
        FileCoordination(disk, Claims(disk, tier, cluster) if tier is not None else None)
        if config.standalone
        else ZooKeeperCoordination(
            config.coordination.zookeeper,
            session_timeout_ms=config.coordination.session_timeout_ms,
            access=zookeeper_access(config),
        )
    )
    node = Node(config, disk, coordination, identity, cluster, tier)
    node.replicator.operations.when_retired = lambda why: end_retired(why, stopping)
    try:
        await node.start()
        # What was built until here stays: the collector need not walk it again and again (5 to 10 % of the rate).
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        async with notified(node.why_not_live):
            await stopping.wait()
    finally:
        await node.stop()


def end_retired(why: str, stopping: asyncio.Event) -> None:
    """With exit code 0: a supervisor that restarts what failed has nothing to restart."""
    if not stopping.is_set():
        _LOG.critical("this node is retired, and ends", extra={"reason": why})
    stopping.set()


class Node:
    """One node with everything in it. Also what its HTTP port shows."""

    def __init__(
        self,
        config: Config,
        disk: Disk,
        coordination: Coordination,
        identity: NodeIdentity,
        cluster: ClusterRecord,
        tier: ObjectStore | None,
    ) -> None:
        self._config = config
        self._disk = disk
        self._runtime = ThreadRuntime()
        self._stopping = False
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        try:
            store = open_store(
                disk,
                LogIdentity(cluster.cluster_id, cluster.segment_bytes),
                host_boot=boot,
                direct=config.storage.direct_io,
                spares=config.storage.spare_segments,
            )
        except StorageError as error:
            raise CannotStart(f"{config.node.data_dir}: {error}") from error
        self.log, self._promise = store.log, store.promise
        self.index = Index.open(disk)
        if self.index.moved_aside:
            _LOG.warning("the index was damaged and is rebuilt", extra={"moved_to": self.index.moved_aside})
        self.staging = StagingArea(
            disk,
            memory_instance_bytes=config.storage.memory_instance_bytes,
            pool_bytes=config.storage.staging_pool_bytes,
        )
        try:
            self._keyrings = keyrings(config)
        except TlsUnusable as error:
            raise CannotStart(str(error)) from error
        self._tier = tier
        me = Identity(ReplicaId(identity.node_id), identity.incarnation, secrets.token_hex(8))
        self.replicator = Replicator(
            _replicator_settings(config, me, cluster, host_rebooted=store.host_rebooted),
            disk=disk,
            log=self.log,
            promise=self._promise,
            index=self.index,
            staging=self.staging,
            coordination=coordination,
            new_id=lambda: secrets.token_hex(8),
            runtime=self._runtime,
            tier=self._tier,
            prove_tier=lambda tier: proved_for(tier, cluster),
            spool=config.node.data_dir / "staging",
            door=door(self._keyrings.peer),
        )
        self._evictor = Evictor(self.replicator, eviction(config), self._tier)
        self._register = Register(self.replicator)
        self._standing = StandingReport(self.replicator, disk, config.node.data_dir)
        session_s = config.coordination.session_timeout_ms / 1000
        loop = asyncio.get_running_loop()
        self._watchdog = Watchdog(
            disk,
            session_s=session_s,
            changed=lambda trouble: void(loop.call_soon_threadsafe(self.replicator.feed, ev.DataPathChanged(trouble))),
            loop_age=self._loop_age,
            # Room for what the log thread may be zeroing now and for the segment after it: refuse before it is full.
            reserve_bytes=max(config.storage.reserve_bytes, 2 * cluster.segment_bytes),
        )
        titles = [one.title for one in config.ae]
        self._metrics = Metrics(self.statistics, version=VERSION, expiries=self._keyrings.expiries, titles=titles)
        self._metrics.registry.register(DrillMetrics(config.node.data_dir / "drill.json"))
        self._metrics.registry.register(RoomMetrics(config.node.data_dir))
        self.dimse = DimseServer(
            config.dimse_settings(),
            self.replicator,
            self.staging,
            scan,
            self._metrics,
            door(self._keyrings.dicom),
        )
        self.http = HttpServer(
            self,
            host=config.http.host,
            port=config.http.port,
            secure=self._keyrings.http.server() if self._keyrings.http is not None else None,
            token=self._keyrings.shown,
            open_metrics=config.http.open_metrics,
        )
        self._renewal = asyncio.ensure_future(self._keyrings.renew())
        self._scrubber = Scrubber(self.replicator, disk, scrub_settings(config))
        self.replicator.compactor = self._compactor = Compactor(self.replicator, compaction_settings(config))

    def _loop_age(self) -> float:
        return (self._runtime.now_ms() - self.replicator.ticked_ms) / 1000

    async def start(self) -> None:
        """Raises CannotStart when a port is taken."""
        try:
            await self.dimse.start()
            await self.http.start()
            self.replicator.settings = replace(
                self.replicator.settings,
                dicom_port=self.dimse.port,
                http_port=self.http.port,
                evicts=lambda: self._evictor.evicts,
            )
            await self.replicator.start()
            self._evictor.start()
        except OSError as error:
            raise CannotStart(f"a port cannot be opened: {error}; see [dimse], [http] and [peer] port") from error
        self._watchdog.start()
        self.replicator.spawn(self._standing.keep())
        self._register.start()
        self._scrubber.start()
        self._compactor.start()
        ports = {"dicom": self.dimse.port, "http": self.http.port, "peer": self.replicator.network.port}
        _LOG.info("the node runs", extra={"node": self.replicator.me.id, **ports})
        if self.replicator.settings.refusal:
            _LOG.warning("every C-STORE will be refused", extra={"reason": self.replicator.settings.refusal})

    async def stop(self) -> None:
        """The leader hands over first; then associations finish or are released; then everything is closed."""
        _LOG.info("the node stops")
        self._stopping = True
        await self.replicator.hand_over(HAND_OVER_S)
        await self.dimse.drain(DRAIN_S)
        self._watchdog.stop()
        self._renewal.cancel()
        await self.replicator.close()
        await asyncio.to_thread(self._scrubber.close)
        await asyncio.to_thread(self._compactor.close)
        await self.dimse.close()
        await self.http.close()
        self.index.close()
        self._promise.close()
        self.log.close()
        _LOG.info("the node stopped")

    # What the HTTP port shows

    def statistics(self) -> ReplicatorStatistics:
        scrub, age_s = self._scrubber.report(), self._watchdog.age_s
        return statistics(self.replicator, self._register, data_path_seconds=age_s, scrub=scrub)

    def metrics(self) -> bytes:
        return self._metrics.render()

    @property
    def exported(self) -> Metrics:
        """Everything that this node exports: docs/metrics.md is written from it."""
        return self._metrics

    def why_not_live(self) -> str | None:
        if self._loop_age() > 5:
            return "the event loop does not turn"
        if self._watchdog.age_s > max(5.0, self._config.coordination.session_timeout_ms / 1000):
            return "the disk does not answer"
        return None

    def why_not_ready(self) -> str | None:
        if self._stopping:
            return "the node stops"  # open associations are still served, but nobody new gets in
        why = self.replicator.refusal()
        return why or (None if self.replicator.core.situation.admitted else "not yet admitted to the cluster")

    def is_leader(self) -> bool:
        leadership = self.replicator.core.leadership
        return leadership is not None and leadership.phase is Phase.ACTIVE

    def why_not_replica(self, most: int | None) -> str | None:
        return "the node stops" if self._stopping else why_not_replica(self.replicator, most)

    async def read_instance(self, sop_instance_uid: str) -> InstanceBytes:
        return await self.replicator.lookups.read(sop_instance_uid)

    async def list_instances(self, where: Selection) -> dict[str, object]:
        indexed, holes = self.index.applied.sequence, sorted(self.index.holes)
        found = await asyncio.to_thread(self.index.select, where)
        committed = self.replicator.core.situation.committed.sequence
        return listing.page(where, found, indexed=indexed, committed=committed, holes=holes)

    def _surveyed(self) -> dict[str, object]:
        """What only the disk knows. lost_and_found is counted anew: an operator may have taken files away."""
        saved = len(self._disk.list("lost+found")) if self._disk.exists("lost+found") else 0
        return {
            "instances": self.index.count_instances(),
            "conflicts": list(self.index.conflicts()),
            "conflict_count": self.index.count_conflicts(),
            "lost_and_found": saved,
        }

    async def standing(self) -> dict[str, object]:
        return await self._standing.document()

    async def status(self) -> dict[str, object]:
        """What `perenne status` shows."""
        surveyed = await asyncio.to_thread(self._surveyed)
        s = self.statistics()
        facts: dict[str, object] = {
            "node": s.node_id,
            "cluster": s.cluster_id,
            "role": role(self.replicator).value,
            "leader": s.leader,
            "epoch": s.epoch,
            "in_sync": list(s.in_sync),
            "copies_required": s.copies_required,
            "positions": {
                "end": s.end.sequence,
                "durable": s.durable.sequence,
                "committed": s.committed.sequence,
                "indexed": self.index.applied.sequence,
                "epoch": s.end.epoch,
                "chain": s.end.chain.hex(),
            },
            "lags": [
                {
                    "replica": lag.replica,
                    "in_sync": lag.in_sync,
                    "connected": lag.connected,
                    "records": lag.records,
                    "bytes": lag.bytes,
                    "seconds": lag.seconds,
                    "blocked_at": lag.blocked_at,
                }
                for lag in s.lags
            ],
            "tier": asdict(s.tier) if s.tier is not None else None,
            "capacity": asdict(s.capacity) | self._evictor.report(),
            **surveyed,
            "scrub": asdict(s.scrub),
            "compaction": asdict(s.compaction),
            "disk": {
                "free_bytes": self._disk.free_bytes(),
                "damaged_records": s.damaged_records,
                "damaged": self.log.damaged()[:100],
            },
            "refusal": self.why_not_ready(),
            "frozen": s.frozen,
            "not_standing": s.not_standing,
            "fenced": self.replicator.core.situation.fenced,
            "coordination": {"connected": s.coordination_connected, "fresh_seconds": s.coordination_fresh_seconds},
            "ae_title": self._config.dimse.ae_title,
            "ports": {"dicom": self.dimse.port, "http": self.http.port, "peer": self.replicator.network.port},
            "version": VERSION,
        }
        health, reasons = judge(facts)
        return {**facts, "health": health, "reasons": reasons}


def tier_store(config: Config) -> BlockingStore:
    """The store of the `[tier]` section. Raises CannotStart."""
    try:
        return blocking_store(config.tier, os.environ)
    except TierError as error:
        raise CannotStart(f"the tier: {error}") from error


def _replicator_settings(
    config: Config, me: Identity, cluster: ClusterRecord, *, host_rebooted: bool
) -> ReplicatorSettings:
    core = Settings(
        identity=me,
        copies_required=config.copies_required,
        allow_solo=config.cluster.allow_solo,
        session_timeout_ms=config.coordination.session_timeout_ms,
        stall_timeout_ms=config.peer.stall_timeout_ms,
        conflict_policy=ConflictPolicy(config.cluster.conflict_policy),
        host_rebooted=host_rebooted,
        tier_mode=TierMode(config.tier.mode) if config.tier.on else TierMode.OFF,
        tier_pack_bytes_per_s=config.tier.pack_rate_bytes,
    )
    host = config.peer.advertise_host or config.peer.host
    return ReplicatorSettings(
        core=core,
        cluster=cluster,
        acknowledge_timeout_ms=config.cluster.acknowledge_timeout_ms,
        peer_host=config.peer.host,
        peer_port=config.peer.port,
        advertise_host=socket.gethostname() if host == "0.0.0.0" else host,
        dicom_port=config.dimse.port,
        http_port=config.http.port,
        ae_title=config.dimse.ae_title,
        version=VERSION,
        two_person=config.retention.approval == TWO_PERSON,
        refusal=ALONE if config.standalone and not config.cluster.allow_solo and not config.tier.on else "",
    )


def void(_: object) -> None:
    """Drop a handle that nobody needs."""
