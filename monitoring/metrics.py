"""Prometheus metrics of one node: counted as things happen, or read from a snapshot at scrape time.

Every series exists from the start, with base units (docs/metrics.md).
"""

import platform
from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from monitoring.requests import RequestMetrics
from monitoring.senders import Senders
from monitoring.snapshot import SnapshotMetrics
from replication.api import ReplicatorStatistics

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
STATUSES: Final = ("0000", "A700", "A900", "C000", "0110", "0111", "0122", "0124")
REJECTIONS: Final = ("application_context", "calling_ae", "called_ae", "protocol_version", "draining", "limit")
CLOSES: Final = ("released", "peer-aborted", "protocol-error", "idle", "stalled", "drained", "connection-lost")
ECHO: Final = "c-echo"
SERVICES: Final = (ECHO, "c-find", "c-get", "c-move", "n-action", "other")
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

disable_created_metrics()  # type: ignore[no-untyped-call]  # the library says nothing of its type
"""Series of when each counter began, which nobody asks for: a third of a scrape."""


class Metrics:
    """Also the observer of the DICOM port."""

    def __init__(
        self,
        snapshot: Callable[[], ReplicatorStatistics],
        *,
        version: str,
        titles: Iterable[str] = (),
    ) -> None:
        """titles: calling AEs told apart."""
        self.registry = registry = CollectorRegistry(auto_describe=False)
        Gauge(
            "perenne_build_info",
            "Always 1; its labels say which version runs, and on which Python",
            ["version", "python"],
            registry=registry,
        ).labels(version, platform.python_version()).set(1)
        self._refused = Counter(
            "perenne_connections_refused",
            "DICOM connections dropped at once, beyond dimse.max_associations and 64 more",
            registry=registry,
        )
        self._opened = Counter(
            "perenne_associations_opened", "DICOM associations that were accepted", registry=registry
        )
        self._rejected = Counter(
            "perenne_associations_rejected",
            "DICOM associations that were rejected, by why; draining: the node stops; limit: it has too many",
            ["reason"],
            registry=registry,
        )
        self._closed = Counter(
            "perenne_associations_closed",
            "DICOM associations that ended, by why; all but released and drained lost what was under way",
            ["reason"],
            registry=registry,
        )
        self._open = Gauge("perenne_associations_open", "DICOM associations that are open now", registry=registry)
        self._requests = Counter(
            "perenne_dimse_requests",
            "DIMSE requests other than C-STORE, which perenne_store_seconds counts, by service and status of the "
            "answer; 0211: the service is not there",
            ["service", "status"],
            registry=registry,
        )
        self._stores = Histogram(
            "perenne_store_seconds",
            "Time from the command set of a C-STORE to its answer, by status: 0000 is Success, A700 asks to send again",
            ["status"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._bytes = Counter(
            "perenne_store_received_bytes",
            "Bytes of data sets received by C-STORE, whatever was answered",
            registry=registry,
        )
        for service in SERVICES:
            self._requests.labels(service, "0000" if service == ECHO else "0211")
        for reason in REJECTIONS:
            self._rejected.labels(reason)
        for reason in CLOSES:
            self._closed.labels(reason)
        self._stores_by_status = {int(status, 16): self._stores.labels(status) for status in STATUSES}
        self._senders = Senders(titles, registry)
        self.requests = RequestMetrics(registry)
        registry.register(SnapshotMetrics(snapshot))
        ProcessCollector(registry=registry)

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

    def answered(self, service: str, status: int) -> None:
        self._requests.labels(service, f"{status:04X}").inc()
