"""What one node shows of itself on its HTTP port: for load balancers, for Prometheus, for people."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Final

from monitoring import listing
from monitoring.health import judge
from monitoring.metrics import Metrics
from perenne import VERSION
from perenne.config import Config
from perenne.standing import StandingReport
from replication.api import InstanceBytes, ReplicatorStatistics
from replication.core.succession import why_no_failover
from replication.core.values import TIER_MEMBER, Phase
from replication.evicting import Evictor
from replication.register import Register
from replication.replicator import Replicator
from replication.reporting import role, statistics, why_not_replica
from replication.scrubber import Scrubber
from replication.tier.measured import MeasuredStore
from replication.watchdog import Watchdog
from storage.disk import Disk
from storage.index import Selection

LOOP_S: Final = 5.0
"""An event loop that has not turned for so long is stuck."""


def loop_age(replicator: Replicator) -> float:
    """Seconds since the event loop last turned."""
    return (replicator.runtime.now_ms() - replicator.ticked_ms) / 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What is looked at, as the node built it."""

    config: Config
    disk: Disk
    replicator: Replicator
    register: Register
    watchdog: Watchdog
    scrubber: Scrubber
    evictor: Evictor
    standing: StandingReport
    tier: MeasuredStore | None
    unclaimed: Callable[[], str | None]
    """Why a standalone node has not got its tier for itself, where it asked in vain."""

    def statistics(self) -> ReplicatorStatistics:
        scrub, age_s = self.scrubber.report(), self.watchdog.age_s
        return statistics(self.replicator, self.register, data_path_seconds=age_s, scrub=scrub, tier=self.tier)


class Shown:
    """Implements `monitoring.http.Watched`. ports(): by name, as far as they are open."""

    def __init__(self, parts: Parts, metrics: Metrics, ports: Callable[[], Mapping[str, int]]) -> None:
        self._parts = parts
        self._metrics = metrics
        self._ports = ports
        self._replicator = parts.replicator
        self._index = parts.replicator.index
        self.stopping = False

    def metrics(self) -> bytes:
        return self._metrics.render()

    def why_not_live(self) -> str | None:
        if loop_age(self._replicator) > LOOP_S:
            return "the event loop does not turn"
        if self._parts.watchdog.age_s > max(5.0, self._parts.config.coordination.session_timeout_ms / 1000):
            return "the disk does not answer"
        return None

    def why_not_ready(self) -> str | None:
        if self.stopping:
            return "the node stops"  # open associations are still served, but nobody new gets in
        why = self._replicator.refusal()
        return why or (None if self._replicator.core.situation.admitted else "not yet admitted to the cluster")

    def is_leader(self) -> bool:
        leadership = self._replicator.core.leadership
        return leadership is not None and leadership.phase is Phase.ACTIVE

    def why_not_replica(self, most: int | None) -> str | None:
        return "the node stops" if self.stopping else why_not_replica(self._replicator, most)

    async def read_instance(self, sop_instance_uid: str) -> InstanceBytes:
        return await self._replicator.lookups.read(sop_instance_uid)

    async def list_instances(self, where: Selection) -> dict[str, object]:
        indexed, holes = self._index.applied.sequence, sorted(self._index.holes)
        found = await asyncio.to_thread(self._index.select, where)
        committed = self._replicator.core.situation.committed.sequence
        return listing.page(where, found, indexed=indexed, committed=committed, holes=holes)

    def _surveyed(self) -> dict[str, object]:
        """What only the disk knows. lost_and_found is counted anew: an operator may have taken files away."""
        saved = len(self._parts.disk.list("lost+found")) if self._parts.disk.exists("lost+found") else 0
        return {
            "instances": self._index.count_instances(),
            "conflicts": list(self._index.conflicts()),
            "conflict_count": self._index.count_conflicts(),
            "lost_and_found": saved,
        }

    def _failover(self, s: ReplicatorStatistics) -> dict[str, object] | None:
        """Whether another node could lead; None where that is not asked: who follows, or is meant to be alone."""
        if self._parts.config.standalone or not self.is_leader() or not s.registered:
            return None
        why = why_no_failover(s.node_id, s.in_sync, tuple(s.connected), TIER_MEMBER.id)
        return {"possible": not why, "why_not": why or None}

    async def standing(self) -> dict[str, object]:
        return await self._parts.standing.document()

    async def status(self) -> dict[str, object]:
        """What `perenne status` shows."""
        surveyed = await asyncio.to_thread(self._surveyed)
        s = self._parts.statistics()
        facts: dict[str, object] = {
            "node": s.node_id,
            "cluster": s.cluster_id,
            "role": role(self._replicator).value,
            "leader": s.leader,
            "epoch": s.epoch,
            "in_sync": list(s.in_sync),
            "copies_required": s.copies_required,
            "positions": {
                "end": s.end.sequence,
                "durable": s.durable.sequence,
                "committed": s.committed.sequence,
                "indexed": self._index.applied.sequence,
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
            "capacity": asdict(s.capacity) | self._parts.evictor.report(),
            **surveyed,
            "scrub": asdict(s.scrub),
            "compaction": asdict(s.compaction),
            "disk": {
                "free_bytes": self._parts.disk.free_bytes(),
                "damaged_records": s.damaged_records,
                "damaged": self._replicator.log.damaged()[:100],
            },
            "failover": self._failover(s),
            "refusal": self.why_not_ready(),
            "frozen": s.frozen,
            "not_standing": s.not_standing or (self._parts.unclaimed() if s.leader is None else None),
            "fenced": self._replicator.core.situation.fenced,
            "coordination": {"connected": s.coordination_connected, "fresh_seconds": s.coordination_fresh_seconds},
            "ae_title": self._parts.config.dimse.ae_title,
            "ports": dict(self._ports()),
            "version": VERSION,
        }
        health, reasons = judge(facts)
        return {**facts, "health": health, "reasons": reasons}
