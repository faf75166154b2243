"""A node's exposition without a node: its metrics over a snapshot that was made up."""

from pathlib import Path

from monitoring.certificates import CertificateMetrics
from monitoring.drill import DrillMetrics
from monitoring.metrics import Metrics
from monitoring.room import RoomMetrics
from replication.api import (
    CapacityReport,
    CompactionReport,
    ReplicaLag,
    ReplicatorStatistics,
    Role,
    ScrubReport,
    WorkReport,
)
from replication.core.values import Phase, ReplicaId
from replication.failover import PHASES
from replication.tier.measured import OPERATIONS
from replication.troubles import REASONS
from storage.position import GENESIS
from storage.timing import TimingReport

LAG = ReplicaLag(ReplicaId("n2"), in_sync=True, connected=True, records=3, committed=2, bytes=300, seconds=1.5)

WORK = WorkReport(
    stages={stage: TimingReport() for stage in ("local_fsync", "peer_ack", "tier_put", "commit")},
    failover={phase: TimingReport() for phase in PHASES},
    operations={("local", "fsync"): TimingReport()} | {("tier", name): TimingReport() for name in OPERATIONS},
    operation_errors={("local", "fsync"): 0} | {("tier", name): 0 for name in OPERATIONS},
    troubles={(LAG.replica, reason): 0 for reason in REASONS},
    confirmed={LAG.replica: 1.0},
)


def snapshot() -> ReplicatorStatistics:
    """A leader with one follower and no tier."""
    return ReplicatorStatistics(
        cluster_id="c",
        node_id=ReplicaId("n1"),
        incarnation="i",
        boot="b",
        role=Role.LEADER,
        leader=ReplicaId("n1"),
        epoch=1,
        phase=Phase.ACTIVE,
        promise=1,
        in_sync=(ReplicaId("n1"), ReplicaId("n2")),
        copies_required=2,
        end=GENESIS,
        durable=GENESIS,
        committed=GENESIS,
        indexed=0,
        floor=GENESIS,
        tier=None,
        lags=(LAG,),
        registered=2,
        connected={ReplicaId("n2"): True},
        uncommitted_records=0,
        uncommitted_bytes=0,
        oldest_uncommitted_seconds=0.0,
        under_replicated_records=0,
        coordination_connected=True,
        coordination_fresh_seconds=0.0,
        coordination_changes=1,
        leader_changes=1,
        refusal=None,
        frozen=None,
        not_standing=None,
        data_path_seconds=0.0,
        stored=0,
        duplicates=0,
        conflicts=0,
        stored_bytes=0,
        damaged_records=0,
        lost_and_found=0,
        strangers=0,
        compaction=CompactionReport(instances=3, bytes=90_000, left=1),
        scrub=ScrubReport(),
        capacity=CapacityReport(1, 1, 0, 0, None, None),
        work=WORK,
    )


def metrics(directory: Path, *titles: str) -> Metrics:
    """With every collector that a node registers, and a certificate."""
    made = Metrics(snapshot, version="0", titles=titles)
    made.registry.register(CertificateMetrics(lambda: {"peer": 1.0}, lambda: {"peer": 2.0}))
    made.registry.register(DrillMetrics(directory / "drill.json"))
    made.registry.register(RoomMetrics(directory))
    return made
