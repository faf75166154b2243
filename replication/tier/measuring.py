"""Whether objects are as long as the records that they hold: what a listing does not say, and a name does not prove.

How long they must be, the tables of this node's log say; no record is read, here or there.
"""

import asyncio
from collections.abc import Iterable
from concurrent.futures import Executor
from typing import Final, Protocol

from replication.tier.keys import PREFIX_BYTES, Run, form_of
from replication.tier.port import NotThere, ObjectDamaged, ObjectStore
from storage.errors import StorageError
from storage.position import EpochSpan, LogPoint
from storage.table import Entry

AT_ONCE: Final = 4


class Tables(Protocol):
    """What is asked of a log, in a thread."""

    def point_at(self, sequence: int) -> LogPoint | None: ...

    def entry(self, sequence: int) -> Entry | None: ...

    def sealed_at(self, sequence: int) -> EpochSpan | None: ...

    def stubs_of(self, sequence: int) -> list[int]:
        """Raises StorageError."""
        ...


async def unlike(store: ObjectStore, log: Tables, runs: Iterable[Run], readers: Executor) -> tuple[Run, ...]:
    """Those whose length is another than that of their records. Raises TierError when the store cannot be asked."""
    loop = asyncio.get_running_loop()
    known = await loop.run_in_executor(readers, _lengths, log, runs)
    found: list[Run] = []
    for at in range(0, len(known), AT_ONCE):
        some = known[at : at + AT_ONCE]
        sizes = await asyncio.gather(*(_size(store, run) for run, _ in some))
        found += [run for (run, length), size in zip(some, sizes, strict=True) if size not in (None, length)]
    return tuple(found)


async def _size(store: ObjectStore, run: Run) -> int | None:
    try:
        return (await store.head(run.key)).size
    except NotThere:
        return None  # replaced since it was listed, or lost: the listing says which
    except ObjectDamaged:
        return -1  # the store itself knows that it is not whole


def _lengths(log: Tables, runs: Iterable[Run]) -> list[tuple[Run, int]]:
    stubs: dict[int, list[int]] = {}
    found = ((run, length_of(log, run, stubs)) for run in runs)
    return [(run, length) for run, length in found if length is not None]


def length_of(log: Tables, run: Run, stubs: dict[int, list[int]]) -> int | None:
    """None where this log does not know: another branch, damage, another form, or more than one segment.

    stubs: of segments that were looked at already, by their first record.
    """
    end, first, last = log.point_at(run.last), log.entry(run.first), log.entry(run.last)
    if end is None or end.position != run.end or end.chain[:PREFIX_BYTES] != run.chain_prefix:
        return None
    if first is None or last is None or first.segment != last.segment:
        return None
    try:
        if log.sealed_at(run.first) is not None and first.segment not in stubs:
            stubs[first.segment] = log.stubs_of(run.first)
    except StorageError:
        return None
    here = [sequence for sequence in stubs.get(first.segment, ()) if run.first <= sequence <= run.last]
    return last.offset + last.length - first.offset if form_of(here) == run.form else None
