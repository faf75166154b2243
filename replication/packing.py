"""Packing, carried out: a sealed segment is put as one object, read back and proved; what it replaces is deleted.

The object is what a group of the same records would be, byte for byte: bare records, without the segment's table. So a
name, which says what is a stub in it, has one content for ever, whoever puts it, and there is one way to read. It comes
out of the log file in pieces.
"""

import asyncio
import time
import zlib
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final

from replication.core import effects as fx
from replication.core import events as ev
from replication.tier.bodies import Body, FilePart
from replication.tier.contents import Link, RunReader
from replication.tier.keys import WHOLE, Form, Run, form_of, parse_run, run_name
from replication.tier.port import AlreadyThere, NotThere, ObjectDamaged, ObjectStore, Refused, TierError
from replication.tier.streaming import stream_run
from storage.disk import Disk
from storage.errors import FormatError, RecordAbsent, RecordCorrupt, StorageError
from storage.log import Log
from storage.position import EpochSpan, LogPoint
from storage.sealed import SealedRecords

IN_MEMORY_BYTES: Final = 8 * 1024 * 1024
"""A segment with no more bytes is put from memory."""
DELETES_AT_ONCE: Final = 4
OTHER_FORM: Final = "the tier has no object of the form that the segment has here, since one of them was compacted"
_STEP_S: Final = 0.005
_LONGEST_STEP_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class _Local:
    """A segment as it lies here, every record of it checked. crc32: of its bytes, from when they were checked."""

    run: Run
    body: Body
    size: int
    crc32: int


