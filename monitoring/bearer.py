"""Who may ask: everything but the probes wants the token, where one is configured (RFC 6750)."""

import hmac
from collections.abc import Callable
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

PROBES: Final = frozenset({"/livez", "/readyz", "/leader", "/replica"})
METRICS: Final = "/metrics"


class Bearer:
    """In front of an application. token(): the one in use; None lets everybody through. open_metrics: /metrics wants
    none either.
    """

    def __init__(self, behind: ASGIApp, token: Callable[[], str | None], *, open_metrics: bool) -> None:
        self._behind = behind
        self._token = token
        self._free = PROBES | {METRICS} if open_metrics else PROBES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        token = self._token()
        if token is None or scope["type"] != "http" or scope["path"] in self._free or _shown(scope, token):
            await self._behind(scope, receive, send)
            return
        headers = {"WWW-Authenticate": 'Bearer realm="perenne"'}
        refusal = PlainTextResponse(
            "this needs a token: Authorization: Bearer TOKEN\n", status_code=401, headers=headers
        )
        await refusal(scope, receive, send)


def _shown(scope: Scope, token: str) -> bool:
    kind, _, shown = Headers(scope=scope).get("authorization", "").partition(" ")
    # Headers are bytes, which starlette shows as Latin-1.
    known = hmac.compare_digest(shown.strip().encode("latin-1"), token.encode(errors="surrogateescape"))
    return kind.lower() == "bearer" and bool(token) and known
