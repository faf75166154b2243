"""Prometheus metrics of one node: counted as things happen, or read from a snapshot at scrape time.

The only home of prometheus_client. Every series exists from the start, with base units (docs/observability.md).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from monitoring.senders import Senders
from replication.api import ReplicatorStatistics, Role

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
_STATUSES: Final = ("0000", "A700", "A900", "C000", "0110", "0111", "0122", "0124")
_REJECTIONS: Final = ("application_context", "calling_ae", "called_ae", "protocol_version", "draining", "limit")
_CLOSES: Final = ("released", "peer-aborted", "protocol-error", "idle", "stalled", "drained", "connection-lost")
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """Also the observer of the DICOM port."""

    def __init__(
        self,
        snapshot: Callable[[], ReplicatorStatistics],
        *,
        version: str,
        expiries: Callable[[], Mapping[str, float]] = dict,
        titles: Iterable[str] = (),
    ) -> None:
        """expiries: when the certificate of each listener ends, in Unix seconds. titles: calling AEs told apart."""
        self.registry = registry = CollectorRegistry(auto_describe=False)
        Gauge("perenne_build_info", "Version of this node", ["version"], registry=registry).labels(version).set(1)
        self._refused = Counter("perenne_connections_refused", "Connections dropped at once", registry=registry)
        self._opened = Counter("perenne_associations_opened", "Associations accepted", registry=registry)
        self._rejected = Counter(
            "perenne_associations_rejected", "Associations rejected", ["reason"], registry=registry
        )
        self._closed = Counter("perenne_associations_closed", "Associations ended", ["reason"], registry=registry)
        self._open = Gauge("perenne_associations_open", "Associations open now", registry=registry)
        self._echoes = Counter("perenne_echoes", "C-ECHO requests answered", registry=registry)
        self._stores = Histogram(
            "perenne_store_seconds",
            "From the command set of a C-STORE to its answer",
            ["status"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._bytes = Counter("perenne_store_received_bytes", "Data set bytes received", registry=registry)
        for reason in _REJECTIONS:
            self._rejected.labels(reason)
        for reason in _CLOSES:
            self._closed.labels(reason)
        self._stores_by_status = {int(status, 16): self._stores.labels(status) for status in _STATUSES}
        self._senders = Senders(titles, registry)
        registry.register(_Snapshot(snapshot))
        registry.register(_Certificates(expiries))

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)

    # The DICOM port's observer

    def connection_refused(self) -> None:
        self._refused.inc()

    def association_opened(self, calling_ae: str) -> None:
        self._opened.inc()
        self._open.inc()
        self._senders.association(calling_ae, accepted=True)

    def association_rejected(self, reason: str, calling_ae: str) -> None:
        self._rejected.labels(reason).inc()
        self._senders.association(calling_ae, accepted=False)

    def association_closed(self, reason: str, seconds: float) -> None:
        self._closed.labels(reason).inc()
        self._open.dec()

    def stored(self, size: int, seconds: float, status: int, calling_ae: str) -> None:
        self._senders.store(calling_ae, received=status == 0)
        histogram = self._stores_by_status.get(status)
        if histogram is None:
            histogram = self._stores_by_status[status] = self._stores.labels(f"{status:04X}")
        histogram.observe(seconds)
        self._bytes.inc(size)

    def echoed(self) -> None:
        self._echoes.inc()


class _Certificates:
    """Their ends, as they are now: a node takes up new ones while it runs."""

    def __init__(self, expiries: Callable[[], Mapping[str, float]]) -> None:
        self._expiries = expiries

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        ends = GaugeMetricFamily(
            "perenne_tls_certificate_expiry_timestamp_seconds", "When it ends", labels=["listener"]
        )
        for listener, end in self._expiries().items():
            ends.add_metric([listener], end)
        yield ends


class _Snapshot:
    """Turns the replicator's snapshot into metrics at each scrape."""

    def __init__(self, snapshot: Callable[[], ReplicatorStatistics]) -> None:
        self._snapshot = snapshot

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        s = self._snapshot()
        yield from _gauges(s)
        yield from _counters(s)
        yield from _lags(s)
        yield from _tier(s)
        yield from _capacity(s)
        yield from _scrub(s)
        yield from _compaction(s)


