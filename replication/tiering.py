"""The tier's driver: carries out what the core asks of the bucket, and tells it what came of it. It decides nothing.

An object holds whole records, byte for byte as they lie in a segment (docs/format.md), so that a bucket extracts with
tar like a directory of segments.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from replication.core import effects as fx
from replication.core import events as ev
from replication.recent import RecentRecord
from replication.tier.bodies import Body, FilePart
from replication.tier.contents import read_run
from replication.tier.keys import CLUSTER_KEY, LOG, MARKER, Marker, Run, parse_marker, parse_run, run_name
from replication.tier.lending import lend
from replication.tier.port import NotThere, ObjectStore, Refused, TierError
from replication.tier.probe import probe, synchronous_refusal
from storage.errors import StorageError
from storage.position import RecordHeader
from storage.reader import Payload, checked
from storage.record import decode_header, encode_header, trailing_padding
from storage.staging import Staged

if TYPE_CHECKING:
    from replication.replicator import Replicator

_LOG: Final = logging.getLogger("perenne.tier")
PUT_BYTES: Final = 8 * 1024 * 1024
"""Payload bytes of one object, as long as it holds more than one record."""
SPOOLED_BYTES: Final = 64 * 1024 * 1024
"""A record larger than this goes through a file: it may be larger than this node's memory."""


async def proved(store: ObjectStore) -> str | None:
    """Try out a store (docs/tier.md); say why no acknowledgement may rest on it. Raises nothing."""
    return synchronous_refusal(await probe(store, "the tier"))


TierEffect = fx.ListTier | fx.PutRun | fx.PutMarker | fx.AskTier | fx.ReadRun | fx.FetchRun


