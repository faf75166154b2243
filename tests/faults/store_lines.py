"""The way from each node to the bucket: an HTTP proxy in user space that can be told to misbehave.

Faults: `slow` (each request waits first), `answer` (the proxy's own: 503, 507; the store sees nothing),
`garbled` (the signature is altered on the way, so that the store itself refuses it), `mute` (the store does what was
asked, and the node hears nothing), `held` (a PUT waits until `release`, and is then done, whoever still listens),
`cut` (nothing passes: requests wait, and then end without an answer).

Every node has an address of its own here, so whose request it is need not be guessed. The Host header passes as it
came, so signatures hold. One connection for each request: what the store says is passed on as it is, to the end.
"""

import asyncio
import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

_HEAD_BYTES: Final = 64 * 1024
_PIECE: Final = 256 * 1024
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_SIGNATURE: Final = re.compile(rb"(Signature=)([0-9a-f]{8})")
SLOW_DOWN: Final = b"503 Service Unavailable", b"<Error><Code>SlowDown</Code><Message>later</Message></Error>"
FULL: Final = b"507 Insufficient Storage", b"<Error><Code>InsufficientStorage</Code><Message>full</Message></Error>"


@dataclass(frozen=True, slots=True)
class Manner:
    """How a node's requests are treated. writes_alone: only PUTs are, everything else passes. least_bytes: nothing
    smaller is.
    """

    slow_s: float = 0.0
    answer: tuple[bytes, bytes] | None = None
    garbled: bool = False
    mute: bool = False
    held: bool = False
    cut: bool = False
    writes_alone: bool = False
    least_bytes: int = 0


PLAIN: Final = Manner()


class StoreLines:
    """All requests to one store, in a thread of their own. Methods may be called from any thread."""

    def __init__(self) -> None:
        self.port = 0
        """Where the store listens; changes when it is started anew."""
        self._loop = asyncio.new_event_loop()
        self._manners: dict[str, Manner] = {}
        self._struck: Counter[str] = Counter()
        self._seen: Counter[tuple[str, str]] = Counter()
        self._holding = 0
        self._late = 0
        self._passing = asyncio.Event()
        """Cleared while a PUT is held or a line is cut."""
        self._passing.set()
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="store lines", daemon=True)
        self._thread.start()

    def listen(self, address: tuple[str, int], node: str) -> None:
        """The address at which `node` finds the store."""

        async def serve() -> None:
            server = await asyncio.start_server(
                lambda reader, writer: self._accepted(reader, writer, node), *address, limit=_HEAD_BYTES
            )
            self._servers.append(server)

        self._run(serve())

    def treat(self, manner: Manner, *nodes: str) -> None:
        """From now on the requests of these nodes are treated so."""

        def treat() -> None:
            if manner.held or manner.cut:
                self._passing.clear()
            self._manners.update(dict.fromkeys(nodes, manner))

        self._call(treat)

    def release(self) -> int:
        """Every node is treated plainly again. What was held is passed on; return how many PUTs that were."""
        count = self._holding

        def release() -> None:
            self._manners.clear()
            self._passing.set()

        self._call(release)
        return count

    def heal(self) -> None:
        self.release()

    @property
    def holding(self) -> int:
        """PUTs that wait at this moment."""
        return self._holding

    @property
    def late(self) -> int:
        """PUTs that were held, and then done by the store."""
        return self._late

    def struck(self, *nodes: str) -> int:
        """How many requests of these nodes were treated otherwise than plainly so far."""
        return sum(self._struck[node] for node in nodes)

    def seen(self, node: str, method: str) -> int:
        """How many requests of a node came so far."""
        return self._seen[node, method]

    def close(self) -> None:
        async def end() -> None:
            for server in self._servers:
                server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

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

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, node: str) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await self._serve(reader, writer, node)
        except (OSError, asyncio.IncompleteReadError):
            pass  # one of both ends is gone: the other is told by the end of its connection
        finally:
            writer.transport.abort() if writer.transport.is_closing() else writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, node: str) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        body = await reader.readexactly(int(length[1])) if length is not None else b""
        method = head.partition(b" ")[0].decode("ascii")
        self._seen[node, method] += 1
        manner = self._manners.get(node, PLAIN)
        if (manner.writes_alone and method != "PUT") or len(body) < manner.least_bytes:
            manner = PLAIN
        if manner != PLAIN:
            self._struck[node] += 1
        if manner.slow_s:
            await asyncio.sleep(random.random() * manner.slow_s)
        if manner.answer is not None:
            status, said = manner.answer
            length_now = str(len(said)).encode()
            writer.write(
                b"HTTP/1.1 " + status + b"\r\nConnection: close\r\nContent-Length: " + length_now + b"\r\n\r\n"
            )
            writer.write(said)
            await writer.drain()
            return
        if manner.cut:
            await self._passing.wait()
            return
        if manner.garbled:
            head = _SIGNATURE.sub(rb"\g<1>00000000", head)
        await self._pass_on(head, body, writer, method, manner)

    async def _pass_on(
        self, head: bytes, body: bytes, writer: asyncio.StreamWriter, method: str, manner: Manner
    ) -> None:
        held = manner.held and method == "PUT"
        if held:
            self._holding += 1
            try:
                await self._passing.wait()
            finally:
                self._holding -= 1
        there, store = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            store.write(head[:-2] + b"Connection: close\r\n\r\n")
            store.write(body)
            await store.drain()
            said = False
            while piece := await there.read(_PIECE):
                said = True
                if not (manner.mute or held):
                    writer.write(piece)
                    await writer.drain()
            self._late += held and said
        finally:
            store.transport.abort()
