"""What each calling AE sent, for the silent modality: configured titles and `other`, so that series are bounded."""

import time
from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

OTHER: Final = "other"


class Senders:
    """Series of `titles` exist from the start; whoever is not among them is `other`."""

    def __init__(
        self, titles: Iterable[str], registry: CollectorRegistry, now: Callable[[], float] = time.time
    ) -> None:
        self._known = frozenset(titles)
        self._now = now
        self._associations = Counter(
            "perenne_sender_associations",
            "Associations asked for by a calling AE, by result; who has no [[ae]] entry counts as other",
            ["ae", "result"],
            registry=registry,
        )
        self._instances = Counter(
            "perenne_sender_instances",
            "C-STORE requests of a calling AE, by result: received (answered 0000) or refused (answered otherwise)",
            ["ae", "result"],
            registry=registry,
        )
        self._seen = Gauge(
            "perenne_sender_last_seen_timestamp_seconds",
            "Unix time of the last association or C-STORE of a calling AE; 0: none since this node started",
            ["ae"],
            registry=registry,
        )
        for title in (*self._known, OTHER):
            self._seen.labels(title).set(0)
            for result in ("accepted", "rejected"):
                self._associations.labels(title, result)
            for result in ("received", "refused"):
                self._instances.labels(title, result)

    def association(self, calling_ae: str, *, accepted: bool) -> None:
        self._associations.labels(self._name(calling_ae), "accepted" if accepted else "rejected").inc()
        if accepted:
            self._seen.labels(self._name(calling_ae)).set(self._now())

    def store(self, calling_ae: str, *, received: bool) -> None:
        self._instances.labels(self._name(calling_ae), "received" if received else "refused").inc()
        self._seen.labels(self._name(calling_ae)).set(self._now())

    def _name(self, calling_ae: str) -> str:
        return calling_ae if calling_ae in self._known else OTHER