def _gauges(s: ReplicatorStatistics) -> Iterator[Metric]:
    roles = GaugeMetricFamily("perenne_role", "1 for the role that this node has now", labels=["role"])
    for role in Role:
        roles.add_metric([role.value], float(s.role is role))
    yield roles
    plain: dict[str, tuple[str, float]] = {
        "perenne_ready": ("1 when a C-STORE would be taken now", float(s.refusal is None)),
        "perenne_frozen": ("1 when the log contradicts and this node stopped writing", float(s.frozen is not None)),
        "perenne_epoch": ("Epoch of the cluster state as last read", s.epoch),
        "perenne_promise_epoch": ("Highest epoch that this node has promised to serve", s.promise),
        "perenne_in_sync_replicas": ("Members of the in-sync set", len(s.in_sync)),
        "perenne_copies_required": ("Smallest set that may acknowledge", s.copies_required),
        "perenne_log_end_sequence": ("Last record appended here", s.end.sequence),
        "perenne_log_durable_sequence": ("Last record on stable storage here", s.durable.sequence),
        "perenne_committed_sequence": ("Last record known to be committed and durable here", s.committed.sequence),
        "perenne_uncommitted_records": ("Records that wait for their copies", s.uncommitted_records),
        "perenne_uncommitted_bytes": ("Bytes that wait for their copies", s.uncommitted_bytes),
        "perenne_oldest_uncommitted_seconds": ("Age of the oldest of them", s.oldest_uncommitted_seconds),
        "perenne_under_replicated_records": (
            "Records that a replica outside the in-sync set lacks",
            s.under_replicated_records,
        ),
        "perenne_coordination_connected": ("1 with a ZooKeeper session", float(s.coordination_connected)),
        "perenne_coordination_fresh_seconds": ("Age of the last answered request", s.coordination_fresh_seconds),
        "perenne_data_path_seconds": ("Age of the last canary write that came back", s.data_path_seconds),
        "perenne_damaged_records": ("Records that fail their digest here", s.damaged_records),
        "perenne_lost_and_found_files": ("Files in lost+found", s.lost_and_found),
    }
    for name, (text, value) in plain.items():
        yield GaugeMetricFamily(name, text, value=value)


def _tier(s: ReplicatorStatistics) -> Iterator[Metric]:
    """All 0 where there is no tier; what the leader alone knows is 0 elsewhere."""
    tier = s.tier
    plain: dict[str, tuple[str, float]] = {
        "perenne_tier_configured": ("1 when this node has a tier", float(tier is not None)),
        "perenne_tier_in_sync": ("1 when the in-sync set names the tier", float(tier is not None and tier.in_sync)),
        "perenne_tier_failed": ("1 when the last request failed", float(tier is not None and bool(tier.failed))),
        "perenne_tier_usable": ("1 on a leader whose tier answers", float(tier is not None and bool(tier.usable))),
        "perenne_tier_counted_sequence": (
            "Last record for which the tier was counted, as last read",
            tier.counted_upto if tier is not None else 0,
        ),
        "perenne_tier_complete_sequence": (
            "On the leader: the last record below which the bucket lacks nothing",
            (tier.complete_upto or 0) if tier is not None else 0,
        ),
        "perenne_tier_behind_records": (
            "On the leader: committed records that are not in the bucket",
            (tier.behind or 0) if tier is not None else 0,
        ),
    }
    packing = tier.packing if tier is not None else None
    plain |= {
        "perenne_tier_orphan_objects": (
            "On the leader: objects of dead branches in the bucket; they never surface",
            (tier.orphans or 0) if tier is not None else 0,
        ),
        "perenne_tier_kept_objects": (
            "On the leader: small objects that the bucket does not let go",
            packing.kept if packing is not None else 0,
        ),
        "perenne_tier_spoiled_segments": (
            "On the leader: segments that have something else under their name in the bucket",
            packing.spoiled if packing is not None else 0,
        ),
    }
    for name, (text, value) in plain.items():
        yield GaugeMetricFamily(name, text, value=value)
    puts, put_bytes = (tier.puts, tier.put_bytes) if tier is not None else (0, 0)
    yield CounterMetricFamily("perenne_tier_puts", "Objects put by this node", value=puts)
    segments, replaced = (packing.segments, packing.replaced) if packing is not None else (0, 0)
    yield CounterMetricFamily("perenne_tier_packed_segments", "Segments made one object by this leader", value=segments)
    yield CounterMetricFamily("perenne_tier_replaced_objects", "Small objects deleted by this leader", value=replaced)
    yield CounterMetricFamily("perenne_tier_put_bytes", "Payload bytes of the records in them", value=put_bytes)


