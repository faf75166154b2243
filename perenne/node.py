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

from monitoring.health import judge
from monitoring.http import HttpServer
from monitoring.metrics import Metrics
from perenne import VERSION, logs
from perenne.config import Config
from perenne.config_tier import blocking_store, eviction, patient_store
from perenne.dimse.server import DimseServer
from perenne.limits import raise_descriptor_limit
from replication.api import InstanceBytes, ReplicatorStatistics
from replication.coordination.port import (
    ClusterRecord,
    Coordination,
    CoordinationCorrupt,
    CoordinationUnavailable,
    SessionEvent,
)
from replication.coordination.standalone import FileCoordination
from replication.coordination.zookeeper import ZooKeeperCoordination
from replication.core import events as ev
from replication.core.situation import ConflictPolicy, Settings
from replication.core.values import Identity, Phase, ReplicaId, TierMode
from replication.evicting import Evictor
from replication.opening import open_store
from replication.replicator import Replicator, ReplicatorSettings
from replication.reporting import role, statistics
from replication.runtime import ThreadRuntime
from replication.tier.port import BlockingStore, TierError
from replication.watchdog import Watchdog
from storage.dataset import scan
from storage.disk import Disk, RealDisk
from storage.errors import StorageError
from storage.index import Index
from storage.log import LogIdentity
from storage.metadata import NodeIdentity, read_identity, write_identity
from storage.staging import StagingArea

_LOG: Final = logging.getLogger("perenne.node")
DRAIN_S: Final = 15.0
ALONE: Final = "one copy only: allow_solo or ZooKeeper (with a peer or a tier)"
GC_THRESHOLDS: Final = (20_000, 20, 50)
HAND_OVER_S: Final = 6.0


class CannotStart(Exception):
    """The text says why, and what to do."""


def run(config: Config) -> int:
    """Run a node until SIGTERM or SIGINT; return the exit code."""
    logs.configure(config.log.level, config.log.format)
    _LOG.info("open files allowed", extra={"descriptors": raise_descriptor_limit()})
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
    coordination: Coordination = (
        FileCoordination(disk)
        if config.standalone
        else ZooKeeperCoordination(
            config.coordination.zookeeper, session_timeout_ms=config.coordination.session_timeout_ms
        )
    )
    identity, cluster = await _identity(config, disk, stopping)
    if identity is None:
        return
    node = Node(config, disk, coordination, identity, cluster)
    try:
        await node.start()
        # What was built until here stays: the collector need not walk it again and again (5 to 10 % of the rate).
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        await stopping.wait()
    finally:
        await node.stop()


async def _identity(config: Config, disk: Disk, stopping: asyncio.Event) -> tuple[NodeIdentity | None, ClusterRecord]:
    """Read node.json, or format the directory as a new member of the cluster that coordination knows."""
    try:
        identity = read_identity(disk)
    except StorageError as error:
        raise CannotStart(f"{config.node.data_dir}: {error}") from error
    if identity is not None and identity.node_id != config.node.id:
        raise CannotStart(
            f"{config.node.data_dir} belongs to node {identity.node_id}, not {config.node.id}:"
            " set [node] id, or give another data_dir"
        )
    segment_bytes = config.cluster.segment_bytes
    if identity is not None:
        return identity, ClusterRecord(identity.cluster_id, 1, segment_bytes)
    proposal = ClusterRecord(secrets.token_hex(8), 1, segment_bytes)
    cluster = proposal if config.standalone else await _ask_cluster(config, proposal, stopping)
    if cluster is None:
        return None, proposal
    if cluster.segment_bytes != segment_bytes:
        raise CannotStart(f"the cluster was made with segment_bytes = {cluster.segment_bytes}: set it so in [cluster]")
    identity = NodeIdentity(cluster.cluster_id, config.node.id, secrets.token_hex(8))
    try:
        write_identity(disk, identity)
    except StorageError as error:
        raise CannotStart(f"{config.node.data_dir}: {error}") from error
    _LOG.info("formatted a data directory", extra={"cluster": identity.cluster_id, "node": identity.node_id})
    return identity, cluster


