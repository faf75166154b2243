"""What the HTTP port grants to those who connect: time for a request, time to read an answer, and a share of memory.

Nobody needs to log in here, so nobody is trusted to be quick, to read what was asked for, or to be only one.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Final, cast

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

CONNECTIONS: Final = 512
"""Beyond these the one that has been idle longest is closed: a health check always finds room."""
READS: Final = 32
"""Instances on their way out at once. Each holds at most a few MiB (storage/reader.py)."""
OTHERS: Final = 64
HEALTH: Final = frozenset({"/livez", "/readyz", "/leader", "/replica"})


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds. request: until a request has come whole. stalled: until a reader that takes nothing is cut off."""

    request: float = 15.0
    stalled: float = 30.0
    look: float = 1.0


class Connection(H11Protocol):
    """Knows since when it waits for its client."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._since: float = time.monotonic()
        self._unsent: int = 0

    @property
    def idle(self) -> bool:
        """Between requests, or inside one that has not come whole."""
        return not self.cycle or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn
        super().connection_made(transport)
        self._since = time.monotonic()
        if len(self.connections) > CONNECTIONS:
            idle = sorted((one for one in connections(self.server_state) if one.idle), key=Connection.waits_since)
            (idle[0] if idle else self).transport.abort()

    def on_response_complete(self) -> None:
        self._since = time.monotonic()
        super().on_response_complete()

    def resume_writing(self) -> None:
        self._since = time.monotonic()
        super().resume_writing()

    def waits_since(self) -> float:
        return self._since

    def look(self, patience: Patience) -> None:
        """Cut off a client that has kept this node waiting for too long."""
        now = time.monotonic()
        if self.idle:
            if now - self._since > patience.request:
                self.transport.abort()
            return
        unsent, before = self.transport.get_write_buffer_size(), self._unsent
        self._unsent = unsent
        if not unsent or unsent != before:
            self._since = now  # the node's turn, or the client takes what it is given
        elif now - self._since > patience.stalled:
            self.transport.abort()


def connections(state: ServerState) -> list[Connection]:
    """All that are open now."""
    return [cast("Connection", one) for one in state.connections if isinstance(one, Connection)]


class Gate:
    """Lets so many requests of each kind through at once, and health checks always."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._room = {"reads": READS, "others": OTHERS}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in HEALTH:
            await self._app(scope, receive, send)
            return
        kind = "reads" if scope["path"].startswith("/instances/") else "others"
        if not self._room[kind]:
            busy = PlainTextResponse("too many requests at once\n", status_code=503, headers={"Retry-After": "2"})
            await busy(scope, receive, send)
            return
        self._room[kind] -= 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._room[kind] += 1
