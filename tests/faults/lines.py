"""The lines between nodes, and from nodes to ZooKeeper, as a proxy in user space that can be told to misbehave.

Faults: `cut` (one way or both: bytes wait, as they do while TCP repeats them; new connections open and stay mute),
`slow` (each piece waits a while: delay, jitter, and what packet loss looks like from above TCP), `reset` (both ends are
told).

Every node advertises an address of this proxy, so whatever goes between two nodes comes through here. Who dialled is
known from its greeting, the first frame of every connection.
"""

import asyncio
import random
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from replication.messages import Hello, Message
from replication.wire import FrameDecoder, WireError

Pair = tuple[str, str]
_PIECE: Final = 64 * 1024


@dataclass(slots=True)
class Line:
    """From one party to another. open: whether bytes pass. delay_s: each piece waits up to this long."""

    open: asyncio.Event = field(default_factory=asyncio.Event)
    delay_s: float = 0.0


class _Greeting:
    """Reads who dialled from the first frame."""

    def __init__(self) -> None:
        self.node_id: str | None = None
        self._decoder = FrameDecoder(self._begin)

    def feed(self, data: bytes) -> None:
        try:
            self._decoder.feed(data)
        except WireError:
            self.node_id = self.node_id or "?"

    def _begin(self, message: Message, size: int) -> "_Greeting":
        self.node_id = message.node_id if isinstance(message, Hello) else "?"
        raise WireError("the greeting is all that matters here")

    def write(self, data: memoryview) -> None:
        raise AssertionError("nothing follows")

    def finish(self) -> None:
        raise AssertionError("nothing follows")


class Wires(Protocol):
    """What goes between parties, by name, and how it is made to fail."""

    def cut(self, source: str, target: str) -> None:
        """Nothing passes from `source` to `target` any more."""
        ...

    def slow(self, source: str, target: str, delay_s: float) -> None: ...

    def reset(self, one: str, other: str) -> None:
        """Break every connection between two parties; both are told."""
        ...

    def heal(self) -> None:
        """Everything passes again."""
        ...

    def close(self) -> None: ...


class Lines(Wires):
    """All proxied connections, in a thread of their own. Methods may be called from any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._lines: dict[Pair, Line] = {}
        self._writers: dict[asyncio.StreamWriter, Pair] = {}
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="lines", daemon=True)
        self._thread.start()

    def listen(self, address: tuple[str, int], target: tuple[str, int], name: str, dialler: str | None = None) -> None:
        """Forward `address` to `target`, the party called `name`. dialler: None where the greeting tells."""

        async def serve() -> None:
            server = await asyncio.start_server(
                lambda reader, writer: self._accepted(reader, writer, target, name, dialler), *address, limit=_PIECE
            )
            self._servers.append(server)

        self._run(serve())

    def cut(self, source: str, target: str) -> None:
        self._call(lambda: self._line((source, target)).open.clear())

    def slow(self, source: str, target: str, delay_s: float) -> None:
        self._call(lambda: setattr(self._line((source, target)), "delay_s", delay_s))

    def reset(self, one: str, other: str) -> None:
        def reset() -> None:
            for writer, pair in list(self._writers.items()):
                if set(pair) == {one, other}:
                    writer.transport.abort()

        self._call(reset)

    def heal(self) -> None:
        def heal() -> None:
            for line in self._lines.values():
                line.delay_s = 0.0
                line.open.set()

        self._call(heal)

    def close(self) -> None:
        async def end() -> None:
            for server in self._servers:
                server.close()
            for line in self._lines.values():
                line.open.set()
            while self._tasks:
                for writer in list(self._writers):
                    writer.transport.abort()
                await asyncio.wait(self._tasks, timeout=0.2)

        self._run(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # In the thread

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def _call(self, work: Callable[[], object]) -> None:
        async def run() -> None:
            work()

        self._run(run())

    def _line(self, pair: Pair) -> Line:
        if pair not in self._lines:
            self._lines[pair] = Line()
            self._lines[pair].open.set()
        return self._lines[pair]

    async def _accepted(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        target: tuple[str, int],
        name: str,
        dialler: str | None,
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await self._serve(reader, writer, target, name, dialler)
        except OSError:
            writer.transport.abort()  # the target is down: whoever dialled is told

    async def _serve(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        target: tuple[str, int],
        name: str,
        dialler: str | None,
    ) -> None:
        first = b""
        if dialler is None:
            greeting = _Greeting()
            while greeting.node_id is None and (piece := await reader.read(_PIECE)):
                first += piece
                greeting.feed(piece)
            dialler = greeting.node_id or "?"
        there_reader, there_writer = await asyncio.open_connection(*target, limit=_PIECE)
        self._writers[writer] = (name, dialler)
        self._writers[there_writer] = (dialler, name)
        try:
            await asyncio.gather(
                self._pump(reader, there_writer, self._line((dialler, name)), first),
                self._pump(there_reader, writer, self._line((name, dialler)), b""),
            )
        finally:
            for end in (writer, there_writer):
                self._writers.pop(end, None)
                end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: Line, piece: bytes) -> None:
        while True:
            if piece:
                if line.delay_s:
                    await asyncio.sleep(random.random() * line.delay_s)
                await line.open.wait()
                writer.write(piece)
                await writer.drain()
            piece = await reader.read(_PIECE)
            if not piece:
                # An end passes like everything else: over a line that is cut, nobody hears of it.
                await line.open.wait()
                writer.close()
                return
