"""The composition root: builds every part of one node, starts and stops them in order. Only this file constructs."""

import asyncio
import gc
import logging
import os
import secrets
import signal
from dataclasses import replace
from errno import EMFILE
from typing import Final

import uvloop

from monitoring.http import HttpServer
from perenne import logs
from perenne.config import Config
from perenne.config_replication import replicator_settings
from perenne.config_tier import blocking_store, eviction, no_second_copy, patient_store
from perenne.config_tls import door, keyrings, zookeeper_access
from perenne.dimse.server import DimseServer
from perenne.doors import log_doors
from perenne.housekeeping import compaction_settings, scrub_settings
from perenne.joining import CannotStart, alone, identified, this_boot
from perenne.limits import raise_descriptor_limit
from perenne.metering import metered
from perenne.notify import notified
from perenne.shown import Parts, Shown, loop_age
from perenne.standing import StandingReport
from perenne.tls import TlsUnusable
from replication.compacting import Compactor
from replication.coordination.port import (
    ClusterRecord,
    Coordination,
)
from replication.coordination.standalone import FileCoordination
from replication.coordination.zookeeper import ZooKeeperCoordination
from replication.core import events as ev
from replication.core.values import Identity, ReplicaId
from replication.evicting import Evictor
from replication.opening import open_store
from replication.register import Register
from replication.replicator import Replicator
from replication.runtime import ThreadRuntime
from replication.scrubber import Scrubber
from replication.tier.claims import ClaimedStore, Claims
from replication.tier.manifest import proved_for
from replication.tier.measured import MeasuredStore
from replication.tier.port import BlockingStore, ObjectStore, TierError
from replication.watchdog import Watchdog
from storage.dataset import scan
from storage.disk import Disk, RealDisk
from storage.errors import StorageError
from storage.index import Index
from storage.log import LogIdentity
from storage.metadata import NodeIdentity
from storage.staging import StagingArea

_LOG: Final = logging.getLogger("perenne.node")
DRAIN_S: Final = 15.0
GC_THRESHOLDS: Final = (20_000, 20, 50)
HAND_OVER_S: Final = 6.0


def run(config: Config) -> int:
    """Run a node until SIGTERM or SIGINT; return the exit code."""
    logs.configure(config.log.level, config.log.format)
    _LOG.info("open files allowed", extra={"descriptors": raise_descriptor_limit()})
    log_doors(config)
    if why := no_second_copy(config):
        _LOG.warning("the tier is no second copy; is it mounted?", extra={"reason": why})
    try:
        uvloop.run(_serve(config))
    except CannotStart as error:
        _LOG.critical("the node cannot start", extra={"reason": str(error)})
        return 1
    except PermissionError as error:
        why = f"{error}: whatever lies in [node] data_dir must belong to the user that the node runs as"
        _LOG.critical("the node cannot start", extra={"reason": why})
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
    tier = MeasuredStore(patient_store(config.tier, tier_store(config))) if config.tier.on else None
    identity, cluster = await identified(config, disk, tier, stopping)
    if identity is None or not (config.standalone or await alone(config, stopping)):
        return
    claims = Claims(disk, tier, cluster) if tier is not None and config.standalone else None
    coordination: Coordination = (
        FileCoordination(disk, claims)
        if config.standalone
        else ZooKeeperCoordination(
            config.coordination.zookeeper,
            session_timeout_ms=config.coordination.session_timeout_ms,
            access=zookeeper_access(config),
        )
    )
    node = Node(config, disk, coordination, identity, cluster, tier, claims)
    node.replicator.operations.when_retired = lambda why: end_retired(why, stopping)
    try:
        await node.start()
        # What was built until here stays: the collector need not walk it again and again (5 to 10 % of the rate).
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        async with notified(node.shown.why_not_live):
            await stopping.wait()
    finally:
        await node.stop()


def end_retired(why: str, stopping: asyncio.Event) -> None:
    """With exit code 0: a supervisor that restarts what failed has nothing to restart."""
    if not stopping.is_set():
        _LOG.critical("this node does not take part any more, and ends", extra={"reason": why})
    stopping.set()


