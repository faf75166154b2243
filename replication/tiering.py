"""The tier's driver: carries out what the core asks of the bucket, and tells it what came of it. It decides nothing.

An object holds whole records, byte for byte as they lie in a segment (docs/format.md), so that a bucket extracts with
tar like a directory of segments.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Final

from replication.core import effects as fx
from replication.core import events as ev
from replication.evicting import read_any
from replication.incoming import Gone
from replication.packing import Packer
from replication.recent import RecentRecord
from replication.tier.bodies import Body, FilePart
from replication.tier.contents import Link, RunReader
from replication.tier.keys import (
    CLUSTER_KEY,
    LOG,
    MARKER,
    Marker,
    Run,
    epoch_prefix,
    form_of,
    parse_marker,
    parse_run,
    run_name,
)
from replication.tier.lending import lend
from replication.tier.measuring import unlike
from replication.tier.port import NotThere, ObjectStore, Refused, TierError
from replication.tier.probe import Trust, probe, trusted
from replication.tier.streaming import stream_run
from storage.errors import StorageError
from storage.position import EpochSpan, RecordHeader
from storage.reader import WHOLE_LIMIT, Payload, StoredStub, checked
from storage.record import encode_header, encode_stub, trailing_padding
from storage.staging import Receiving, Staged

if TYPE_CHECKING:
    from replication.replicator import Replicator

_LOG: Final = logging.getLogger("perenne.tier")
PUT_BYTES: Final = 8 * 1024 * 1024
"""Payload bytes of one object, as long as it holds more than one record."""
SPOOLED_BYTES: Final = 64 * 1024 * 1024
"""A record larger than this goes through a file: it may be larger than this node's memory."""
AHEAD_BYTES: Final = 128 * 1024 * 1024
"""So much of what a takeover fetches may wait for the log thread; the rest stays in the bucket for the time being."""
_LOOK_AGAIN_S: Final = 0.02


async def proved(store: ObjectStore) -> Trust:
    """Try out a store (docs/tier.md); say what a node may do with it. Raises nothing."""
    return trusted(await probe(store, "the tier"))