class Tiering:
    """One node's way to the bucket. failed: why the last request was not done; None while it answers."""

    def __init__(
        self,
        replicator: "Replicator",
        store: ObjectStore,
        prove: Callable[[ObjectStore], Awaitable[str | None]],
        spool: Path | None,
    ) -> None:
        """prove(store): why nothing may rest on this store; None when it may. spool: a directory for large records."""
        self._replicator = replicator
        self._store = store
        self._prove = prove
        self._spool = spool
        self.failed: str | None = None
        self._trusted = False
        self._trying = asyncio.Lock()
        self.puts = 0
        self.put_bytes = 0

    def carry_out(self, effect: TierEffect) -> None:
        """Begin what the core asked for; the answer comes as an event."""
        match effect:
            case fx.ListTier():
                self._replicator.spawn(self._list(effect))
            case fx.PutRun():
                self._replicator.spawn(self._put(effect))
            case fx.PutMarker():
                self._replicator.spawn(self._mark(effect))
            case fx.AskTier():
                self._replicator.spawn(self._ask(effect))
            case fx.ReadRun():
                self._replicator.spawn(self._read(effect))
            case fx.FetchRun():
                self._replicator.spawn(self._fetch(effect))

    async def close(self) -> None:
        await self._store.close()

    def _answer(self, event: ev.TierEvent, reason: str = "") -> None:
        if reason and reason != self.failed:
            _LOG.error("the tier does not do what was asked", extra={"reason": reason})
        elif not reason and self.failed:
            _LOG.warning("the tier answers again")
        self.failed = reason or None
        if not self._replicator.closed:
            self._replicator.feed(event)

    async def _trust(self) -> None:
        """Nothing is asked of a store before it has shown that it keeps what it promises. Raises TierError."""
        async with self._trying:
            if not self._trusted and (why := await self._prove(self._store)) is not None:
                raise Refused(why, "Run perenne tier probe.")
            self._trusted = True

    async def _list(self, effect: fx.ListTier) -> None:
        try:
            await self._trust()
            runs = [run async for key in self._store.list(LOG) if (run := parse_run(key)) is not None]
            markers = [marker async for key in self._store.list(MARKER) if (marker := parse_marker(key)) is not None]
        except TierError as error:
            self._answer(ev.TierListed(effect.request, None, reason=str(error)), str(error))
            return
        counter = max((marker.counter for marker in markers), default=0)
        self._answer(ev.TierListed(effect.request, tuple(runs), counter))

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
        loop = asyncio.get_running_loop()
        pieces: list[bytes] = []
        size = 0
        last: RecentRecord | None = None
        spooled: Path | None = None
        try:
            for sequence in range(effect.first, effect.last + 1):
                record = self._replicator.recent.get(sequence)
                if record is None or record.payload is None or self._better_read(sequence, record.payload):
                    stored = await loop.run_in_executor(self._replicator.readers, self._replicator.log.read, sequence)
                    record = RecentRecord(stored.header, stored.chain, stored.payload)
                assert record.payload is not None, "just read, or kept"
                if pieces and size + record.header.size > PUT_BYTES:
                    break
                if record.header.size > SPOOLED_BYTES and self._spool is not None:
                    spooled = self._spool / f"tier-{sequence}"
                    await loop.run_in_executor(self._replicator.readers, _write_whole, spooled, record)
                    size, last = record.header.size, record
                    break
                pieces.extend(_whole(record.header, record.chain, record.payload))
                size += record.header.size
                last = record
            assert last is not None, "at least one record is asked for"
            body: Body = b"".join(pieces)
            if spooled is not None:
                body = FilePart(spooled, 0, spooled.stat().st_size)
            await self._store.put(run_name(effect.first, last.point).key, body)
        except (TierError, StorageError, OSError) as error:
            self._answer(ev.TierStored(effect.request, None, str(error)), str(error))
            return
        finally:
            if spooled is not None:
                spooled.unlink(missing_ok=True)
        self.puts += 1
        self.put_bytes += size
        self._answer(ev.TierStored(effect.request, last.point.sequence))

    # Down

    async def lend(self, sequence: int) -> tuple[RecordHeader, bytes, Staged] | None:
        """Fetch one record for a repair: header, chain, and payload, checked against its digest; None without one."""
        epoch = next((span.epoch for span in self._replicator.log.epochs() if span.first <= sequence <= span.last), 0)
        try:
            return await lend(self._store, epoch, sequence, self._replicator.staging)
        except (TierError, StorageError) as error:
            _LOG.error("the tier lends no record", extra={"sequence": sequence, "reason": str(error)})
            return None

    async def _read(self, effect: fx.ReadRun) -> None:
        try:
            data = await self._store.get(effect.run.key)
            links = await asyncio.get_running_loop().run_in_executor(
                self._replicator.readers, read_run, effect.run, data
            )
        except (TierError, StorageError) as error:
            self._answer(ev.TierRead(effect.request, (), str(error)), str(error))
            return
        self._answer(ev.TierRead(effect.request, links))

    async def _fetch(self, effect: fx.FetchRun) -> None:
        """Stage record after record, as if a peer had sent them."""
        replicator = self._replicator
        loop = asyncio.get_running_loop()
        try:
            data = await self._store.get(effect.run.key)
            await loop.run_in_executor(replicator.readers, read_run, effect.run, data)
            for header, chain, payload in _records(effect.run, data):
                if effect.first <= header.position.sequence <= effect.last:
                    staged = await loop.run_in_executor(replicator.readers, self._stage, header, payload)
                    if replicator.closed:
                        staged.release()
                        return
                    handle = replicator.hold(staged)
                    replicator.feed(ev.TierRecord(effect.request, header, chain, handle))
        except (TierError, StorageError) as error:
            self._answer(ev.TierFetched(effect.request, str(error)), str(error))
            return
        self._answer(ev.TierFetched(effect.request))

    def _better_read(self, sequence: int, payload: Payload) -> bool:
        """What lies in a file was checked when it was written there. The log checks what it reads."""
        in_file = isinstance(payload, Staged) and not payload.in_memory
        return in_file and sequence <= self._replicator.log.durable.sequence

    def _stage(self, header: RecordHeader, payload: memoryview) -> Staged:
        receiving = self._replicator.staging.begin_raw(header.kind)
        try:
            receiving.write(payload)
            return receiving.finish()
        except StorageError:
            receiving.abandon()
            raise


def _whole(header: RecordHeader, chain: bytes, payload: Payload) -> Iterator[bytes]:
    """One record as it lies in a segment."""
    yield encode_header(header, chain)
    parts = payload.parts()
    if isinstance(payload, Staged) and not payload.in_memory:
        parts = checked(header.kind, header.digest, parts)
    for part in parts:
        yield bytes(part)
    yield bytes(trailing_padding(header.size))


def _write_whole(path: Path, record: RecentRecord) -> None:
    """Raises OSError, StorageError."""
    assert record.payload is not None, "just read, or kept"
    with path.open("wb") as file:
        for piece in _whole(record.header, record.chain, record.payload):
            file.write(piece)


def _records(run: Run, data: bytes) -> Iterator[tuple[RecordHeader, bytes, memoryview]]:
    """The records of an object that `read_run` has proved: header, chain, payload."""
    view = memoryview(data)
    offset = 0
    for _ in range(run.first, run.last + 1):
        decoded = decode_header(view[offset:])
        start = offset + decoded.payload_offset
        yield decoded.header, decoded.chain, view[start : start + decoded.header.size]
        offset += decoded.length