class Node:
    """One node with everything in it. exported: everything that its metrics say; docs/metrics.md is written from it."""

    def __init__(
        self,
        config: Config,
        disk: Disk,
        coordination: Coordination,
        identity: NodeIdentity,
        cluster: ClusterRecord,
        tier: MeasuredStore | None,
        claims: Claims | None = None,
    ) -> None:
        self._runtime, machine = ThreadRuntime(), this_boot()
        try:
            store = open_store(
                disk,
                LogIdentity(cluster.cluster_id, cluster.segment_bytes),
                host_boot=machine,
                direct=config.storage.direct_io,
                spares=config.storage.spare_segments,
            )
        except (StorageError, OSError) as error:
            more = "; allow more open files (LimitNOFILE, ulimit -n)" if getattr(error, "errno", 0) == EMFILE else ""
            raise CannotStart(f"{config.node.data_dir}: {error}{more}") from error
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
            replicator_settings(config, me, cluster, host_rebooted=store.host_rebooted, machine=machine),
            disk=disk,
            log=self.log,
            promise=self._promise,
            index=self.index,
            staging=self.staging,
            coordination=coordination,
            new_id=lambda: secrets.token_hex(8),
            runtime=self._runtime,
            tier=fenced(tier, coordination, claims),
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
            loop_age=lambda: loop_age(self.replicator),
            # Room for what the log thread may be zeroing now and for the segment after it: refuse before it is full.
            reserve_bytes=max(config.storage.reserve_bytes, 2 * cluster.segment_bytes),
        )
        self._scrubber = Scrubber(self.replicator, disk, scrub_settings(config))
        parts = Parts(
            config=config,
            disk=disk,
            replicator=self.replicator,
            register=self._register,
            watchdog=self._watchdog,
            scrubber=self._scrubber,
            evictor=self._evictor,
            standing=self._standing,
            tier=tier,
            unclaimed=lambda: coordination.unclaimed if isinstance(coordination, FileCoordination) else None,
        )
        self.exported = metered(parts, self._keyrings)
        self.shown = Shown(parts, self.exported, self._ports)
        self.dimse = DimseServer(
            config.dimse_settings(),
            self.replicator,
            self.staging,
            scan,
            self.exported,
            door(self._keyrings.dicom),
        )
        self.http = HttpServer(
            self.shown,
            host=config.http.host,
            port=config.http.port,
            secure=self._keyrings.http.lasting() if self._keyrings.http is not None else None,
            token=self._keyrings.shown,
            open_metrics=config.http.open_metrics,
            requests=self.exported.requests,
        )
        self._renewal = asyncio.ensure_future(self._keyrings.renew())
        self.replicator.compactor = self._compactor = Compactor(self.replicator, compaction_settings(config))

    def _ports(self) -> dict[str, int]:
        return {"dicom": self.dimse.port, "http": self.http.port, "peer": self.replicator.network.port}

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
        _LOG.info("the node runs", extra={"node": self.replicator.me.id, **self._ports()})
        if self.replicator.settings.refusal:
            _LOG.warning("every C-STORE will be refused", extra={"reason": self.replicator.settings.refusal})

    async def stop(self) -> None:
        """The leader hands over first; then associations finish or are released; then everything is closed."""
        _LOG.info("the node stops")
        self.shown.stopping = True
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


def fenced(tier: MeasuredStore | None, coordination: Coordination, claims: Claims | None) -> ObjectStore | None:
    """The tier as replication may use it: a standalone node leaves the log there alone until it has claimed it."""
    if tier is None or claims is None or not isinstance(coordination, FileCoordination):
        return tier
    return ClaimedStore(tier, claims, coordination.claimed)


def tier_store(config: Config) -> BlockingStore:
    """The store of the `[tier]` section. Raises CannotStart."""
    try:
        return blocking_store(config.tier, os.environ)
    except TierError as error:
        raise CannotStart(f"the tier: {error}") from error


def void(_: object) -> None:
    """Drop a handle that nobody needs."""
