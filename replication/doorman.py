"""TLS before anything else: a protocol hears of a connection only once both sides have shown who they are."""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Final

_LOG: Final = logging.getLogger("perenne.tls")
HANDSHAKE_S: Final = 5.0
WAITING: Final = 64
"""Handshakes at once on one port; beyond them the oldest gives way, so that those who say nothing keep nobody out."""
ACCEPT_AGAIN_S: Final = 0.1
"""After an accept that failed, mostly for want of descriptors."""


class Door:
    """One port that speaks TLS alone.

    server(), client(): the contexts in use now; a certificate that was exchanged holds from the next connection on.
    turned_away: connections that ended without a handshake: strangers, other authorities, plain text.

    It accepts by itself: a listening socket with one context could neither exchange that nor count whom it refuses.
    """

    def __init__(self, server: Callable[[], ssl.SSLContext], client: Callable[[], ssl.SSLContext]) -> None:
        self._server = server
        self.client = client
        self.turned_away = 0
        self._listeners: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._handshakes: dict[asyncio.Task[None], None] = {}
        """Under way, the oldest first."""

    async def listen(self, behind: Callable[[], asyncio.BaseProtocol], host: str, port: int) -> int:
        """Let connections in to what `behind` makes; return the port. Raises OSError."""
        loop = asyncio.get_running_loop()
        facts = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in dict.fromkeys(facts):
            listener = socket.socket(family, socket.SOCK_STREAM)
            self._listeners.append(listener)
            listener.setblocking(False)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((address[0], port, *address[2:]))
            listener.listen(256)
            port = int(listener.getsockname()[1])  # one port for all addresses of a name
            self._accepting.append(loop.create_task(self._accept(listener, behind)))
        return port

    def close(self) -> None:
        """Let nobody in any more; connections that were let in stay."""
        for task in (*self._accepting, *self._handshakes):
            task.cancel()
        for listener in self._listeners:
            listener.close()

    async def _accept(self, listener: socket.socket, behind: Callable[[], asyncio.BaseProtocol]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = await loop.sock_accept(listener)
            except OSError as error:
                _LOG.warning("no connection can be accepted", extra={"reason": str(error)})
                await asyncio.sleep(ACCEPT_AGAIN_S)
                continue
            if len(self._handshakes) >= WAITING:
                next(iter(self._handshakes)).cancel()
            task = loop.create_task(self._shake_hands(accepted, behind))
            self._handshakes[task] = None
            task.add_done_callback(partial(self._over, accepted))

    def _over(self, accepted: socket.socket, done: "asyncio.Task[None]") -> None:
        self._handshakes.pop(done, None)
        if done.cancelled():  # perhaps before it began
            self.turned_away += 1
            accepted.close()

    async def _shake_hands(self, accepted: socket.socket, behind: Callable[[], asyncio.BaseProtocol]) -> None:
        loop = asyncio.get_running_loop()
        caller = "gone"
        try:
            caller = str(accepted.getpeername())
            await loop.connect_accepted_socket(behind, accepted, ssl=self._server(), ssl_handshake_timeout=HANDSHAKE_S)
        except OSError as error:  # ssl.SSLError and TimeoutError are such
            self.turned_away += 1
            reason = error.reason if isinstance(error, ssl.SSLError) else str(error) or type(error).__name__
            _LOG.warning("turned a connection away: no handshake", extra={"from": caller, "reason": reason})
            accepted.close()
        else:
            _LOG.debug("let a connection in", extra={"from": caller})
