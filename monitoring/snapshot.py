"""A node's replication as metrics, read from one snapshot at each scrape.

Help texts become docs/metrics.md (`script/metrics-doc`): each says what the number is, and what it means to a person.
"""

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from monitoring.work import work_metrics
from replication.api import ReplicatorStatistics, Role

Plain = dict[str, tuple[str, float]]
"""By name: help text and value."""


class SnapshotMetrics:
    """Turns the replicator's snapshot into metrics at each scrape."""

    def __init__(self, snapshot: Callable[[], ReplicatorStatistics]) -> None:
        self._snapshot = snapshot

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        s = self._snapshot()
        yield _roles(s)
        yield from _as_gauges(_standing(s) | _positions(s) | _coordination(s) | _disk(s) | _tier(s))
        yield from _as_counters(_counted(s) | _tier_counted(s))
        yield from _others(s)
        yield from _lags(s)
        yield from _capacity(s)
        yield from _scrub(s)
        yield from _compaction(s)
        yield from work_metrics(s.work)


def _as_gauges(plain: Plain) -> Iterator[Metric]:
    for name, (text, value) in plain.items():
        yield GaugeMetricFamily(name, text, value=value)


def _as_counters(plain: Plain) -> Iterator[Metric]:
    for name, (text, value) in plain.items():
        yield CounterMetricFamily(name, text, value=value)


def _roles(s: ReplicatorStatistics) -> Metric:
    roles = GaugeMetricFamily(
        "perenne_role",
        "1 for what this node is now, 0 for the rest; in a cluster that is well exactly one node is the leader",
        labels=["role"],
    )
    for role in Role:
        roles.add_metric([role.value], float(s.role is role))
    return roles


def _standing(s: ReplicatorStatistics) -> Plain:
    return {
        "perenne_ready": (
            "1 when a C-STORE would be taken now, 0 when it would be refused; /readyz says why",
            float(s.refusal is None),
        ),
        "perenne_frozen": (
            "1 when the log contradicts what was promised and this node stopped writing for good: keep its disk",
            float(s.frozen is not None),
        ),
        "perenne_epoch": (
            "Epoch of the cluster state as last read; it grows by one with each leadership, and nodes agree on it",
            s.epoch,
        ),
        "perenne_promise_epoch": ("Highest epoch that this node has promised to serve; never falls", s.promise),
        "perenne_in_sync_replicas": (
            "Members of the in-sync set, the tier included: the copies that a new instance has when it is acknowledged",
            len(s.in_sync),
        ),
        "perenne_copies_required": (
            "Smallest in-sync set that may acknowledge; with fewer members every C-STORE is refused",
            s.copies_required,
        ),
        "perenne_nodes_registered": (
            "Nodes that are registered in ZooKeeper and not retired, whether they run or not; 0 before it was asked",
            s.registered,
        ),
        "perenne_nodes_connected": (
            "Registered nodes that this one is connected to, and itself; fewer than are registered: somebody is gone",
            1 + sum(s.connected.values()) if s.registered else 0,
        ),
    }


def _positions(s: ReplicatorStatistics) -> Plain:
    return {
        "perenne_log_end_sequence": ("Number of the last record appended to the log here", s.end.sequence),
        "perenne_log_durable_sequence": (
            "Number of the last record on stable storage here (fdatasync returned)",
            s.durable.sequence,
        ),
        "perenne_committed_sequence": (
            "Number of the last record known to be committed and durable here; its rate is that of all stores",
            s.committed.sequence,
        ),
        "perenne_indexed_sequence": (
            "Number of the last record that the index here reflects; what is above it is read through the leader",
            s.indexed,
        ),
        "perenne_uncommitted_records": ("Records at the log's end that wait for their copies", s.uncommitted_records),
        "perenne_uncommitted_bytes": ("On the leader: bytes that wait for their copies", s.uncommitted_bytes),
        "perenne_oldest_uncommitted_seconds": (
            "On the leader: age of the oldest record that waits for its copies; its sender waits as long",
            s.oldest_uncommitted_seconds,
        ),
        "perenne_under_replicated_records": (
            "On the leader: committed records that not every registered node is known to hold, those that are away "
            "included",
            s.under_replicated_records,
        ),
    }


def _coordination(s: ReplicatorStatistics) -> Plain:
    return {
        "perenne_coordination_connected": (
            "1 while this node has a ZooKeeper session; without one stores go on until a member fails",
            float(s.coordination_connected),
        ),
        "perenne_coordination_fresh_seconds": (
            "Age of the last request that ZooKeeper answered: beyond the session time-out nobody new can lead",
            s.coordination_fresh_seconds,
        ),
    }


