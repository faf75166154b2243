"""Whole segments beside the ordinary way of a restore: other processes fetch and prove them ahead of time.

An object that was packed holds the records of one sealed segment. A process of its own makes a segment file of it, with
every proof that the ordinary way has but one: that it continues what lies before. The log judges that, and takes the
file over as it lies. Whatever goes wrong here is left to the ordinary way, which meets it again and says what it is.
"""

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Final, Protocol

from replication.restore.cutting import Cutter, Unkept
from replication.restore.fetching import Fetching
from replication.restore.filling import Filling, RestoringDisk
from replication.tier.keys import Run
from replication.tier.port import NotThere, ObjectStore, TierError
from replication.tier.tip import Piece
from storage.assembling import Assembled, Assembly
from storage.errors import StorageError

LARGE_BYTES: Final = 32 * 1024 * 1024
"""An object of so many bytes, and of `MANY` records, is no group of the synchronous path."""
MANY: Final = 16
_PIECE: Final = 8 * 1024 * 1024
_HEADS_AHEAD: Final = 32


class HandsLost(Exception):
    """A process ended without an answer: killed, or out of memory."""


class Hands(Protocol):
    """Processes that assemble. count: how many work at once. large_bytes: objects that are smaller are not theirs."""

    @property
    def count(self) -> int: ...

    @property
    def large_bytes(self) -> int: ...

    async def assemble(self, run: Run, root: Path, staged: str, segment_bytes: int) -> Assembled | str:
        """The file `staged` below `root`, or why there is none. Raises HandsLost."""
        ...

    def close(self) -> None:
        """Nothing is written any more."""
        ...


async def assembled(store: ObjectStore, run: Run, root: Path, staged: str, segment_bytes: int) -> Assembled | str:
    """Fetch, prove and write one object, in the process of whoever calls; or say why not, and leave no file."""
    disk = RestoringDisk(root)
    made = await _assembled(disk, store, run, staged, segment_bytes)
    if isinstance(made, str) and disk.exists(staged):
        disk.remove(staged)
    return made


async def _assembled(
    disk: RestoringDisk, store: ObjectStore, run: Run, staged: str, segment_bytes: int
) -> Assembled | str:
    try:
        assembly = Assembly(disk, staged, segment_bytes)
        with contextlib.closing(assembly):
            cutter = Cutter(run, lambda _: Unkept())
            async with contextlib.aclosing(Fetching(store, _PIECE).all([run])) as pieces:
                async for piece in pieces:
                    if piece.error is not None:
                        return str(piece.error)
                    assembly.write(piece.data)
                    for record in chain(cutter.feed(piece.data), cutter.finish() if piece.last else ()):
                        assembly.record(record.header, record.chain, record.length, record.tombstone)
            return assembly.finish()
    except (TierError, StorageError) as error:
        return str(error)


class Assembling:
    """The segments of a plan in their order, made a few ahead of when they are wanted."""

    def __init__(self, store: ObjectStore, hands: Hands, filling: Filling) -> None:
        self._store = store
        self._hands = hands
        self._filling = filling
        self._token = secrets.token_hex(4)
        self._candidates: Iterator[Run] = iter(())
        self._sizes: dict[Run, asyncio.Task[int]] = {}
        self._unasked: deque[Run] = deque()
        self._asking = 0
        self._made: dict[Run, asyncio.Task[Assembled | str]] = {}
        self.lost = ""
        """Why there are no hands any more."""

    def follow(self, pieces: Iterable[Piece]) -> None:
        """These are wanted from now on, in this order."""
        runs = [piece.run for piece in pieces if _whole(piece)]
        self._unasked = deque(run for run in runs if run not in self._sizes)
        self._candidates = iter([run for run in runs if run not in self._made])

    async def takes(self, piece: Piece) -> bool:
        """Whether this piece is one to wait for here."""
        if self.lost or not _whole(piece):
            return False
        large = await self._size(piece.run) >= self._hands.large_bytes
        if not large and (task := self._made.pop(piece.run, None)) is not None:
            task.cancel()
        return large

    async def take(self, piece: Piece) -> Assembled | None:
        """Its segment; None where the ordinary way must have it."""
        self._go_ahead()
        task = self._made.pop(piece.run, None) or asyncio.create_task(self._make(piece.run))
        try:
            made = await task
        except HandsLost as error:
            self.lost = str(error)
            return None
        self._go_ahead()
        return made if isinstance(made, Assembled) else None

    async def close(self) -> None:
        self._hands.close()
        made, sizes = list(self._made.values()), list(self._sizes.values())
        for task in (*made, *sizes):
            task.cancel()
        await asyncio.gather(*made, return_exceptions=True)
        await asyncio.gather(*sizes, return_exceptions=True)
        self._filling.unstage(f"segment-{self._token}-")  # what nobody took: the room is wanted for what lies beyond

    def _go_ahead(self) -> None:
        while len(self._made) <= self._hands.count and (run := next(self._candidates, None)) is not None:
            self._made[run] = asyncio.create_task(self._make(run))

    async def _make(self, run: Run) -> Assembled | str:
        if await self._size(run) < self._hands.large_bytes:
            return "it is small"
        filling = self._filling
        staged = filling.staged(f"segment-{self._token}-{run.first}")
        return await self._hands.assemble(run, filling.root, staged, filling.marker.segment_bytes)

    async def _size(self, run: Run) -> int:
        self._ask(run)
        while self._unasked and self._asking < _HEADS_AHEAD:
            self._ask(self._unasked.popleft())
        return await self._sizes[run]

    def _ask(self, run: Run) -> None:
        if run not in self._sizes:
            self._asking += 1
            self._sizes[run] = asyncio.create_task(self._asked(run))

    async def _asked(self, run: Run) -> int:
        """Bytes of an object; 0 where the ordinary way must find out what became of it."""
        try:
            return (await self._store.head(run.key)).size
        except NotThere:
            return 0
        finally:
            self._asking -= 1


def _whole(piece: Piece) -> bool:
    run = piece.run
    return (piece.first, piece.last) == (run.first, run.last) and run.last - run.first + 1 >= MANY
