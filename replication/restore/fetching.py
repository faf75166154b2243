"""Objects of the tier as one stream of bounded memory: ranges are asked for ahead, and handed on in order.

An object is asked for by ranges of `PIECE` bytes. Its first range is asked for while earlier objects are still being
read; if that is full, the object goes on, and a few more of its ranges are asked for at once. What lies beyond its end
is empty, so nobody needs to know its size. At most `AHEAD` + `WITHIN` pieces are in memory.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from typing import Final

from replication.restore.seams import HeaderSearch
from replication.tier.contents import Link
from replication.tier.keys import Run
from replication.tier.port import ObjectStore, TierError
from storage.record import HEADER_LIMIT, RECORD_ALIGNMENT, decode_header
from storage.table import PAGE, data_offset, decode_segment_header

PIECE: Final = 16 * 1024 * 1024
"""Most objects of the synchronous path fit into one."""
AHEAD: Final = 4
WITHIN: Final = 3
TAIL: Final = 1024 * 1024
"""Bytes at the end of an object in which the header of its last record is looked for first."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """A piece of an object. last: nothing of it follows. error: nothing came, for this reason."""

    run: Run
    data: bytes
    last: bool
    error: TierError | None = None


class Fetching:
    """Reads the given objects, one after another."""

    def __init__(self, store: ObjectStore, piece: int = PIECE) -> None:
        self._store = store
        self._piece = piece
        self.bytes = 0
        """That arrived so far."""
        self._chains: dict[tuple[Run, int], bytes] = {}
        """What was asked for already: plans are made again, and objects never change under their names."""

    async def all(self, runs: Iterable[Run]) -> AsyncGenerator[Arrived, None]:
        """Yield every object's pieces in order; after an error, the next object. Close it to stop early."""
        coming = iter(runs)
        firsts: deque[tuple[Run, asyncio.Task[bytes]]] = deque()
        try:
            while True:
                while len(firsts) < AHEAD and (run := next(coming, None)) is not None:
                    firsts.append((run, self._ask(run, 0)))
                if not firsts:
                    return
                run, first = firsts.popleft()
                async with contextlib.aclosing(self._object(run, first)) as pieces:
                    async for piece in pieces:
                        yield piece
        finally:
            await _end(task for _, task in firsts)

    async def _object(self, run: Run, first: "asyncio.Task[bytes]") -> AsyncGenerator[Arrived, None]:
        within: deque[asyncio.Task[bytes]] = deque([first])
        asked = 1
        try:
            while within:
                try:
                    data = await within.popleft()
                except TierError as error:
                    yield Arrived(run, b"", True, error)
                    return
                self.bytes += len(data)
                last = len(data) < self._piece
                yield Arrived(run, data, last)
                if last:
                    return
                while len(within) < WITHIN:
                    within.append(self._ask(run, asked * self._piece))
                    asked += 1
        finally:
            await _end(within)

    def _ask(self, run: Run, offset: int) -> "asyncio.Task[bytes]":
        return asyncio.get_running_loop().create_task(self._store.get_range(run.key, offset, self._piece))

    async def head(self, run: Run) -> Link:
        """The header of its first record. Raises TierError, StorageError."""
        data = await self._store.get_range(run.key, 0, HEADER_LIMIT)
        if data.startswith(b"segment.table\0"):
            offset = data_offset(decode_segment_header(data[:PAGE]).segment_bytes)
            data = await self._store.get_range(run.key, offset, HEADER_LIMIT)
        decoded = decode_header(data)
        return Link(decoded.header, decoded.chain)

    async def chain(self, run: Run, sequence: int, above: Link) -> bytes | None:
        """The chain up to one record, as the record's header in the object says it; None where it cannot be read.

        above: the record behind it, which proves it. Raises TierError.
        """
        if (run, sequence) not in self._chains:
            found = await self._at_the_end(run, above) if sequence == run.last else None
            found = found or await self._looked_for(HeaderSearch(run, sequence))
            if found is None:
                return None
            self._chains[run, sequence] = found
        return self._chains[run, sequence]

    async def _at_the_end(self, run: Run, above: Link) -> bytes | None:
        """Look at the last bytes alone: enough, unless the last record is large. An image may hold a forged header, so
        what does not fit says nothing here.
        """
        start = (await self._store.head(run.key)).size - TAIL
        start -= start % RECORD_ALIGNMENT
        if start <= 0:
            return None
        data = await self._store.get_range(run.key, start, self._piece)
        found = HeaderSearch(run, run.last).feed(data, last=True)
        return found if found is not None and above.follows(found) else None

    async def _looked_for(self, looking: HeaderSearch) -> bytes | None:
        async with contextlib.aclosing(self.all([looking.run])) as pieces:
            async for piece in pieces:
                if piece.error is not None:
                    raise piece.error
                if (found := looking.feed(piece.data, last=piece.last)) is not None:
                    return found
        return None


async def _end(tasks: Iterable["asyncio.Task[bytes]"]) -> None:
    """Whatever was asked for ahead is not wanted any more."""
    left = list(tasks)
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
