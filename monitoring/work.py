"""What a node's work took and what came to nothing, as metrics; read from the snapshot at each scrape."""

from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from replication.api import WorkReport
from storage.timing import TimingReport


def work_metrics(work: WorkReport) -> Iterator[Metric]:
    yield _histogram(
        "perenne_durable_seconds",
        "Time of each stage that makes a new record safe. local_fsync: from the log's queue to stable storage here; "
        "peer_ack: on the leader, from sending it to a follower until that said durable; tier_put: on the leader, from "
        "beginning an object until the tier held it; commit: from the whole instance received here until the cluster "
        "had committed it",
        ["stage"],
        (((stage,), timing) for stage, timing in work.stages.items()),
    )
    yield _histogram(
        "perenne_failover_seconds",
        "Time of each phase of a change of leader, counted by the node that leads afterwards. detect: from the last "
        "word of the leader before until this node stood; elect: until it held the lead; recover: until it took stores",
        ["phase"],
        (((phase,), timing) for phase, timing in work.failover.items()),
    )
    yield _histogram(
        "perenne_storage_operation_seconds",
        "Time of an operation on storage, with its own further attempts, whether it succeeded or not. local: this "
        "disk, fsync of a group of records; tier: the bucket or directory",
        ["place", "op"],
        work.operations.items(),
    )
    errors = CounterMetricFamily(
        "perenne_storage_operation_errors",
        "Operations on storage that came to nothing, after all attempts; that a key is there or is not is an answer",
        labels=["place", "op"],
    )
    for names, count in work.operation_errors.items():
        errors.add_metric(names, count)
    yield errors
    yield from _replicas(work)


def _replicas(work: WorkReport) -> Iterator[Metric]:
    troubles = CounterMetricFamily(
        "perenne_replica_errors",
        "What went wrong with another registered node, as this one saw it. unreachable: called in vain; "
        "connection-lost: it ended, whatever the reason; hung-up: this node ended it; rejected: what this leader sent "
        "was not taken; unreadable: a record that it lacks cannot be read here",
        labels=["replica", "reason"],
    )
    for names, count in work.troubles.items():
        troubles.add_metric(names, count)
    yield troubles
    confirmed = GaugeMetricFamily(
        "perenne_replica_last_success_timestamp_seconds",
        "Unix time of the last word of another node to this one, as leader, of what is durable there; of the tier, of "
        "the last request that it did; 0: none yet",
        labels=["replica"],
    )
    for replica, seconds in work.confirmed.items():
        confirmed.add_metric([replica], seconds)
    yield confirmed


def _histogram(
    name: str, text: str, labels: list[str], timings: Iterable[tuple[tuple[str, ...], TimingReport]]
) -> Metric:
    family = HistogramMetricFamily(name, text, labels=labels)
    for names, timing in timings:
        bounds = [*(str(float(bound)) for bound in timing.bounds), "+Inf"]
        reached: list[tuple[str, float]] = list(zip(bounds, accumulate(timing.counts), strict=True))
        family.add_metric(names, buckets=reached, sum_value=timing.total)
    return family