async def _ask_cluster(config: Config, proposal: ClusterRecord, stopping: asyncio.Event) -> ClusterRecord | None:
    """Wait for coordination for as long as it takes; None when told to stop meanwhile."""
    settings = config.coordination
    coordination = ZooKeeperCoordination(settings.zookeeper, session_timeout_ms=settings.session_timeout_ms)
    connected = SessionWaiter()
    await coordination.start(connected)
    try:
        while not stopping.is_set():
            if not connected.event.is_set():
                _LOG.warning("waiting for ZooKeeper", extra={"zookeeper": settings.zookeeper})
            waiters = [asyncio.ensure_future(event.wait()) for event in (connected.event, stopping)]
            await asyncio.wait(waiters, timeout=5, return_when=asyncio.FIRST_COMPLETED)
            for waiter in waiters:
                waiter.cancel()
            if connected.event.is_set():
                try:
                    return await coordination.cluster(proposal)
                except CoordinationUnavailable:
                    await asyncio.sleep(0.2)
                except CoordinationCorrupt as error:
                    raise CannotStart(str(error)) from error
        return None
    finally:
        await coordination.close()


class SessionWaiter:
    """Waits for the first session."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    def session_changed(self, event: SessionEvent) -> None:
        if event is SessionEvent.CONNECTED:
            self.event.set()

    def state_changed(self) -> None: ...

    def nodes_changed(self) -> None: ...

    def operation_requested(self) -> None: ...


class Node:
    """One node with everything in it. Also what its HTTP port shows."""

    def __init__(
        self, config: Config, disk: Disk, coordination: Coordination, identity: NodeIdentity, cluster: ClusterRecord
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
        self._tier = patient_store(config.tier, tier_store(config)) if config.uses_tier else None
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
            spool=config.node.data_dir / "staging",
        )
        self._evictor = Evictor(self.replicator, eviction(config), self._tier)
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
        self._metrics = Metrics(self.statistics, version=VERSION)
        self.dimse = DimseServer(config.dimse_settings(), self.replicator, self.staging, scan, self._metrics)
        self.http = HttpServer(self, host=config.http.host, port=config.http.port)

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
        ports = {"dicom": self.dimse.port, "http": self.http.port, "peer": self.replicator.network.port}
        _LOG.info("the node runs", extra={"node": self.replicator.me.id, **ports})
        if self._config.tier.on and not self._config.uses_tier:
            _LOG.warning("the tier is not used: a node without ZooKeeper does not do so yet")
        if self.replicator.settings.refusal:
            _LOG.warning("every C-STORE will be refused", extra={"reason": self.replicator.settings.refusal})

    async def stop(self) -> None:
        """The leader hands over first; then associations finish or are released; then everything is closed."""
        _LOG.info("the node stops")
        self._stopping = True
        await self.replicator.hand_over(HAND_OVER_S)
        await self.dimse.drain(DRAIN_S)
        self._watchdog.stop()
        await self.replicator.close()
        await self.dimse.close()
        await self.http.close()
        self.index.close()
        self._promise.close()
        self.log.close()
        _LOG.info("the node stopped")

    # What the HTTP port shows

    def statistics(self) -> ReplicatorStatistics:
        return statistics(self.replicator, data_path_seconds=self._watchdog.age_s)

    def metrics(self) -> bytes:
        return self._metrics.render()

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

    async def read_instance(self, sop_instance_uid: str) -> InstanceBytes:
        return await self.replicator.lookups.read(sop_instance_uid)

    def _surveyed(self) -> dict[str, object]:
        """What only the disk knows. lost_and_found is counted anew: an operator may have taken files away."""
        saved = len(self._disk.list("lost+found")) if self._disk.exists("lost+found") else 0
        return {
            "instances": self.index.count_instances(),
            "conflicts": list(self.index.conflicts()),
            "conflict_count": self.index.count_conflicts(),
            "lost_and_found": saved,
        }

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
                    "records": lag.records,
                    "seconds": lag.seconds,
                    "blocked_at": lag.blocked_at,
                }
                for lag in s.lags
            ],
            "tier": asdict(s.tier) if s.tier is not None else None,
            "capacity": asdict(s.capacity) | self._evictor.report(),
            **surveyed,
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
        tier_mode=TierMode(config.tier.mode) if config.uses_tier else TierMode.OFF,
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
        refusal="" if not config.standalone or config.cluster.allow_solo else ALONE,
    )


def void(_: object) -> None:
    """Drop a handle that nobody needs."""