class Tiering:
    """One node's way to the bucket. failed: why the last request was not done; None while it answers."""

    def __init__(
        self,
        replicator: "Replicator",
        store: ObjectStore,
        prove: Callable[[ObjectStore], Awaitable[Trust]],
        spool: Path | None,
    ) -> None:
        """prove(store): what may be done with it. spool: a directory for large records."""
        self._replicator = replicator
        self._store = store
        self._prove = prove
        self._spool = spool
        self.failed: str | None = None
        self._trusted = Trust(refusal="not tried out yet")
        self._trying = asyncio.Lock()
        self.answered = 0.0
        """When it last did what was asked, in Unix seconds."""
        self.puts = 0
        self.put_bytes = 0
        self._waited_for = 0
        """Puts under way that somebody may wait for."""
        self._hashing = replicator.runtime.executor("tier", 1)
        self.packer = Packer(replicator.log, replicator.disk, store, self._hashing, urgent=lambda: self._waited_for > 0)

    def carry_out(self, effect: fx.TierRequest) -> None:
        """Begin what the core asked for; the answer comes as an event."""
        match effect:
            case fx.ListTier():
                self._replicator.spawn(self._list(effect))
            case fx.AuditTier():
                self._replicator.spawn(self._audit(effect))
            case fx.PutRun():
                self._replicator.spawn(self._put(effect))
            case fx.PackSegment():
                self._replicator.spawn(self._pack(effect))
            case fx.DeleteRuns():
                self._replicator.spawn(self._delete(effect))
            case fx.PutMarker():
                self._replicator.spawn(self._mark(effect))
            case fx.AskTier():
                self._replicator.spawn(self._ask(effect))
            case fx.ReadRun():
                self._replicator.spawn(self._read(effect))
            case fx.FetchRun():
                self._replicator.spawn(self._fetch(effect))
            case _:
                raise AssertionError(f"nobody carries out {effect}")

    def audit(self) -> None:
        """See whether the bucket still holds everything; the leader alone does."""
        self._feed(ev.TierAuditDue())

    async def close(self) -> None:
        await self._store.close()
        for threads in (self._hashing, self._replicator.distant):
            threads.shutdown(wait=False, cancel_futures=True)

    def _feed(self, event: ev.TierEvent) -> None:
        if not self._replicator.closed:
            self._replicator.feed(event)

    def _answer(self, event: ev.TierEvent, reason: str = "") -> None:
        if reason and reason != self.failed:
            _LOG.error("the tier does not do what was asked", extra={"reason": reason})
        elif not reason and self.failed:
            _LOG.warning("the tier answers again")
        self.failed = reason or None
        if not reason:
            self.answered = self._replicator.runtime.wall_us() / 1_000_000
        self._feed(event)

    async def _trust(self) -> None:
        """Nothing is asked of a store before it has shown that it keeps what it promises. Raises TierError."""
        async with self._trying:
            if self._trusted.refusal is not None:
                self._trusted = await self._prove(self._store)
            if self._trusted.refusal is not None:
                raise Refused(self._trusted.refusal, "Run perenne tier probe.")

    async def _list(self, effect: fx.ListTier) -> None:
        try:
            await self._trust()
            runs = await self._runs(effect.since, effect.before)
            markers = [marker async for key in self._store.list(MARKER) if (marker := parse_marker(key)) is not None]
        except TierError as error:
            self._answer(ev.TierListed(effect.request, None, reason=str(error)), str(error))
            return
        counter = max((marker.counter for marker in markers), default=0)
        self._answer(ev.TierListed(effect.request, runs, counter, deletes=self._trusted.deletes))

    async def _runs(self, since: int, before: int) -> tuple[Run, ...]:
        """Objects of these epochs; keys are in the order of the log. Raises TierError."""
        found: list[Run] = []
        async for key in self._store.list(LOG, epoch_prefix(since) if since else ""):
            run = parse_run(key)
            if run is not None and before and run.epoch >= before:
                break
            if run is not None:
                found.append(run)
        return tuple(found)

    async def _audit(self, effect: fx.AuditTier) -> None:
        try:
            runs = await self._runs(0, 0)
            altered = await unlike(self._store, self._replicator.log, runs, self._hashing)
        except TierError as error:
            self._answer(ev.TierAudited(effect.request, None, reason=str(error)), str(error))
            return
        for run in altered:
            _LOG.error("an object of the tier is not as long as its records", extra={"key": run.key})
        self._answer(ev.TierAudited(effect.request, runs, altered))

    async def _mark(self, effect: fx.PutMarker) -> None:
        reason = ""
        try:
            await self._store.put(Marker(effect.counter, effect.change).key, b"{}\n")
        except TierError as error:
            reason = str(error)
        self._answer(ev.TierMarked(effect.request, reason), reason)

    async def _ask(self, effect: fx.AskTier) -> None:
        reason = ""
        try:
            await self._store.head(CLUSTER_KEY)
        except NotThere:
            pass  # that is an answer
        except TierError as error:
            reason = str(error)
        self._answer(ev.TierAnswered(effect.request, reason), reason)

    # Up

    async def _put(self, effect: fx.PutRun) -> None:
        """Put as many records as fit into one object."""
        self._waited_for += 1
        began = perf_counter()
        try:
            if await self._put_group(effect):
                self._replicator.stages.tier_put.took(perf_counter() - began)
        finally:
            self._waited_for -= 1

    async def _put_group(self, effect: fx.PutRun) -> bool:
        """Whether the bucket holds it."""
        pieces: list[bytes] = []
        size = 0
        last: RecentRecord | None = None
        spooled: Path | None = None
        stubs: list[int] = []
        try:
            for sequence in range(effect.first, effect.last + 1):
                record = self._replicator.recent.get(sequence)
                if record is None or record.payload is None or self._better_read(sequence, record.payload):
                    stored = await read_any(self._replicator, sequence, whole_limit=WHOLE_LIMIT)
                    if isinstance(stored, StoredStub):
                        pieces.append(encode_stub(stored.header, stored.chain, stored.tombstone))
                        last = RecentRecord(stored.header, stored.chain, None)
                        stubs.append(sequence)
                        continue
                    record = RecentRecord(stored.header, stored.chain, stored.payload)
                assert record.payload is not None, "just read, or kept"
                if pieces and size + record.header.size > PUT_BYTES:
                    break
                if record.header.size > SPOOLED_BYTES and self._spool is not None:
                    spooled = self._spool / f"tier-{sequence}"
                    await self._spooled(spooled, record.header, record.chain, record.payload)
                    size, last = record.header.size, record
                    break
                pieces.extend(_whole(record.header, record.chain, record.payload))
                size += record.header.size
                last = record
            assert last is not None, "at least one record is asked for"
            body: Body = b"".join(pieces)
            if spooled is not None:
                body = FilePart(spooled, 0, spooled.stat().st_size)
            run = run_name(effect.first, last.point, form_of(stubs))
            await self._store.put(run.key, body, only_if_absent=self._trusted.conditional)
        except (TierError, StorageError, OSError) as error:
            self._answer(ev.TierStored(effect.request, None, str(error)), str(error))
            return False
        finally:
            if spooled is not None:
                spooled.unlink(missing_ok=True)
        self.puts += 1
        self.put_bytes += size
        self._answer(ev.TierStored(effect.request, last.point.sequence, form=run.form))
        return True

    async def _spooled(self, path: Path, header: RecordHeader, chain: bytes, payload: Payload) -> None:
        """Write a record to a file. Once it is committed whoever else holds its payload lets go of it: that may be now.

        Raises OSError, StorageError.
        """
        if isinstance(payload, Staged):
            payload.retain()
        try:
            work = partial(_write_whole, path, header, chain, payload)
            await asyncio.get_running_loop().run_in_executor(self._replicator.readers, work)
        finally:
            if isinstance(payload, Staged):
                self._replicator.drop(payload)

    async def _pack(self, effect: fx.PackSegment) -> None:
        event = await self.packer.pack(effect, conditional=self._trusted.conditional)
        if event.reason:
            _LOG.warning("a segment is not one object of the tier yet", extra={"reason": event.reason})
        self.put_bytes += event.moved
        self.puts += event.moved > 0
        self._feed(event)

    async def prove(self, span: EpochSpan) -> str | None:
        """Whether the tier holds this segment as one object, record by record; why not, else None."""
        return await self.packer.prove(span)

    async def _delete(self, effect: fx.DeleteRuns) -> None:
        event = await self.packer.delete(effect)
        if event.reason:
            _LOG.warning("objects of the tier that were replaced are still there", extra={"reason": event.reason})
        self._feed(event)

    # Down

    async def lend(self, sequence: int) -> tuple[RecordHeader, bytes, Staged | int] | None:
        """Fetch one record for a repair; see `replication.tier.lending`. None without one."""
        epoch = next((span.epoch for span in self._replicator.log.epochs() if span.first <= sequence <= span.last), 0)
        try:
            return await lend(self._store, epoch, sequence, self._replicator.staging)
        except (TierError, StorageError) as error:
            _LOG.error("the tier lends no record", extra={"sequence": sequence, "reason": str(error)})
            return None

    async def _read(self, effect: fx.ReadRun) -> None:
        """Prove an object, of any size, in flat memory."""
        links: list[Link] = []
        reader = RunReader(effect.run)
        try:
            async with aclosing(stream_run(self._store, effect.run.key, reader, self._hashing)) as found:
                async for some in found:
                    links += some
        except (TierError, StorageError) as error:
            self._answer(ev.TierRead(effect.request, (), str(error)), str(error))
            return
        self._answer(ev.TierRead(effect.request, tuple(links)))

    async def _fetch(self, effect: fx.FetchRun) -> None:
        """Stage record after record, as if a peer had sent them; a large one goes to a file while it comes."""
        arriving = _Arriving(self._replicator, effect)
        try:
            async with aclosing(stream_run(self._store, effect.run.key, arriving.reader, self._hashing)) as found:
                async for links in found:
                    for link in links:
                        arriving.hand_over(link)
                    await arriving.written()
        except (TierError, StorageError) as error:
            self._answer(ev.TierFetched(effect.request, str(error)), str(error))
            return
        finally:
            # In the thread that writes to them: it may be in the middle of that where this is cancelled.
            with contextlib.suppress(RuntimeError):  # it has ended
                self._hashing.submit(arriving.close)
        self._answer(ev.TierFetched(effect.request))

    def _better_read(self, sequence: int, payload: Payload) -> bool:
        """What lies in a file was checked when it was written there. The log checks what it reads."""
        in_file = isinstance(payload, Staged) and not payload.in_memory
        return in_file and sequence <= self._replicator.log.durable.sequence


