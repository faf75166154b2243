"""One TCP connection between two nodes: greeting, frames out, frames in, and how much waits to be sent."""

import asyncio
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Any, Final, Protocol, cast

from replication.core.values import Identity, ReplicaId
from replication.incoming import Incoming, IncomingSink, Payload
from replication.messages import Goodbye, Hello, Message
from replication.outbox import HIGH_WATER, Outbox
from replication.wire import MAX_CONTROL, FrameDecoder, WireError
from storage.errors import StorageError
from storage.reader import Payload as Sendable

PROTOCOL_VERSIONS: Final = (1, 1)
GREETING_S: Final = 5.0
"""Whoever has not greeted by then is no node of ours."""
GREETING_BYTES: Final = 4096
"""A greeting has a few hundred."""
_KEEPALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 3),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 6000),
)
"""A connection on which nothing is acknowledged for six seconds is gone: the kernel's defaults take hours."""


def common_name(certificate: Mapping[str, Any]) -> str:
    """The subject's common name in what `SSLSocket.getpeercert` returns; empty when it has none."""
    pairs = [pair for group in certificate.get("subject", ()) for pair in group]
    return next((str(value) for key, value in pairs if key == "commonName"), "")


class ConnectionEvents(Protocol):
    """Called on the event loop."""

    def greeted(self, connection: "Connection", peer: Identity) -> None: ...

    def ended(self, connection: "Connection", reason: str) -> None:
        """Once per connection, greeted or not."""
        ...

    def arrived(self, connection: "Connection", message: Message, payload: Payload) -> None: ...

    def writable(self, connection: "Connection") -> None: ...


