"""A frozen snapshot of one node's replication, for metrics, `/status` and load balancers."""

from replication.api import (
    AuditReport,
    CapacityReport,
    CompactionReport,
    PackingReport,
    ReplicatorStatistics,
    Role,
    ScrubReport,
    TierReport,
)
from replication.core.leader import Leadership
from replication.core.tierside import TierSide
from replication.core.values import TIER_MEMBER, Phase
from replication.lagging import lags, tier_lag
from replication.register import Register
from replication.replicator import Replicator
from replication.tier.measured import MeasuredStore
from replication.working import work
from storage.segment import SegmentInfo


def role(replicator: Replicator) -> Role:
    """What this node is at this moment."""
    core = replicator.core
    if core.situation.fenced:
        return Role.FENCED
    if core.leadership is not None:
        return Role.LEADER
    return Role.CANDIDATE if core.candidacy is not None else Role.FOLLOWER


def why_not_replica(replicator: Replicator, most: int | None) -> str | None:
    """Why this node is no follower that can be read from at most so many records behind; None when it is one."""
    core = replicator.core
    if core.leadership is not None:
        return "this node leads"
    if why := replicator.frozen or core.situation.fenced:
        return str(why)
    within_ms = 4 * core.situation.settings.heartbeat_ms
    return core.following.why_not_near(replicator.index.applied.sequence, most, within_ms)


def statistics(
    replicator: Replicator,
    register: Register,
    *,
    data_path_seconds: float,
    scrub: ScrubReport | None = None,
    tier: MeasuredStore | None = None,
) -> ReplicatorStatistics:
    """Read, never wait: everything here is known already. tier: what its operations go through."""
    core = replicator.core
    situation, leadership = core.situation, core.leadership
    state = situation.cluster
    now_ms = replicator.runtime.now_ms()
    others = lags(replicator, register, leadership) if leadership is not None else ()
    oldest = leadership.uncommitted[0].since_ms if leadership is not None and leadership.uncommitted else now_ms
    settings = replicator.settings
    return ReplicatorStatistics(
        cluster_id=settings.cluster.cluster_id,
        node_id=replicator.me.id,
        incarnation=replicator.me.incarnation,
        boot=replicator.me.boot,
        role=role(replicator),
        leader=core.leader,
        epoch=state.epoch if state else 0,
        phase=state.phase if state else None,
        promise=situation.promise,
        in_sync=tuple(sorted(member.id for member in state.in_sync)) if state else (),
        copies_required=settings.core.minimum_copies,
        end=situation.ledger.end,
        durable=situation.ledger.durable,
        committed=situation.committed,
        indexed=replicator.index.applied.sequence,
        floor=situation.floor,
        tier=_tier(replicator, leadership),
        capacity=_capacity(replicator, leadership),
        lags=others,
        registered=register.nodes,
        connected=register.connected(),
        uncommitted_records=max(0, situation.ledger.end.sequence - situation.told.sequence),
        uncommitted_bytes=leadership.uncommitted_bytes if leadership is not None else 0,
        oldest_uncommitted_seconds=(now_ms - oldest) / 1000,
        under_replicated_records=max((lag.committed for lag in others), default=0),
        coordination_connected=replicator.coordinator.connected,
        coordination_fresh_seconds=max(0.0, (now_ms - replicator.coordinator.fresh_since_ms) / 1000),
        coordination_changes=replicator.coordinator.changes,
        leader_changes=replicator.leader_changes,
        refusal=replicator.refusal(),
        frozen=replicator.frozen,
        not_standing=situation.not_standing if core.leader is None else None,
        data_path_seconds=data_path_seconds,
        stored=replicator.offers.counts["stored"],
        duplicates=replicator.offers.counts["duplicates"],
        conflicts=replicator.offers.counts["conflicts"],
        stored_bytes=replicator.offers.counts["stored_bytes"],
        damaged_records=len(replicator.log.damaged()),
        lost_and_found=replicator.lost_and_found,
        strangers=replicator.network.strangers,
        scrub=scrub or ScrubReport(),
        compaction=replicator.compactor.report() if replicator.compactor is not None else CompactionReport(),
        work=work(replicator, register, tier),
    )


def _tier(replicator: Replicator, leadership: Leadership | None) -> TierReport | None:
    tiering, situation = replicator.tiering, replicator.core.situation
    if tiering is None:
        return None
    state, floor = situation.cluster, situation.tier_floor
    active = leadership is not None and leadership.phase is Phase.ACTIVE
    side = leadership.tier if leadership is not None and active else None
    complete = side.complete_upto if side is not None and side.surveyed else None
    return TierReport(
        mode=situation.settings.tier_mode.value,
        in_sync=state is not None and TIER_MEMBER in state.in_sync,
        usable=side.usable if side is not None else None,
        complete_upto=complete,
        behind=max(0, situation.told.sequence - complete) if complete is not None else None,
        counted_upto=floor.point.sequence if floor is not None else 0,
        # Who follows asks nothing of it: what failed while it led says nothing about now.
        failed=tiering.failed if replicator.core.leader in (None, replicator.me.id) else None,
        puts=tiering.puts,
        put_bytes=tiering.put_bytes,
        orphans=len(side.orphans) if side is not None and side.surveyed else None,
        packing=_packing(side) if side is not None else None,
        audit=_audit(side) if side is not None else None,
        lag=tier_lag(replicator, leadership) if side is not None and leadership is not None else None,
    )


def _capacity(replicator: Replicator, leadership: Leadership | None) -> CapacityReport:
    segments = [segment for segment in replicator.log.segments() if segment.last is not None]
    here = [segment for segment in segments if not segment.evicted]
    gone = [segment for segment in segments if segment.evicted]
    side = leadership.tier if leadership is not None else None
    both: list[SegmentInfo] | None = None
    if side is not None and side.surveyed:
        both = [segment for segment in here if side.upto(segment.first) >= (segment.last or 0)]
    return CapacityReport(
        local_segments=len(here),
        local_bytes=sum(segment.bytes for segment in here),
        tier_only_segments=len(gone),
        tier_only_bytes=sum(segment.bytes for segment in gone),
        both_segments=len(both) if both is not None else None,
        both_bytes=sum(segment.bytes for segment in both) if both is not None else None,
    )


def _audit(side: TierSide) -> AuditReport | None:
    audit = side.audit
    if audit is None:
        return None
    altered = tuple(run.key for run in audit.altered)
    return AuditReport(tuple(audit.missing), altered, audit.found, audit.why)


def _packing(side: TierSide) -> PackingReport | None:
    done = side.packing
    if done is None:
        return None
    counts = (done.packed, done.deleted, done.kept, done.spoiled)
    return PackingReport(*counts, done.failed, done.outgrown, done.outgrown_kept)
