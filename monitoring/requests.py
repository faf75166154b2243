"""Requests on the HTTP port, by route, method and code. A route is its template, so that no path becomes a label."""

import time
from collections.abc import Iterable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

INSTANCE: Final = "/instances/{uid}"
OTHER: Final = "other"
METHODS: Final = ("GET", "HEAD")
BROKEN: Final = 500
"""Of an application that failed before it answered."""
_REFUSED: Final = (401, 405)
CODES: Final[Mapping[str, tuple[int, ...]]] = {
    "/livez": (200, 503),
    "/readyz": (200, 503),
    "/leader": (200, 503),
    "/replica": (200, 400, 503),
    "/metrics": (200, 401, 503, BROKEN),
    "/status": (200, 401, 503, BROKEN),
    "/standing": (200, 401, 503, BROKEN),
    "/instances": (200, 400, 401, 503, BROKEN),
    INSTANCE: (200, 400, 401, 404, 410, 503, BROKEN),
    OTHER: (401, 404, 503),
}
"""What each route answers to GET and HEAD. A path that is none of them is `other`, and so is a method."""
_SECONDS: Final = (0.005, 0.01, 0.025, 0.1, 0.25, 1, 2.5, 10)


def template(path: str) -> str:
    """
    >>> template("/instances/1.2.3"), template("/status"), template("/instances/1.2.3/pixels"), template("/wp-admin")
    ('/instances/{uid}', '/status', 'other', 'other')
    """
    if path in CODES:
        return path
    instances, _, uid = path.rpartition("/")
    return INSTANCE if instances == "/instances" and uid else OTHER


class RequestMetrics:
    """Every series exists from the start; a code that no route is known for adds its own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "perenne_http_requests",
            "Requests on the HTTP port that were answered, by template of the path, method and status code",
            ["route", "method", "code"],
            registry=registry,
        )
        self._seconds = Histogram(
            "perenne_http_request_seconds",
            "Time from a request's head to the end of its answer, or until its client went away, by template of the "
            "path",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        for route, codes in CODES.items():
            self._seconds.labels(route)
            self._begin(route, METHODS, codes)
            self._begin(route, (OTHER,), _REFUSED)

    def _begin(self, route: str, methods: Iterable[str], codes: Iterable[int]) -> None:
        for method in methods:
            for code in codes:
                self._requests.labels(route, method, str(code))

    def answered(self, path: str, method: str, code: int, seconds: float) -> None:
        route = template(path)
        self._requests.labels(route, method if method in METHODS else OTHER, str(code)).inc()
        self._seconds.labels(route).observe(seconds)


class Counted:
    """In front of everything else: what is refused counts as well."""

    def __init__(self, behind: ASGIApp, metrics: RequestMetrics) -> None:
        self._behind = behind
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._behind(scope, receive, send)
            return
        began, code = time.perf_counter(), BROKEN

        async def observed(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        try:
            await self._behind(scope, receive, observed)
        finally:
            self._metrics.answered(scope["path"], scope["method"], code, time.perf_counter() - began)