class Connection(asyncio.BufferedProtocol):
    """Either side of one connection. Who dialled says Hello at once, and who was called when that fits its cluster.

    Before that nothing else is listened to, and who was called says nothing: not even which cluster and which node this
    is. An older node of this version says Hello at once in both roles; the two understand each other.

    receive_buffer: filled by the event loop and emptied in the same step, so all connections may share one.
    """

    def __init__(
        self,
        me: Hello,
        events: ConnectionEvents,
        incoming: Callable[["Connection"], Incoming],
        *,
        receive_buffer: memoryview,
        readers: Executor,
        dialled: bool,
        expected: ReplicaId | None = None,
        known: Callable[[ReplicaId], bool] = lambda _: True,
    ) -> None:
        """expected: who was dialled. known(): whether ZooKeeper has a caller of this name for a node of the cluster. A
        certificate does not make it one: ZooKeeper's servers and modalities may have one of the same authority.
        """
        self._me = me
        self._events = events
        self._incoming = incoming(self)
        self._decoder = FrameDecoder(self._begin, max_control=GREETING_BYTES)
        self._transport: asyncio.Transport | None = None
        self.reason = "the connection was lost"
        """Why it ended."""
        self.caller = "gone"
        """The address of the other side."""
        self._receive_buffer = receive_buffer
        self._readers = readers
        self._outbox: Outbox | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._expected = expected
        self._known = known
        self._early: Hello | None = None
        """The greeting of a node that nobody has heard of: it may have registered just now."""
        self._named: str | None = None
        """The node that the certificate of the other side names; None over a plain connection."""
        self._silent = not dialled
        """Whoever called has not shown yet that it belongs here."""
        self.dialled = dialled
        self.peer: Identity | None = None

    @property
    def received_bytes(self) -> int:
        return self._incoming.received

    @property
    def arriving(self) -> Message | None:
        """The message whose payload is not here whole yet."""
        return self._incoming.arriving

    @property
    def early(self) -> ReplicaId | None:
        """Who says that it is a node, and waits to be known as one."""
        return ReplicaId(self._early.node_id) if self._early is not None else None

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports offer the methods without the class.
        transport = self._transport = cast(asyncio.Transport, transport)
        self._outbox = Outbox(transport, self._readers, lambda: self._events.writable(self), self.close)
        sock: socket.socket | None = transport.get_extra_info("socket")
        self.caller = str(transport.get_extra_info("peername"))
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for level, option, value in _KEEPALIVE:
                sock.setsockopt(level, option, value)
        self._patience = asyncio.get_running_loop().call_later(GREETING_S, self._not_greeted)
        certificate: Any = transport.get_extra_info("peercert")
        if certificate is not None:
            self._named = common_name(certificate)
        self.send(self._me)  # nothing yet where it was called

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._receive_buffer

    def buffer_updated(self, nbytes: int) -> None:
        try:
            self._decoder.feed(self._receive_buffer[:nbytes])
        except (WireError, StorageError) as error:
            self.close(str(error))

    def pause_writing(self) -> None:
        if self._outbox is not None:
            self._outbox.pause()

    def resume_writing(self) -> None:
        if self._outbox is not None:
            self._outbox.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._be_patient()
        self._incoming.abandon()
        outbox, self._outbox = self._outbox, None
        if outbox is not None:
            outbox.close()
        self._events.ended(self, f"{self.reason} ({exc})" if exc else self.reason)

    # Out

    @property
    def congested(self) -> bool:
        return self._outbox is not None and self._outbox.congested

    async def clear(self) -> None:
        """Wait until more may be sent, or the connection is gone."""
        if self._outbox is not None:
            await self._outbox.clear()

    def send(self, message: Message, payload: Sendable | None = None) -> None:
        """Queue a frame; never blocks. On a connection that closes, and to a stranger, it goes nowhere."""
        if self._silent:
            return
        if self._outbox is not None and self._transport is not None and not self._transport.is_closing():
            self._outbox.send(message, payload)

    def close(self, reason: str, *, tell: bool = True) -> None:
        """Say why, and hang up."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self.reason = reason
        if tell:
            self.send(Goodbye(reason))
        # What waits to be sent may never leave: a peer that does not read must not keep us.
        transport.close() if transport.get_write_buffer_size() < HIGH_WATER else transport.abort()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # In

    def _begin(self, message: Message, size: int) -> IncomingSink:
        """Raises WireError, StorageError."""
        if self.peer is None and not isinstance(message, Goodbye if self._early is not None else (Hello, Goodbye)):
            raise WireError("the first message was not a greeting")  # before anything is staged for a stranger
        return self._incoming.begin(message, size)

    def arrived(self, message: Message, payload: Payload) -> None:
        """A whole frame is here."""
        if isinstance(message, Goodbye):
            self.reason = f"the peer said goodbye: {message.reason}"
            if self._transport is not None:
                self._transport.close()
        elif self.peer is None:
            assert isinstance(message, Hello)  # _begin saw to it
            self._greet(message)
        else:
            self._events.arrived(self, message, payload)

    def look_again(self) -> None:
        """There are nodes that were not known before."""
        early, transport = self._early, self._transport
        if early is not None and transport is not None and not transport.is_closing():
            self._early = None
            self._greet(early)

    def _not_greeted(self) -> None:
        early = self._early
        self.close(f"no node {early.node_id} is registered in ZooKeeper" if early is not None else "no greeting came")

    def _greet(self, message: Hello) -> None:
        why = self._why_strange(message)
        if why is None and not self._known(ReplicaId(message.node_id)):
            self._early = message
            return
        if why is None:
            self._silent = False
            why = self._why_not(message)
        if why is not None:
            self.close(why)
            return
        self._be_patient()
        if not self.dialled:
            self.send(self._me)
        self._decoder.max_control = MAX_CONTROL
        self.peer = Identity(ReplicaId(message.node_id), message.incarnation, message.boot)
        self._events.greeted(self, self.peer)

    def _be_patient(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _why_strange(self, hello: Hello) -> str | None:
        """Why whoever sent this cannot be a node of the cluster."""
        if hello.cluster_id != self._me.cluster_id:
            return f"this is cluster {self._me.cluster_id}, and {hello.node_id} is of {hello.cluster_id}"
        if self._named is not None and hello.node_id != self._named:
            return f"its certificate is that of {self._named}, not of {hello.node_id}"
        return None

    def _why_not(self, hello: Hello) -> str | None:
        if hello.version_max < self._me.version_min or hello.version_min > self._me.version_max:
            return f"versions {self._me.version_min} to {self._me.version_max} are spoken here"
        if hello.node_id == self._me.node_id:
            return f"there is another node {hello.node_id}: ids must differ"
        if self._expected is not None and hello.node_id != self._expected:
            return f"{self._expected} was called, {hello.node_id} answered"
        return None