def _disk(s: ReplicatorStatistics) -> Plain:
    return {
        "perenne_data_path_seconds": (
            "Age of the last canary write to this disk that came back: a disk that hangs shows here first",
            s.data_path_seconds,
        ),
        "perenne_damaged_records": (
            "Records here that fail their digest and were not repaired yet; above 0 for minutes wants a person",
            s.damaged_records,
        ),
        "perenne_lost_and_found_files": (
            "Files in lost+found: log ends that were cut and may hold instances; `perenne lost-found` lists them",
            s.lost_and_found,
        ),
    }


def _counted(s: ReplicatorStatistics) -> Plain:
    return {
        "perenne_stored": ("Instances that were sent to this node and committed", s.stored),
        "perenne_duplicates": ("Instances sent to this node whose very bytes were stored already", s.duplicates),
        "perenne_conflicts": (
            "Instances sent to this node with other bytes than those known under their SOP Instance UID",
            s.conflicts,
        ),
        "perenne_stored_bytes": ("Bytes of the instances that were sent to this node and committed", s.stored_bytes),
        "perenne_peer_strangers": (
            "Connections to the peer port that showed themselves as no node of this cluster, and got nothing",
            s.strangers,
        ),
        "perenne_leader_changes": ("Changes of leader that this node saw; each holds stores up", s.leader_changes),
        "perenne_coordination_changes": (
            "Changes of the cluster state in ZooKeeper that this node made, as leader or candidate",
            s.coordination_changes,
        ),
    }


def _tier(s: ReplicatorStatistics) -> Plain:
    """All 0 where there is no tier; what the leader alone knows is 0 elsewhere."""
    tier = s.tier
    packing = tier.packing if tier is not None else None
    return {
        "perenne_tier_configured": ("1 when this node has a tier, a bucket or a directory", float(tier is not None)),
        "perenne_tier_in_sync": (
            "1 when the tier is a member of the in-sync set: it counts as a copy",
            float(tier is not None and tier.in_sync),
        ),
        "perenne_tier_failed": (
            "1 when the last request of this leader to the tier failed; `perenne tier probe` names the next step",
            float(tier is not None and bool(tier.failed)),
        ),
        "perenne_tier_usable": (
            "1 on a leader whose tier answers, and so may take a lost peer's place; 0 elsewhere",
            float(tier is not None and bool(tier.usable)),
        ),
        "perenne_tier_counted_sequence": (
            "Last record for which the tier was counted as a copy, as last read from the cluster state",
            tier.counted_upto if tier is not None else 0,
        ),
        "perenne_tier_complete_sequence": (
            "On the leader: number of the last record below which the tier lacks nothing",
            (tier.complete_upto or 0) if tier is not None else 0,
        ),
        "perenne_tier_orphan_objects": (
            "On the leader: objects of dead branches in the tier; they never surface",
            (tier.orphans or 0) if tier is not None else 0,
        ),
        "perenne_tier_objects_missing": (
            "On the leader: objects that the tier has lost, and that are not back yet; looked at with each light scrub",
            len(tier.audit.missing) if tier is not None and tier.audit is not None else 0,
        ),
        "perenne_tier_objects_altered": (
            "On the leader: objects of the tier that are not as long as their records; looked at with each light scrub",
            len(tier.audit.altered) if tier is not None and tier.audit is not None else 0,
        ),
        "perenne_tier_kept_objects": (
            "On the leader: small objects that the bucket does not let go, such as by an object lock",
            packing.kept if packing is not None else 0,
        ),
        "perenne_tier_spoiled_segments": (
            "On the leader: segments that have something else under their name in the tier; wants a person at once",
            packing.spoiled if packing is not None else 0,
        ),
        "perenne_tier_outgrown_segments": (
            "On the leader: segments of which the tier has bytes that compaction took away here (docs/tier.md)",
            packing.outgrown if packing is not None else 0,
        ),
    }


def _tier_counted(s: ReplicatorStatistics) -> Plain:
    tier = s.tier
    packing = tier.packing if tier is not None else None
    return {
        "perenne_tier_puts": ("Objects that this node put into the tier", tier.puts if tier is not None else 0),
        "perenne_tier_put_bytes": (
            "Payload bytes of the records in the objects that this node put into the tier",
            tier.put_bytes if tier is not None else 0,
        ),
        "perenne_tier_objects_lost": (
            "Objects that this leader found missing in the tier although they had been there, since it leads",
            tier.audit.found if tier is not None and tier.audit is not None else 0,
        ),
        "perenne_tier_packed_segments": (
            "Sealed segments that this leader made one object of, read back and proved",
            packing.segments if packing is not None else 0,
        ),
        "perenne_tier_replaced_objects": (
            "Small objects that this leader deleted from the tier because a packed one replaced them",
            packing.replaced if packing is not None else 0,
        ),
    }


