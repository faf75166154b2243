"""One import: what lies below some paths is read once, examined, and brought to a cluster over a few associations.

Reading is pulled by the associations, in a thread and by one of them at a time, so what is in memory is bounded by
their number; and an archive that is read from a tape or a tar is read from front to back.
"""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from perenne.journal import Journal
from perenne.moving import findings
from perenne.moving.contexts import Pair, Pairs
from perenne.moving.courier import Courier, GaveUp, Target
from perenne.moving.examine import Examiner, Instance
from perenne.moving.findings import Findings, LeftOut
from perenne.moving.known import Known
from perenne.moving.trees import Progress, finds

_BATCH: Final = 16
_BATCH_BYTES: Final = 4 * 1024 * 1024


@dataclass(slots=True)
class Summary:
    """stopped: why the import ended before everything had been offered; None when it had."""

    acknowledged: int = 0
    already: int = 0
    bytes: int = 0
    stopped: str | None = None
    pairs: Counter[Pair] = field(default_factory=Counter[Pair])
    """Of a dry run: how many instances there are of each class and transfer syntax."""


class Throttle:
    """So many bytes per second in the long run; None for no bound."""

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._free = 0.0

    async def admit(self, size: int) -> None:
        if self._rate is not None:
            now = time.monotonic()
            start = max(now, self._free)
            self._free = start + size / self._rate
            if start > now:
                await asyncio.sleep(start - now)


class Import:
    """Reads `paths`, skips what is `known`, and notes in `found` what is left out."""

    def __init__(self, paths: Sequence[Path], examiner: Examiner, known: Known, found: Findings) -> None:
        self.summary = Summary()
        self.progress = Progress()
        self._examiner = examiner
        self._known = known
        self._found = found
        self._pairs = Pairs()
        self._lock = threading.Lock()
        self._held_back: list[Instance] = []
        self._reading = self._read(paths)

    def survey(self, tell: Callable[[], None]) -> None:
        """Read and examine everything, and send nothing."""
        for one in self._reading:
            self.summary.pairs[one.pair] += 1
            one.content.discard()
            tell()
        for one in self._held_back:
            self._found.leave_out(LeftOut(one.name, findings.HEADER_ONLY, "an image without pixels"))

    async def run(
        self, target: Target, journal: Journal, *, associations: int, rate: float | None, tell: Callable[[], None]
    ) -> None:
        """Bring everything. tell: called after each instance."""
        throttle = Throttle(rate)
        await self._bring(self._reading, target, journal, associations, throttle, tell)
        if self.summary.stopped is None:
            # Whether an image without pixels is only the header of another file is known when all others are stored.
            await self._bring(self._without_image(), target, journal, associations, throttle, tell)

    def _read(self, paths: Sequence[Path]) -> Iterator[Instance]:
        for find in finds(paths, self._skip, self.progress):
            one = find if isinstance(find, LeftOut) else self._examiner.examine(find)
            if isinstance(one, LeftOut):
                self._found.leave_out(one)
            elif self._known.has(one):
                self.summary.already += 1
                one.content.discard()
            elif one.header_only:
                self._hold_back(one)
            else:
                yield one

    def _skip(self, name: str, stamp: str) -> bool:
        known = self._known.has_source(name, stamp)
        self.summary.already += known
        return known

    def _hold_back(self, one: Instance) -> None:
        try:
            self._held_back.append(self._examiner.kept(one))
        except OSError as error:
            self._found.leave_out(LeftOut(one.name, findings.UNREADABLE, f"cannot be kept for later: {error.strerror}"))

    def _without_image(self) -> Iterator[Instance]:
        for one in self._held_back:
            if self._known.has_uid(one.sop_instance_uid):
                why = "an image without pixels, and one with this UID was imported"
                self._found.leave_out(LeftOut(one.name, findings.HEADER_ONLY, why, one.sop_instance_uid))
                one.content.discard()
            else:
                yield one

    async def _bring(
        self,
        source: Iterator[Instance],
        target: Target,
        journal: Journal,
        associations: int,
        throttle: Throttle,
        tell: Callable[[], None],
    ) -> None:
        def take() -> list[Instance]:
            batch: list[Instance] = []
            with self._lock:
                size = 0
                while len(batch) < _BATCH and size < _BATCH_BYTES and (one := next(source, None)) is not None:
                    self._pairs.note(one.pair)
                    batch.append(one)
                    size += one.size
            return batch

        async def work(courier: Courier) -> None:
            ahead = asyncio.create_task(asyncio.to_thread(take))
            try:
                while self.summary.stopped is None and (batch := await ahead):
                    ahead = asyncio.create_task(asyncio.to_thread(take))  # read while this is sent
                    # What fits the association as it is goes first, so that a new one is opened seldom.
                    for one in sorted(batch, key=lambda one: not courier.proposes(one.pair)):
                        if self.summary.stopped is None:
                            await throttle.admit(one.size)
                            await self._one(courier, one)
                            tell()
                await courier.close()
            except GaveUp as error:
                self.summary.stopped = self.summary.stopped or str(error)
            finally:
                await asyncio.gather(ahead, return_exceptions=self.summary.stopped is not None)
                await courier.hang_up()

        couriers = [Courier(target, number, self._pairs, journal) for number in range(associations)]
        async with asyncio.TaskGroup() as group:
            for courier in couriers:
                group.create_task(work(courier))

    async def _one(self, courier: Courier, one: Instance) -> None:
        told = await courier.bring(one)
        if told.acknowledged:
            self._known.add(one)
            self.summary.acknowledged += 1
            self.summary.bytes += one.size
        else:
            what = findings.UNREADABLE if told.unreadable else findings.REFUSED
            self._found.leave_out(LeftOut(one.name, what, told.why, one.sop_instance_uid, told.status))
        one.content.discard()