class Packer:
    """One node's hand for `core.packing`. urgent(): whether a put that somebody waits for is under way."""

    def __init__(self, log: Log, disk: Disk, store: ObjectStore, readers: Executor, urgent: Callable[[], bool]) -> None:
        self._log = log
        self._disk = disk
        self._store = store
        self._readers = readers
        self._urgent = urgent

    async def pack(self, effect: fx.PackSegment, *, conditional: bool) -> ev.TierPacked:
        """conditional: ask for the store's condition."""
        moved = 0
        try:
            end = self._log.point_at(effect.last)
            if end is None:
                raise RecordAbsent(effect.last)
            loop = asyncio.get_running_loop()
            form = await loop.run_in_executor(self._readers, self._form, effect.first)
            run = run_name(effect.first, end, form)
            if not await self.is_there(run):
                local = await loop.run_in_executor(self._readers, self._checked, effect, run)
                await self._store.put(run.key, local.body, crc32=local.crc32, only_if_absent=conditional, lock=True)
                moved = local.size
            try:
                await self._prove(run, end)
            except (RecordCorrupt, FormatError):
                await self._prove(run, end)  # bytes may be damaged on the way as well
        except (AlreadyThere, ObjectDamaged, RecordCorrupt, FormatError) as error:
            return ev.TierPacked(effect.request, moved, str(error), lasting=True)
        except (TierError, StorageError, DamagedHere) as error:
            return ev.TierPacked(effect.request, moved, str(error))
        return ev.TierPacked(effect.request, moved, form=run.form)

    async def delete(self, effect: fx.DeleteRuns) -> ev.TierDeleted:
        """Some at a time; what is gone already is no error."""
        for at in range(0, len(effect.runs), DELETES_AT_ONCE):
            deletes = [self._store.delete(run.key) for run in effect.runs[at : at + DELETES_AT_ONCE]]
            for result in await asyncio.gather(*deletes, return_exceptions=True):
                if isinstance(result, TierError):
                    return ev.TierDeleted(effect.request, str(result), lasting=isinstance(result, Refused))
                if isinstance(result, BaseException):
                    raise result
        return ev.TierDeleted(effect.request)

    def named(self, span: EpochSpan) -> Run:
        """The object that holds a segment as it is here. Raises RecordAbsent where its end is damaged."""
        end = self._log.point_at(span.last)
        if end is None:
            raise RecordAbsent(span.last)
        return run_name(span.first, end, self._form(span.first))

    async def forms(self, own: Run) -> list[Run]:
        """The objects of the same records, on this very branch, those with most stubs first. Raises TierError."""
        plain = replace(own, form=WHOLE)
        keys = [key async for key in self._store.list(plain.key.removesuffix(".tar"))]
        runs = [run for key in keys if (run := parse_run(key)) is not None and replace(run, form=WHOLE) == plain]
        return sorted(runs, key=lambda run: run.form.stubs, reverse=True)

    async def contents(self, run: Run) -> list[Link]:
        """Every record of an object, read whole and checked: each, one against the other, and all against its name.

        Raises TierError, RecordCorrupt, FormatError.
        """
        reader, links = RunReader(run), list[Link]()
        async with aclosing(stream_run(self._store, run.key, reader, self._readers)) as found:
            async for some in found:
                links += some
        if form_of(link.sequence for link in links if link.tombstone) != run.form:
            raise FormatError(f"{run.key} holds other stubs than its name says")
        return links

    async def prove(self, span: EpochSpan) -> str | None:
        """Read back the object that should hold a segment as it is here; say why it does not, None when it does."""
        form = WHOLE
        try:
            end = self._log.point_at(span.last)
            if end is None:
                raise RecordAbsent(span.last)
            form = self._form(span.first)
            await self._prove(run_name(span.first, end, form), end)
        except NotThere as error:
            return f"{error}: {OTHER_FORM}" if form.stubs else str(error)
        except (TierError, StorageError) as error:
            return str(error)
        return None

    def _form(self, first: int) -> Form:
        return form_of(self._log.stubs_of(first))

    async def is_there(self, run: Run) -> bool:
        """Raises TierError."""
        try:
            await self._store.head(run.key)
        except NotThere:
            return False
        return True

    def _checked(self, effect: fx.PackSegment, run: Run) -> _Local:
        """Read the segment once, and check every record of it: nothing damaged leaves this node under a good name."""
        sealed = self._log.sealed_records(effect.first)
        if (sealed.span.first, sealed.span.last) != (effect.first, effect.last):
            raise RecordAbsent(effect.last)
        crc = 0
        stubs: list[int] = []
        kept: list[bytes] | None = [] if sealed.size <= IN_MEMORY_BYTES else None
        reader = RunReader(run)
        try:
            for piece in sealed.pieces():
                stubs += [link.sequence for link in reader.feed(piece) if link.tombstone]
                crc = zlib.crc32(piece, crc)
                if kept is not None:
                    kept.append(piece)
                else:
                    self._give_way()
            reader.finish()
        except RecordCorrupt as error:
            self._log.note_damage(error.sequence)
            raise DamagedHere(str(error)) from error
        if form_of(stubs) != run.form:
            raise DamagedHere("it was compacted while it was read")
        return _Local(run, b"".join(kept) if kept is not None else self._file(sealed), sealed.size, crc)

    def _file(self, sealed: SealedRecords) -> FilePart:
        path = self._disk.path(sealed.name)
        assert path is not None, "only a disk on paper has no files, and it has no large segments"
        return FilePart(path, sealed.offset, sealed.size, self._give_way)

    def _give_way(self) -> None:
        """Wait a moment, in a thread, while a put is under way that somebody waits for."""
        waited = 0.0
        while self._urgent() and waited < _LONGEST_STEP_S:
            time.sleep(_STEP_S)
            waited += _STEP_S

    async def _prove(self, run: Run, end: LogPoint) -> None:
        """Read the object back, and check that it holds these records of this very branch, and nothing else, with the
        stubs that its name says: each record lies where it lies in a segment of this form.
        """
        reader = RunReader(run)
        last = None
        stubs: list[int] = []
        async with aclosing(stream_run(self._store, run.key, reader, self._readers)) as found:
            async for links in found:
                last = links[-1] if links else last
                stubs += [link.sequence for link in links if link.tombstone]
        if form_of(stubs) != run.form:
            raise FormatError(f"{run.key} holds {len(stubs)} stubs, and not those that its name says")
        if last is None or last.chain != end.chain:
            raise RecordCorrupt(run.last, f"{run.key} holds another branch than its name says")


class DamagedHere(Exception):
    """A record of this node's own log, or the segment is another now; it is packed later."""
