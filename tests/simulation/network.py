"""TCP between simulated processes: ordered bytes per direction, in pieces, with every fault that TCP lets through.

Faults: `cut` (one way or both: bytes wait, as TCP repeats them, until `heal`), `slow` (everything between two nodes
takes longer), a lagging segment, `reset` (both ends are told), `silence` (a half-open connection: both ends believe in
it, nothing arrives any more), `flip` (one bit of one segment, past TCP's checksum), a process that dies (its peers are
told), a host that dies (they are not, until it is back).
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.simulation.world import Handle, ProcessLoop, World

LATENCY_US = 150
KEEPALIVE_US = 6_000_000
"""After this long the kernel ends a connection on which nothing is answered (`replication.connection`)."""
RECEIVE_BYTES = 64 * 1024


@dataclass(eq=False)
class Listener:
    """One listening port; `sockets` is what asyncio's servers show."""

    net: "Network"
    loop: ProcessLoop
    factory: Callable[[], Any]
    port: int

    @property
    def sockets(self) -> list[Any]:
        return [self]

    def getsockname(self) -> tuple[str, int]:
        return ("127.0.0.1", self.port)

    def close(self) -> None:
        if self.net.listeners.get(self.port) is self:
            del self.net.listeners[self.port]


class Transport:
    """One end of a connection. The part of asyncio.Transport that production code uses."""

    def __init__(self, net: "Network", loop: ProcessLoop, port: int) -> None:
        self.net = net
        self.loop = loop
        self.node = loop.number
        self.port = port
        self.protocol: Any = None
        self.other: Transport | None = None
        self.silent = False
        self.flip_next = False
        self._segments: deque[bytes] = deque()
        self._queued = 0
        self._high = 1 << 20
        self._low = 1 << 18
        self._paused = False
        self._closing = False
        self._lost = False
        self._delivery: Handle | None = None
        self._arrives_us = 0

    def open(self, protocol: Any) -> None:
        self.protocol = protocol
        protocol.connection_made(self)

    def get_extra_info(self, name: str, default: object = None) -> object:
        return default

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        self._high, self._low = high, low

    def get_write_buffer_size(self) -> int:
        return self._queued

    def is_closing(self) -> bool:
        return self._closing

    def writelines(self, parts: list[bytes | memoryview]) -> None:
        self.write(b"".join(parts))

    def write(self, data: bytes | memoryview) -> None:
        if self._closing or not data or self.loop.dead:
            return
        content = bytes(data)
        self._segments.append(content)
        self._queued += len(content)
        self.deliver_later()
        if self._queued > self._high and not self._paused:
            self._paused = True
            self.protocol.pause_writing()

    def deliver_later(self) -> None:
        """See to it that what is queued arrives, unless the way is cut or nobody listens any more."""
        if self._delivery is not None or self.silent or not self.net.passes(self):
            return
        if self._segments or self._closing:
            world = self.net.world
            self._arrives_us = max(self._arrives_us, world.now_us + self.net.latency_us(self))
            self._delivery = world.at(self._arrives_us, None, self._deliver)

    def _deliver(self) -> None:
        self._delivery = None
        other = self.other
        if self.silent or other is None or not self.net.passes(self):
            return
        if not self._segments:
            if self._closing:
                self.other = None
                self.net.forget(self)
                other.fall(None)
            return
        taken: list[bytes] = []
        size = 0
        while self._segments and size < RECEIVE_BYTES:
            size += len(self._segments[0])
            taken.append(self._segments.popleft())
        self._queued -= size
        content = b"".join(taken)
        if self.flip_next:
            self.flip_next = False
            content = self.net.flipped(content)
        world = self.net.world
        world.soon(Handle(other.loop, other.receive, (content,)))
        if self._paused and self._queued <= self._low and not self.loop.dead:
            world.soon(Handle(self.loop, self._resume, ()))
        self.deliver_later()

    def _resume(self) -> None:
        if self._paused and self._queued <= self._low and not self._lost:
            self._paused = False
            self.protocol.resume_writing()

    def receive(self, content: bytes) -> None:
        view = memoryview(content)
        while view and not self._closing:
            buffer: memoryview = self.protocol.get_buffer(len(view))
            taken = min(len(view), len(buffer))
            buffer[:taken] = view[:taken]
            self.protocol.buffer_updated(taken)
            view = view[taken:]

    def close(self) -> None:
        """Send what is queued, then the end."""
        if not self._closing:
            self._closing = True
            self.deliver_later()
            self.loop.call_soon(self._lose, None)

    def abort(self) -> None:
        self._closing = True
        self._segments.clear()
        self._queued = 0
        self.net.forget(self)
        self.loop.call_soon(self._lose, None)
        other, self.other = self.other, None
        if other is None:
            return
        if self.silent or (self.node, other.node) in self.net.cuts:
            self.net.goes_silent(other)
        else:
            self.net.world.after(LATENCY_US, None, other.fall, ConnectionResetError("reset by peer"))

    def fall(self, error: Exception | None) -> None:
        """The other end is gone, and this one hears of it."""
        self._closing = True
        self.net.forget(self)
        self.other = None
        self.net.world.soon(Handle(self.loop, self._lose, (error,)))

    def _lose(self, error: Exception | None) -> None:
        """Whoever had not accepted it yet, such as a process that stood still, never hears of it."""
        if not self._lost:
            self._lost = True
            if self.protocol is not None:
                self.protocol.connection_lost(error)


