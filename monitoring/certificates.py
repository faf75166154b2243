"""When certificates end, as it is at each scrape: a node takes up new ones while it runs."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import GaugeMetricFamily, Metric

Ends = Callable[[], Mapping[str, float]]
"""By listener, in Unix seconds."""


class CertificateMetrics:
    """A collector. Without TLS it has no series."""

    def __init__(self, own: Ends, authorities: Ends) -> None:
        self._own = own
        self._authorities = authorities

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        yield _family(
            "perenne_tls_certificate_expiry_timestamp_seconds",
            "Unix time when the certificate of a listener ends; afterwards nobody who checks it connects",
            self._own(),
        )
        yield _family(
            "perenne_tls_authority_expiry_timestamp_seconds",
            "Unix time when the first of the authorities ends whose certificates a listener believes; whoever is known "
            "by one of its certificates is turned away afterwards",
            self._authorities(),
        )


def _family(name: str, text: str, ends: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=["listener"])
    for listener, end in ends.items():
        family.add_metric([listener], end)
    return family