def _capacity(s: ReplicatorStatistics) -> Iterator[Metric]:
    held = s.capacity
    segments = GaugeMetricFamily(
        "perenne_segments",
        "Files of the log by where they lie; tier_only: evicted here; both: a part of local that the leader found in "
        "the tier",
        labels=["place"],
    )
    sizes = GaugeMetricFamily(
        "perenne_segment_bytes",
        "Bytes of the log's files by where they lie; local is what the archive takes on this disk",
        labels=["place"],
    )
    places = (
        ("local", held.local_segments, held.local_bytes),
        ("tier_only", held.tier_only_segments, held.tier_only_bytes),
        ("both", held.both_segments or 0, held.both_bytes or 0),
    )
    for place, count, size in places:
        segments.add_metric([place], count)
        sizes.add_metric([place], size)
    yield segments
    yield sizes


def _scrub(s: ReplicatorStatistics) -> Iterator[Metric]:
    scrub = s.scrub
    ages = GaugeMetricFamily(
        "perenne_verified_age_seconds",
        "Time since the last complete scrub of this node began: whatever is older was read again since (light: headers "
        "and chain; deep: every byte)",
        labels=["depth"],
    )
    ages.add_metric(["light"], scrub.light_age_seconds)
    ages.add_metric(["deep"], scrub.deep_age_seconds)
    yield ages
    yield from _as_gauges(
        {
            "perenne_log_differs": (
                "Replicas whose committed log differs from the one here; above 0 wants a person at once",
                len(scrub.differs),
            ),
            "perenne_log_faults": (
                "Segments here with faults that nothing can mend; above 0 wants a person at once",
                len(scrub.faults),
            ),
        }
    )
    yield from _as_counters(
        {
            "perenne_scrub_bytes": ("Bytes that the scrub read again from the medium", scrub.bytes),
            "perenne_scrub_damaged": (
                "Damaged records that the scrub found; a disk that does it again is to be replaced",
                scrub.damaged,
            ),
            "perenne_scrub_frames": ("Segments whose header, marks or table were written anew", scrub.frames),
            "perenne_repaired": (
                "Damaged records that were repaired from another node or the tier, however they were found",
                scrub.repaired,
            ),
        }
    )


def _compaction(s: ReplicatorStatistics) -> Iterator[Metric]:
    done = s.compaction
    yield from _as_counters(
        {
            "perenne_compacted_instances": ("Deleted instances whose bytes this node took away", done.instances),
            "perenne_compacted_bytes": ("Bytes that compaction freed on this node", done.bytes),
        }
    )
    yield from _as_gauges(
        {"perenne_compaction_left": ("Deleted instances that may go and are still here", done.left)},
    )


def _others(s: ReplicatorStatistics) -> Iterator[Metric]:
    connected = GaugeMetricFamily(
        "perenne_replica_connected",
        "Of each other registered node: 1 while this node has a connection to it, 0 when it is away; not once retired",
        labels=["replica"],
    )
    for replica, stands in s.connected.items():
        connected.add_metric([replica], float(stands))
    yield connected


def _lags(s: ReplicatorStatistics) -> Iterator[Metric]:
    """Series of a replica are there while this node leads: of every other registered node, and of the tier."""
    records = GaugeMetricFamily(
        "perenne_replica_lag_records",
        "On the leader, of each other registered node and the tier: records that it is not known to hold. Of one that "
        "is away: after what it confirmed to this leader, to the second, held while it was in sync, or said at its "
        "start; all of them, from 0, when nothing is known, as of a tier that was not listed yet",
        labels=["replica"],
    )
    size = GaugeMetricFamily(
        "perenne_replica_lag_bytes",
        "On the leader, of each other registered node and the tier: bytes of the records of "
        "perenne_replica_lag_records as they lie in the log here",
        labels=["replica"],
    )
    seconds = GaugeMetricFamily(
        "perenne_replica_lag_seconds",
        "On the leader, of each other registered node and the tier: age of the oldest of the records of "
        "perenne_replica_lag_records, by the clock of the leader that took it; exact, from the record itself",
        labels=["replica"],
    )
    blocked = GaugeMetricFamily(
        "perenne_replica_blocked",
        "On the leader, of each other registered node: 1 while a record that is damaged here keeps it from catching up",
        labels=["replica"],
    )
    for lag in s.lags:
        blocked.add_metric([lag.replica], float(lag.blocked_at > 0))
    tier = s.tier.lag if s.tier is not None else None
    for lag in (*s.lags, *((tier,) if tier is not None else ())):
        records.add_metric([lag.replica], lag.records)
        size.add_metric([lag.replica], lag.bytes)
        seconds.add_metric([lag.replica], lag.seconds)
    yield records
    yield size
    yield seconds
    yield blocked
