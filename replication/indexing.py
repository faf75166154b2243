"""The index follows the commit point, off the write path; while whole segments come in it gives way: the copy first."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Executor
from typing import Any, Final

from replication.recent import FRESH_RECORDS, Recent
from storage.errors import ForeignIndex
from storage.index import Index
from storage.indexer import Fresh, Indexer
from storage.log import Log
from storage.position import LogPoint

_LOG: Final = logging.getLogger("perenne.index")
PAUSE_S: Final = 0.1
RETRY_S: Final = 5.0
SLICE: Final = 2048
"""Records between two looks whether to give way."""
GIVE_WAY_S: Final = 1.0
"""From a step of a segment on. The proof of one, and the thread that receives it, would wait for the interpreter."""
HOLES_S: Final = 60.0
"""Between two attempts to read what could not be read: an object of the tier may have been put back."""


class Indexing:
    """One thread that applies what was committed. spawn: runs a coroutine and keeps hold of it."""

    def __init__(
        self,
        log: Log,
        index: Index,
        recent: Recent,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        thread: Executor,
    ) -> None:
        self._log, self._index = log, index
        self._indexer = Indexer(log, index, begins_anew=False)
        self._recent = recent
        self._spawn = spawn
        self._thread = thread
        self._wanted: LogPoint | None = None
        self._busy = self._filling = False
        self._way_until = 0.0

    def give_way(self) -> None:
        """A whole segment comes in, or is proved."""
        self._way_until = asyncio.get_running_loop().time() + GIVE_WAY_S

    def follow(self, point: LogPoint) -> None:
        """Everything up to `point` is committed here."""
        self._wanted = point
        if not self._busy:
            self._busy = True
            self._spawn(self._advance())

    def fill_holes(self) -> None:
        """Records that were damaged may have been repaired: let the index know what they are called."""
        if self._index.holes:
            self._spawn(self._fill_holes())

    async def _fill_holes(self) -> None:
        try:
            left = await asyncio.get_running_loop().run_in_executor(self._thread, self._indexer.fill_holes)
            _LOG.info("the index was told of repaired records", extra={"holes_left": left})
        except Exception as error:  # noqa: BLE001 - the holes stay, and nothing is called absent meanwhile
            _LOG.error("the index cannot be written", extra={"error": type(error).__name__})

    def rebuild(self) -> None:
        """The index cannot be believed: make it anew from the log. `recent` is not complete until that is done."""
        if self._recent.doubtful:
            return
        self._recent.doubtful = True
        self.follow(self._wanted or self._index.applied)

    def close(self) -> None:
        """Wait for what is under way."""
        self._thread.shutdown()

    async def _advance(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._wanted is not None:
                # One transaction for many records: the index may be late, `recent` knows what it does not.
                await asyncio.sleep(PAUSE_S)
                point, self._wanted = self._wanted, None
                first = self._index.applied.sequence + 1
                fresh = self._recent.fresh(first, min(point.sequence, first + FRESH_RECORDS))
                try:
                    if self._recent.doubtful:
                        await loop.run_in_executor(self._thread, self._index.clear)
                        self._recent.doubtful = False
                    await self._in_slices(point, fresh)
                except ForeignIndex as error:
                    _LOG.warning("the index does not belong to this log: rebuilding", extra={"reason": str(error)})
                    # Before it forgets: what it knew alone, nobody knows until it has come as far again.
                    self._recent.doubtful = True
                    known = min(self._index.applied.sequence, self._log.end.sequence)  # it may say more than there is
                    self._recent.installed_upto(max(point.sequence, known))
                    self._wanted = self._wanted or point
                except Exception as error:  # noqa: BLE001 - SQLite's reasons are many; the log has everything
                    _LOG.error("the index cannot be written", extra={"error": type(error).__name__})
                    self._wanted = self._wanted or point
                    await asyncio.sleep(RETRY_S)
                self._recent.indexed_upto(self._index.applied.sequence)
        finally:
            self._busy = False
        if self._index.holes and not self._filling:
            self._filling = True
            self._spawn(self._fill_again())

    async def _in_slices(self, point: LogPoint, fresh: Mapping[int, Fresh]) -> None:
        loop = asyncio.get_running_loop()
        upto = self._index.applied
        while upto != point:
            if loop.time() < self._way_until:
                await asyncio.sleep(PAUSE_S)  # what is left may be less than a clock tells apart
                continue
            last = self._index.applied.sequence + SLICE
            upto = (self._log.point_at(last) if last < point.sequence else None) or point
            await loop.run_in_executor(self._thread, self._indexer.advance, upto, fresh)

    async def _fill_again(self) -> None:
        while self._index.holes:
            await asyncio.sleep(HOLES_S)
            await self._fill_holes()
        self._filling = False