class _Arriving:
    """What `FetchRun` asked for, on its way from the bucket to the log."""

    def __init__(self, replicator: "Replicator", effect: fx.FetchRun) -> None:
        self._replicator = replicator
        self._effect = effect
        self.reader = RunReader(effect.run, self._sink)
        self._receiving: dict[int, Receiving] = {}
        self._handed_over: list[tuple[int, int]] = []
        """Sequence and size of what may not be on the disk yet."""

    def _sink(self, header: RecordHeader) -> Receiving | None:
        """In a thread: where a record goes whose head came."""
        sequence = header.position.sequence
        if not self._effect.first <= sequence <= self._effect.last:
            return None
        receiving = self._receiving[sequence] = self._replicator.staging.begin_raw(header.kind)
        return receiving

    def hand_over(self, link: Link) -> None:
        """A record is whole, and its digest is right."""
        receiving = self._receiving.pop(link.sequence, None)
        stub = link.tombstone and self._effect.first <= link.sequence <= self._effect.last
        if (receiving is None and not stub) or self._replicator.closed:
            return
        handle = self._replicator.hold(receiving.finish() if receiving is not None else Gone(link.tombstone))
        self._handed_over.append((link.sequence, link.header.size))
        self._replicator.feed(ev.TierRecord(self._effect.request, link.header, link.chain, handle))

    async def written(self) -> None:
        """Wait until not too much waits for the log thread: the bucket may be faster, and larger than memory."""
        ledger = self._replicator.core.situation.ledger
        while not self._replicator.closed and self._replicator.core.leadership is not None:
            durable = ledger.durable.sequence
            self._handed_over = [(sequence, size) for sequence, size in self._handed_over if sequence > durable]
            refused = ledger.end.sequence < max((sequence for sequence, _ in self._handed_over), default=0)
            if refused or sum(size for _, size in self._handed_over) <= AHEAD_BYTES:
                return
            await asyncio.sleep(_LOOK_AGAIN_S)

    def close(self) -> None:
        """In a thread: what never became whole goes."""
        for receiving in self._receiving.values():
            receiving.abandon()
        self._receiving.clear()


def _whole(header: RecordHeader, chain: bytes, payload: Payload) -> Iterator[bytes]:
    """One record as it lies in a segment."""
    yield encode_header(header, chain)
    parts = payload.parts()
    if isinstance(payload, Staged) and not payload.in_memory:
        parts = checked(header.kind, header.digest, parts)
    for part in parts:
        yield bytes(part)
    yield bytes(trailing_padding(header.size))


def _write_whole(path: Path, header: RecordHeader, chain: bytes, payload: Payload) -> None:
    """Raises OSError, StorageError."""
    with path.open("wb") as file:
        for piece in _whole(header, chain, payload):
            file.write(piece)
