"""Eviction: a full disk lets go of sealed segments that the tier holds, proved, and reads them back in ranges.

A segment is evicted only while enough other members keep everything, and only after its object was read back and each
record in it proved. Off unless `storage.evict_below_free_bytes` says otherwise.
"""

import asyncio
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from replication.packing import OTHER_FORM
from replication.tier.keys import form_of, run_name
from replication.tier.port import NotThere, ObjectStore, TierError
from storage.errors import PayloadGone, RecordCorrupt, RecordsElsewhere, StorageError
from storage.evicted import Stub
from storage.position import EpochSpan, RecordHeader
from storage.reader import StoredRecord, StoredStub, checked
from storage.staging import Staged

if TYPE_CHECKING:
    from replication.replicator import Replicator
    from replication.tiering import Tiering

_LOG: Final = logging.getLogger("perenne.evicting")
BLOCK: Final = 1024 * 1024
PAUSE_S: Final = 10.0
_WAIT: Final = "what is left is being compacted, here or in the tier"
KEPT_WHOLE: Final = 1024 * 1024
"""Larger evicted records pass through a file: whoever wants them may be slow, and the tier may go away meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Eviction:
    """below_free_bytes: evict while less is free; 0 for never. tier_alone: no other node has to keep what is evicted.

    cache_bytes: memory for what was read back.
    """

    below_free_bytes: int = 0
    tier_alone: bool = False
    cache_bytes: int = 64 * 1024 * 1024


class TierSource:
    """Evicted records, from the tier, for threads; blocks that were read lately stay in memory. They are not checked
    here: whoever reads a record checks it, as always.
    """

    def __init__(self, store: ObjectStore, cache_bytes: int) -> None:
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._most = max(1, cache_bytes // BLOCK)
        self._blocks: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._lock = threading.Lock()
        self.ranges = 0
        """Ranges asked of the tier."""
        self.failures = 0

    def read(self, stub: Stub, stubs: Sequence[int], offset: int, size: int) -> bytes:
        if self.may_not_wait():
            raise RecordsElsewhere(stub.first, "the event loop does not wait for the tier")
        key = run_name(stub.first, stub.last, form_of(stubs)).key
        first, last = offset // BLOCK, (offset + size - 1) // BLOCK
        data = b"".join(self._block(stub, key, number) for number in range(first, last + 1))
        return data[offset - first * BLOCK :][:size]

    def may_not_wait(self) -> bool:
        """Whether this is the event loop."""
        return threading.get_ident() == self._thread

    def forget(self, stub: Stub, stubs: Sequence[int]) -> None:
        key = run_name(stub.first, stub.last, form_of(stubs)).key
        with self._lock:
            for known in [known for known in self._blocks if known[0] == key]:
                del self._blocks[known]

    def fetch(self, key: str, offset: int, size: int) -> bytes:
        """Blocks. Raises TierError; RuntimeError or CancelledError when the node stops."""
        work = self._store.get_range(key, offset, size)
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _block(self, stub: Stub, key: str, number: int) -> bytes:
        with self._lock:
            if (found := self._blocks.get((key, number))) is not None:
                self._blocks.move_to_end((key, number))
                return found
        self.ranges += 1
        try:
            data = self.fetch(key, number * BLOCK, BLOCK)
        except (TierError, RuntimeError, CancelledError) as error:  # the last two: the node stops
            self.failures += 1
            raise RecordsElsewhere(stub.first, str(error), gone=isinstance(error, NotThere)) from error
        with self._lock:
            self._blocks[key, number] = data
            while len(self._blocks) > self._most:
                self._blocks.popitem(last=False)
        return data


class Spooled:
    """An evicted record's payload, whole and checked, in memory or in a file of this node until nobody wants it.

    Nobody waits for its reader, so what lies in a file is checked again while it leaves. What changed there damages
    nothing in the log.
    """

    def __init__(self, header: RecordHeader, staged: Staged) -> None:
        self._header = header
        self._staged = staged
        self.size = staged.size

    def parts(self) -> Iterator[memoryview]:
        """Copies: whoever sends them may still have to when this is gone, and its memory is another instance's.

        Raises RecordsElsewhere before the last piece when the file does not hold any more what was written to it.
        """
        header, parts = self._header, self._staged.parts()
        try:
            for part in parts if self._staged.in_memory else checked(header.kind, header.digest, parts):
                yield memoryview(bytes(part))
        except RecordCorrupt as error:
            raise RecordsElsewhere(header.position.sequence, f"what was fetched: {error.reason}") from error

    def __del__(self) -> None:
        self._staged.release()


async def read_record(replicator: "Replicator", sequence: int, *, whole_limit: int) -> StoredRecord:
    """Read a record, wherever its bytes are; raises as `Log.read`. What the tier has does not keep local reads waiting,
    and what is handed out does not depend on the tier any more.
    """
    loop = asyncio.get_running_loop()
    log = replicator.log
    if not log.is_evicted(sequence):
        return await loop.run_in_executor(replicator.readers, lambda: log.read(sequence, whole_limit=whole_limit))

    def fetch() -> StoredRecord:
        try:
            return whole()
        except RecordsElsewhere as error:
            if not error.gone:
                raise
            return whole()  # its object went while it was read: by the new places, if there are any

    def whole() -> StoredRecord:
        stored = log.read(sequence, whole_limit=min(whole_limit, KEPT_WHOLE))
        if stored.payload.size <= KEPT_WHOLE:
            return stored
        receiving = replicator.staging.begin_raw(stored.header.kind)
        try:
            for part in stored.payload.parts():
                receiving.write(part)
        except StorageError:
            receiving.abandon()
            raise
        return StoredRecord(stored.header, stored.chain, Spooled(stored.header, receiving.finish()))

    return await loop.run_in_executor(replicator.distant, fetch)


async def read_any(replicator: "Replicator", sequence: int, *, whole_limit: int) -> StoredRecord | StoredStub:
    """Like `read_record`; of a deleted instance whose payload was taken away, what is left of it."""
    log = replicator.log
    if log.is_stub(sequence):
        threads = replicator.distant if log.is_evicted(sequence) else replicator.readers
        return await asyncio.get_running_loop().run_in_executor(threads, log.read_any, sequence)
    try:
        return await read_record(replicator, sequence, whole_limit=whole_limit)
    except PayloadGone:  # since it was looked at
        return await asyncio.get_running_loop().run_in_executor(replicator.readers, log.read_any, sequence)


class Evictor:
    """One node's. why_not: what keeps it from evicting although the disk is full; None while nothing does."""

    def __init__(
        self,
        replicator: "Replicator",
        settings: Eviction,
        store: ObjectStore | None,
        source: Callable[[ObjectStore, int], TierSource] = TierSource,
    ) -> None:
        """source(store, cache_bytes): how threads read from the tier."""
        self._replicator = replicator
        self._settings = settings
        self.source = source(store, settings.cache_bytes) if store is not None else None
        replicator.log.elsewhere.source = self.source
        self.why_not: str | None = None
        self._passed_over: set[int] = set()
        """Segments that stay in this round, by their first records: the tier holds another form of them, or they hold
        payloads that are to be taken away.
        """
        self.evicted = 0

    @property
    def evicts(self) -> bool:
        """Whether this node may lack segments: then nobody else relies on it to keep them."""
        return self._settings.below_free_bytes > 0 or any(s.evicted for s in self._replicator.log.segments())

    def report(self) -> dict[str, object]:
        """For `/status`."""
        source = self.source
        return {
            "below_free_bytes": self._settings.below_free_bytes,
            "evicted": self.evicted,
            "why_not": self.why_not,
            "ranges_read": source.ranges if source is not None else 0,
            "failed_reads": source.failures if source is not None else 0,
        }

    def start(self) -> None:
        if self._settings.below_free_bytes > 0 and self._replicator.tiering is not None:
            self._replicator.spawn(self._run())

    async def _run(self) -> None:
        while not self._replicator.closed:
            while await self.evict_one():
                pass
            await asyncio.sleep(PAUSE_S)

    async def evict_one(self) -> bool:
        """Evict the oldest segment that may go, if there is too little room. Returns whether one went."""
        replicator = self._replicator
        if replicator.disk.free_bytes() >= self._settings.below_free_bytes:
            self.why_not = None
            return False
        self.why_not = self._keepers_missing()
        span = self._oldest() if self.why_not is None else None
        if span is None or replicator.tiering is None:
            self.why_not = self.why_not or (_WAIT if self._passed_over else "no committed segment is left to evict")
            self._passed_over.clear()
            return False
        relearning = replicator.compactor.relearning if replicator.compactor is not None else None
        if relearning is None:
            return await self._evict(replicator.tiering, span)
        relearning.letting_go = span.first
        try:
            if await relearning.waits(span):
                self._passed_over.add(span.first)
                return True
            return await self._evict(replicator.tiering, span)
        finally:
            relearning.letting_go = 0

    async def _evict(self, tiering: "Tiering", span: EpochSpan) -> bool:
        replicator = self._replicator
        try:
            here = replicator.log.sealed_records(span.first)
        except StorageError as error:
            self.why_not = str(error)
            return False
        self.why_not = await tiering.prove(span)
        self.why_not = self.why_not or self._keepers_missing()  # that took long: who keeps it may be gone
        if self.why_not is None:
            try:
                freed = await asyncio.wrap_future(replicator.group.call(lambda: replicator.log.evict(span.first, here)))
            except StorageError as error:
                self.why_not = str(error)
            else:
                self.evicted += 1
                _LOG.info("evicted a segment", extra={"first": span.first, "last": span.last, "bytes": freed})
        elif self.why_not.endswith(OTHER_FORM):
            self._passed_over.add(span.first)
            return True  # it stays here, and the next one is looked at
        if self.why_not is not None:
            _LOG.warning("a segment cannot be evicted", extra={"first": span.first, "reason": self.why_not})
        return self.why_not is None

    def _keepers_missing(self) -> str | None:
        """Beside the tier, members that keep everything must hold what is evicted here, as Success promised."""
        if self._settings.tier_alone:
            return None
        replicator = self._replicator
        situation = replicator.core.situation
        state = situation.cluster
        members = {member.id for member in state.in_sync} if state is not None else set[str]()
        others = members - {replicator.me.id}
        keepers = [node for node, live in replicator.live.items() if node in others and not live.evicts]
        needed = situation.settings.copies_required - 1
        if len(keepers) >= needed:
            return None
        return f"only {len(keepers)} of {needed} other members keep all: the tier would be alone with what is evicted"

    def _oldest(self) -> EpochSpan | None:
        """A record after it is committed, and durably known to be: the log is never cut back to it."""
        log = self._replicator.log
        floor = self._replicator.promises.floor.sequence
        for segment in log.segments():
            if not segment.sealed or segment.last is None or segment.last >= floor:
                return None
            if not segment.evicted and segment.first not in self._passed_over:
                return log.sealed_at(segment.first)
        return None