class Network:
    """All connections; `cuts` holds ordered pairs of node numbers whose bytes do not pass."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.listeners: dict[int, Listener] = {}
        self.cuts: set[tuple[int, int]] = set()
        self.slow_us: dict[tuple[int, int], int] = {}
        self.lag_probability = 0.0
        self.lagged: Callable[[], None] = lambda: None
        self.lean: Callable[[str, int | None], float] = lambda kind, node: 0.0
        self._open: dict[Transport, None] = {}

    def transports(self) -> list[Transport]:
        return list(self._open)

    def forget(self, transport: Transport) -> None:
        self._open.pop(transport, None)

    def passes(self, transport: Transport) -> bool:
        other = transport.other
        return other is not None and (transport.node, other.node) not in self.cuts

    def latency_us(self, transport: Transport) -> int:
        chance = self.world.random
        other = transport.other
        delay = chance.randrange(LATENCY_US // 2, LATENCY_US * 2)
        lag_probability = self.lag_probability + self.lean("a segment lags", None)
        if lag_probability and chance.random() < lag_probability:
            self.lagged()
            delay += chance.randrange(1000, 60_000)
        return delay + (self.slow_us.get((transport.node, other.node), 0) if other is not None else 0)

    def flipped(self, content: bytes) -> bytes:
        bit = self.world.random.randrange(len(content) * 8)
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed)

    def listen(self, loop: ProcessLoop, factory: Callable[[], Any], port: int) -> Listener:
        listener = self.listeners[port] = Listener(self, loop, factory, port)
        return listener

    async def connect(self, loop: ProcessLoop, factory: Callable[[], Any], port: int) -> tuple[Any, Any]:
        """Both ways must be free, and somebody must listen; a cut is a wait that its caller ends."""
        answer = loop.create_future()
        self.world.after(LATENCY_US * 2, None, self._answer, loop, port, answer)
        target: Listener = await answer
        near, far = Transport(self, loop, 0), Transport(self, target.loop, port)
        near.other, far.other = far, near
        self._open[near] = self._open[far] = None
        protocol = factory()
        self.world.soon(Handle(target.loop, self._accept, (far, target)))
        near.open(protocol)
        return near, protocol

    @staticmethod
    def _accept(far: Transport, target: Listener) -> None:
        if not far.is_closing():
            far.open(target.factory())

    def _answer(self, loop: ProcessLoop, port: int, answer: Any) -> None:
        listener = self.listeners.get(port)
        node = listener.loop.number if listener is not None else port
        if loop.dead or {(loop.number, node), (node, loop.number)} & self.cuts:
            return
        if listener is None or listener.loop.dead:
            self.world.soon(Handle(loop, _refuse, (answer,)))
        elif not listener.loop.paused:
            self.world.soon(Handle(loop, _found, (answer, listener)))

    # Faults

    def heal(self) -> None:
        self.cuts.clear()
        self.slow_us.clear()
        for transport in self.transports():
            transport.deliver_later()

    def reset(self, transport: Transport) -> None:
        other = transport.other
        for end in (transport, other):
            if end is not None:
                end.fall(ConnectionResetError("reset"))

    def silence(self, transport: Transport) -> None:
        """Nothing arrives any more, either way; both ends find out by their keepalive."""
        other = transport.other
        for end in (transport, other):
            if end is not None:
                self.goes_silent(end)

    def goes_silent(self, end: Transport) -> None:
        end.silent = True
        self.world.after(KEEPALIVE_US, None, self._time_out, end)

    def _time_out(self, end: Transport) -> None:
        if end in self._open:
            end.fall(TimeoutError("keepalive"))

    def died(self, loop: ProcessLoop, *, tell: bool) -> None:
        """A process is gone; with `tell` its kernel says so to the other ends that can be reached."""
        for listener in [listener for listener in self.listeners.values() if listener.loop is loop]:
            listener.close()
        for transport in [transport for transport in self.transports() if transport.loop is loop]:
            other = transport.other
            passes = self.passes(transport)
            self.forget(transport)
            if other is not None and tell and passes and not transport.silent:
                self.world.after(LATENCY_US, None, other.fall, ConnectionResetError("reset by peer"))
            elif other is not None:
                self.goes_silent(other)

    def back(self, number: int) -> None:
        """A host is there again: whoever still believes in a connection to its past is told now."""
        for transport in self.transports():
            other = transport.other
            if transport.silent and other is not None and other.loop.dead and other.node == number:
                transport.fall(ConnectionResetError("reset by peer"))


def _refuse(answer: Any) -> None:
    if not answer.done():
        answer.set_exception(ConnectionRefusedError("nobody listens"))


def _found(answer: Any, listener: Listener) -> None:
    if not answer.done():
        answer.set_result(listener)
