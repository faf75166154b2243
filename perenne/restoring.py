"""A restore from its configuration to its report: the tier, the directory, the coordination service, in this order."""

import asyncio
import os
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from perenne.belonging import given_back
from perenne.config import Config, TierConfig
from perenne.config_tier import blocking_store
from perenne.config_tls import zookeeper_access
from replication.coordination.port import ClusterRecord, CoordinationCorrupt, CoordinationUnavailable, NodeRetired
from replication.coordination.restoring import FileRebuilding, Rebuilding, Seen, ZooKeeperRebuilding, told
from replication.coordination.standalone import FileCoordination
from replication.core.values import CasOutcome, Member, ReplicaId
from replication.restore.engine import Engine, Progress, Until
from replication.restore.filling import PAST, Filling, Marker, NotEmpty, judged
from replication.restore.report import Report
from replication.restore.segments import Hands
from replication.restore.state import lacking, restored_state, written_already
from replication.tier.claims import Claims
from replication.tier.keys import CLAIM, LOG, MARKER, parse_marker, parse_run
from replication.tier.manifest import cluster_of
from replication.tier.port import ObjectStore
from replication.tier.retrying import Patience, RetryingStore
from replication.tier.tip import highest_epoch
from storage.position import LogPoint

NODE: Final = "node"
CLUSTER: Final = "cluster"
PATIENCE_S: Final = 60.0
"""A restore has time: a tier that answers slowly is waited for."""
UNFENCED: Final = (
    "no standalone node has used this tier before: if it is that of a cluster with ZooKeeper, nothing here knows"
    " whether its nodes run. They must not, from now on: what they acknowledge would be lost"
)
GONE_S: Final = 30.0
"""How long a killed node may still be listed as running, until its session has expired."""


class Unusable(Exception):
    """What was asked for cannot be done as things are. The text says why, and what to do; nothing was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the operator asked for. kind: NODE, CLUSTER or PAST. to: the directory.

    replace_state: the change counter of the state that may be overwritten. cluster_id: where nothing else knows it.
    """

    kind: str
    to: Path
    until: Until = Until()
    until_text: str = ""
    replace_state: int | None = None
    accept_loss: bool = False
    keep_beyond: bool = True
    cluster_id: str = ""


def patient(config: Config) -> RetryingStore:
    """The tier of the configuration, with threads of its own. Raises Refused."""
    return patient_with(config.tier)


def patient_with(tier: TierConfig) -> RetryingStore:
    """The same of its section alone. Raises Refused."""
    blocking = blocking_store(tier, os.environ)
    pool = ThreadPoolExecutor(tier.connections, "perenne-tier")
    return RetryingStore(blocking, pool, Patience(give_up_s=max(PATIENCE_S, tier.give_up_ms / 1000)))


def source_of(config: Config) -> str:
    """Where the tier is, for people: no secrets."""
    tier = config.tier
    return str(tier.directory) if tier.kind == "directory" else f"{tier.endpoint}/{tier.bucket}/{tier.prefix}"