def _capacity(s: ReplicatorStatistics) -> Iterator[Metric]:
    """`both` is a part of `local`, and 0 where it is not known."""
    held = s.capacity
    segments = GaugeMetricFamily("perenne_segments", "Log segments, by where they lie", labels=["place"])
    sizes = GaugeMetricFamily("perenne_segment_bytes", "Bytes of them, as whole files", labels=["place"])
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
        "Since the last complete scrub began: all that is older was read since",
        labels=["depth"],
    )
    ages.add_metric(["light"], scrub.light_age_seconds)
    ages.add_metric(["deep"], scrub.deep_age_seconds)
    yield ages
    yield GaugeMetricFamily(
        "perenne_log_differs", "Replicas whose committed log differs from this one", value=len(scrub.differs)
    )
    yield GaugeMetricFamily(
        "perenne_log_faults", "Segments with faults that nothing here can mend", value=len(scrub.faults)
    )
    plain: dict[str, tuple[str, float]] = {
        "perenne_scrub_bytes": ("Bytes read again from the medium", scrub.bytes),
        "perenne_scrub_damaged": ("Damaged records that the scrub found", scrub.damaged),
        "perenne_scrub_frames": ("Segments written anew around their records", scrub.frames),
        "perenne_repaired": ("Damaged records that were repaired", scrub.repaired),
    }
    for name, (text, value) in plain.items():
        yield CounterMetricFamily(name, text, value=value)


def _compaction(s: ReplicatorStatistics) -> Iterator[Metric]:
    done = s.compaction
    yield CounterMetricFamily(
        "perenne_compacted_instances", "Deleted instances whose bytes compaction took away", value=done.instances
    )
    yield CounterMetricFamily("perenne_compacted_bytes", "Bytes that compaction freed", value=done.bytes)
    yield GaugeMetricFamily(
        "perenne_compaction_left", "Deleted instances that may go and are still here", value=done.left
    )


def _counters(s: ReplicatorStatistics) -> Iterator[Metric]:
    plain: dict[str, tuple[str, float]] = {
        "perenne_stored": ("Instances stored through this node", s.stored),
        "perenne_duplicates": ("Instances that were stored already", s.duplicates),
        "perenne_conflicts": ("Other bytes under a known SOP Instance UID", s.conflicts),
        "perenne_stored_bytes": ("Bytes of instances committed through this node", s.stored_bytes),
        "perenne_peer_strangers": ("Connections to the peer port that were not of this cluster", s.strangers),
        "perenne_leader_changes": ("Changes of leader that this node saw", s.leader_changes),
        "perenne_coordination_changes": ("Changes of the cluster state that this node made", s.coordination_changes),
    }
    for name, (text, value) in plain.items():
        yield CounterMetricFamily(name, text, value=value)


def _lags(s: ReplicatorStatistics) -> Iterator[Metric]:
    records = GaugeMetricFamily("perenne_replica_lag_records", "Records a replica lacks", labels=["replica"])
    size = GaugeMetricFamily("perenne_replica_lag_bytes", "Bytes of uncommitted records among them", labels=["replica"])
    seconds = GaugeMetricFamily("perenne_replica_lag_seconds", "Age of the oldest of them", labels=["replica"])
    blocked = GaugeMetricFamily(
        "perenne_replica_blocked", "1 while a damaged record keeps it from catching up", labels=["replica"]
    )
    for lag in s.lags:
        blocked.add_metric([lag.replica], float(lag.blocked_at > 0))
        records.add_metric([lag.replica], lag.records)
        size.add_metric([lag.replica], lag.bytes)
        seconds.add_metric([lag.replica], lag.seconds)
    yield records
    yield size
    yield seconds
    yield blocked
