"""What a node's work took, from the parts that measure it (`replication.api.WorkReport`)."""

from replication.api import WorkReport
from replication.core.values import TIER, ReplicaId
from replication.register import Register
from replication.replicator import Replicator
from replication.tier.measured import OPERATIONS, MeasuredStore
from replication.troubles import UNREACHABLE
from storage.timing import TimingReport

LOCAL, FSYNC = "local", "fsync"
_TIER = "tier"


def work(replicator: Replicator, register: Register, tier: MeasuredStore | None) -> WorkReport:
    """tier: what its operations go through; None where there is none, and all of them are 0."""
    others = register.connected()
    done = tier.report() if tier is not None else {name: (TimingReport(), 0) for name in OPERATIONS}
    group, troubles = replicator.group, replicator.troubles
    counts: dict[tuple[ReplicaId, str], int] = {}
    for replica in others:
        found = troubles.of(replica) | {UNREACHABLE: replicator.network.unanswered[replica]}
        counts |= {(replica, reason): count for reason, count in found.items()}
    confirmed = {replica: troubles.confirmed.get(replica, 0.0) for replica in others}
    if replicator.tiering is not None:
        confirmed[TIER] = replicator.tiering.answered
    return WorkReport(
        stages=replicator.stages.report(),
        failover=replicator.failovers.report(),
        operations={(LOCAL, FSYNC): group.fsync.report()} | {(_TIER, name): one[0] for name, one in done.items()},
        operation_errors={(LOCAL, FSYNC): group.failures} | {(_TIER, name): one[1] for name, one in done.items()},
        troubles=counts,
        confirmed=confirmed,
    )