class Restoring:
    """One restore. Raises Unusable before it changes anything; TierError, StorageError and CoordinationUnavailable when
    it must stop: run again, it goes on.
    """

    def __init__(
        self, config: Config, wish: Wish, store: ObjectStore, progress: Progress, hands: Hands | None = None
    ) -> None:
        self._config = config
        self._hands = hands
        self._wish = wish
        self._store = store
        self._progress = progress
        self._service: Rebuilding | None = None
        self._claimed = 0
        """The epoch of this restore's own claim, where there are claims."""

    async def run(self) -> Report:
        try:
            seen = await self._look()
            cluster, note = await self._identity(seen)
            filling = self._begin(cluster)
            try:
                self._may_install(seen, filling)
                unfenced = await self._claim(filling, cluster)
                engine = Engine(
                    self._store,
                    filling,
                    self._wish.until,
                    self._progress,
                    keep_beyond=self._wish.keep_beyond,
                    hands=self._hands,
                )
                report = await engine.run()
                report.notes.extend(filter(None, (note, unfenced)))
                await self._finish(report, filling, cluster)
            finally:
                filling.close()
                given_back(self._wish.to)  # before a node may have it
            if report.finished and self._wish.kind != PAST:
                filling.release()
            return report
        finally:
            if self._service is not None:
                await self._service.close()

    async def judge(self) -> None:
        """All that `run` may refuse before it changes anything, in the same order; and nothing is changed. A node that
        runs is not waited for. Raises Unusable, LogLocked, and what makes `run` stop.
        """
        try:
            seen = await self._look(patience_s=0)
            cluster, _ = await self._identity(seen)
            try:
                begun = judged(self._wish.to, self._marker(cluster))
            except NotEmpty as error:
                raise Unusable(str(error)) from error
            if why := self._state_in_the_way(seen, begun, None):
                raise Unusable(why)
        finally:
            if self._service is not None:
                await self._service.close()

    # Before anything is changed

    async def _look(self, patience_s: float = GONE_S) -> Seen:
        """What the coordination service holds. A standalone node's state lies in the directory, which is new."""
        if self._wish.kind == PAST or self._config.standalone:
            return Seen()
        settings = self._config.coordination
        service = await ZooKeeperRebuilding.connected(
            settings.zookeeper, session_timeout_ms=settings.session_timeout_ms, access=zookeeper_access(self._config)
        )
        self._service = service
        try:
            return await service.see() if self._wish.kind == NODE else await self._nobody_runs(service, patience_s)
        except CoordinationCorrupt as error:
            raise Unusable(f"ZooKeeper holds what cannot be read: {error}") from error

    async def _nobody_runs(self, service: Rebuilding, patience_s: float = GONE_S) -> Seen:
        """A node that was killed is listed until its session expires: wait for that."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience_s
        while True:
            seen = await service.see()
            if seen.leader is None and not seen.live:
                return seen
            if loop.time() >= deadline:
                running = ", ".join(seen.live) or (seen.leader.id if seen.leader is not None else "")
                raise Unusable(
                    f"nodes of this cluster run: {running}. They may hold what the tier lacks: --cluster is for when"
                    " all of them are lost. For one node: the same without --cluster. Else stop them; one that was"
                    " killed is listed until its session has expired"
                )
            await asyncio.sleep(0.25)

    async def _identity(self, seen: Seen) -> tuple[ClusterRecord, str]:
        """Which cluster this is. Raises Unusable when what knows of it contradicts."""
        wish, settings = self._wish, self._config.cluster
        known = await cluster_of(self._store)
        if known is not None and seen.cluster is not None and known != seen.cluster:
            raise Unusable(
                f"the tier belongs to cluster {known.cluster_id} with segment_bytes = {known.segment_bytes}, ZooKeeper"
                f" knows cluster {seen.cluster.cluster_id} with {seen.cluster.segment_bytes}: check [tier] and"
                " [coordination]"
            )
        cluster, note = known or seen.cluster, ""
        if cluster is None:
            cluster = ClusterRecord(wish.cluster_id or secrets.token_hex(8), 1, settings.segment_bytes)
            if not wish.cluster_id:
                note = f"nothing says which cluster this was: it is called {cluster.cluster_id} from now on"
        if wish.cluster_id and cluster.cluster_id != wish.cluster_id:
            raise Unusable(f"this is cluster {cluster.cluster_id}: leave --cluster-id out")
        if wish.kind != PAST and cluster.segment_bytes != settings.segment_bytes:
            raise Unusable(f"the cluster has segment_bytes = {cluster.segment_bytes}: set it so in [cluster]")
        if wish.kind == NODE and seen.cluster is None:
            raise Unusable("ZooKeeper knows of no cluster that this node could join; the whole cluster: --cluster")
        return cluster, note

    def _marker(self, cluster: ClusterRecord) -> Marker:
        node = "" if self._wish.kind == PAST else self._config.node.id
        return Marker(
            self._wish.kind, source_of(self._config), cluster.cluster_id, cluster.segment_bytes, node,
            until=self._wish.until_text,
        )  # fmt: skip

    def _begin(self, cluster: ClusterRecord) -> Filling:
        try:
            return Filling.begin(self._wish.to, self._marker(cluster))
        except NotEmpty as error:
            raise Unusable(str(error)) from error

    def _may_install(self, seen: Seen, filling: Filling) -> None:
        """Refuse early what would be refused at the end."""
        if why := self._state_in_the_way(seen, filling.marker, filling.end):
            filling.close()
            if not filling.resumed:
                filling.forget()
            raise Unusable(why)

    def _state_in_the_way(self, seen: Seen, marker: Marker | None, end: LogPoint | None) -> str:
        """marker: of what was begun; end: of its log, where it was opened. Empty where the state may be written."""
        if self._wish.kind != CLUSTER or seen.state is None:
            return ""
        if marker is not None and written_already(seen, Member(ReplicaId(marker.node_id), marker.incarnation), end):
            return ""
        counter = seen.state.state.change.counter
        if self._wish.replace_state == counter:
            return ""
        return (
            f"ZooKeeper holds {told(seen)}. If every one of these is lost, name what is to be overwritten:"
            f" --replace-state {counter}"
        )

    async def _claim(self, filling: Filling, cluster: ClusterRecord) -> str:
        """Of a standalone node, or out of the tier of one: an old one that still runs acknowledges nothing from here
        on, before we look what there is. Returns what an operator should know of it. Raises TierError, StorageError,
        CoordinationUnavailable.
        """
        if self._wish.kind != CLUSTER:
            return ""
        fenced = [key async for key in self._store.list(CLAIM)]
        if not fenced and not self._config.standalone:
            return ""  # a cluster's: ZooKeeper fences it
        claims = Claims(filling.disk, self._store, cluster)
        self._claimed = await claims.adopt() + 1
        try:
            await claims.hold(self._claimed, secrets.token_hex(8))
        except NodeRetired as error:
            raise Unusable(f"somebody else began to use this tier just now: {error}") from error
        return "" if fenced else UNFENCED

    # At the end

    async def _finish(self, report: Report, filling: Filling, cluster: ClusterRecord) -> None:
        wish = self._wish
        if report.end.sequence == 0:
            report.notes.append(self._nothing(report))
            return
        if wish.until.sequence is not None and report.complete and report.end.sequence < wish.until.sequence:
            report.notes.append(
                f"the log has no record {wish.until.sequence}: it ends at {report.end.sequence}, and all of it is here"
            )
        if wish.kind == PAST:
            filling.settled(None)
            filling.mark_done()
            report.finished = True
        elif wish.kind == NODE:
            filling.settled(None)
            report.finished = True
            report.notes.append("Start the node: whatever it lacks comes from the others.")
        else:
            await self._finish_cluster(report, filling, cluster)

    def _nothing(self, report: Report) -> str:
        if self._wish.until.time_us is not None and report.complete and report.tip.sequence:
            return f"nothing was restored: nothing had been stored by {self._wish.until_text}"
        if report.damaged or report.kept:
            return (
                "nothing was restored: without the objects named above no log begins. Bring them back (another copy of"
                " the bucket, old versions of its objects). If there is none: begin a new archive with an empty tier,"
                " and send it what is whole, `perenne lost-found resubmit` (docs/recovery.md)"
            )
        return "nothing was restored: the tier holds no log from its beginning. Check [tier]"

    async def _finish_cluster(self, report: Report, filling: Filling, cluster: ClusterRecord) -> None:
        service = self._service or FileRebuilding(FileCoordination(filling.disk))
        seen = await self._nobody_runs(service)
        member = Member(ReplicaId(filling.marker.node_id), filling.marker.incarnation)
        if not written_already(seen, member, filling.end):
            report.lacking = lacking(seen, filling.log.point_at, filling.end)
            if not report.complete and not self._wish.accept_loss:
                report.notes.append(
                    "The cluster was not brought back, since something is missing. Bring the missing objects or disks"
                    " back and run this again; or accept the loss: the same command with --accept-loss"
                )
                return
            await self._install(service, report, filling, cluster, seen)
        else:
            report.written_state = f"the restored state was written before: {told(seen)}"
        report.finished = True
        peers = " Then give it peers: empty nodes that join by themselves." if self._service is not None else ""
        report.notes.append(f"Start the node: it leads.{peers}")

    async def _install(
        self, service: Rebuilding, report: Report, filling: Filling, cluster: ClusterRecord, seen: Seen
    ) -> None:
        if seen.state is not None and self._wish.replace_state != seen.state.state.change.counter:
            raise Unusable(f"meanwhile somebody wrote {told(seen)}: look into it, and run this again")
        runs = [run async for key in self._store.list(LOG) if (run := parse_run(key)) is not None]
        markers = [mark async for key in self._store.list(MARKER) if (mark := parse_marker(key)) is not None]
        marker = filling.marker
        state = restored_state(
            seen,
            Member(ReplicaId(marker.node_id), marker.incarnation),
            filling.end,
            marker.source,
            bucket_epoch=max(highest_epoch(runs), self._claimed),
            bucket_counter=max((mark.counter for mark in markers), default=0),
            new_id=secrets.token_hex(8),
        )
        filling.settled(filling.end)
        outcome = await service.install(cluster, state, seen)
        if outcome is not CasOutcome.APPLIED:
            raise CoordinationUnavailable(f"the state was not written for sure ({outcome.value}): run the same again")
        where = "in the data directory" if self._config.standalone else "in ZooKeeper"
        report.written_state = (
            f"state written {where}: change {state.change.counter}, epoch {state.epoch}, in sync {marker.node_id},"
            f" restored up to record {filling.end.sequence}"
            + (f"; it replaces {told(seen)}" if seen.state is not None else "")
        )
