"""One record out of the tier, for a repair: found by the names of the objects, read by range, checked by its digest."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Final

from replication.tier.keys import Run, epoch_prefix, parse_run
from replication.tier.port import NotThere, ObjectStore, TierError
from storage.errors import FormatError, RecordCorrupt, StorageError
from storage.position import RecordHeader
from storage.record import HEADER_LIMIT, DecodedRecord, decode_header
from storage.staging import Receiving, Staged, StagingArea
from storage.table import ENTRIES_OFFSET, ENTRY_BYTES, PAGE, decode_entry, decode_segment_header

_LOG: Final = logging.getLogger("perenne.tier")
RANGE_BYTES: Final = 8 * 1024 * 1024
WHOLE_BYTES: Final = 32 * 1024 * 1024
"""Objects up to this size are fetched once and searched in memory."""
_TABLE_NAME: Final = b"segment.table\0"


async def lend(
    store: ObjectStore, epoch: int, sequence: int, staging: StagingArea
) -> tuple[RecordHeader, bytes, Staged | int] | None:
    """Return header, chain and staged payload of a record of `epoch`, from the first object that has it sound. Where
    the payload was taken away, in its place stands the tombstone that is said to cover it.

    Objects of dead branches may have the number too: whoever takes the record proves its chain. Raises TierError,
    StorageFull.
    """
    async for run in _holding(store, epoch, sequence):
        try:
            return await _from(_Object(store, run), sequence, staging)
        except (RecordCorrupt, FormatError, NotThere) as error:
            _LOG.error("an object of the tier is damaged", extra={"key": run.key, "reason": str(error)})
    return None


async def _holding(store: ObjectStore, epoch: int, sequence: int) -> AsyncIterator[Run]:
    async for key in store.list(epoch_prefix(epoch)):
        run = parse_run(key)
        if run is not None and run.first > sequence:
            return  # keys come in the order of their first record
        if run is not None and run.last >= sequence:
            yield run


class _Object:
    """Ranges of one object; a small one is fetched once."""

    def __init__(self, store: ObjectStore, run: Run) -> None:
        self._store = store
        self.run = run
        self._whole: bytes | None = None

    async def open(self) -> None:
        """One bad record in an object takes nothing from the others: each is checked by itself."""
        size = (await self._store.head(self.run.key)).size
        if size <= WHOLE_BYTES:
            self._whole = await self._store.get_range(self.run.key, 0, size)

    async def range(self, offset: int, size: int) -> bytes:
        if self._whole is not None:
            return self._whole[offset : offset + size]
        return await self._store.get_range(self.run.key, offset, size)


async def _from(held: _Object, sequence: int, staging: StagingArea) -> tuple[RecordHeader, bytes, Staged | int]:
    await held.open()
    offset, decoded = await _find(held, sequence)
    if decoded.tombstone:
        return decoded.header, decoded.chain, decoded.tombstone
    receiving = staging.begin_raw(decoded.header.kind)
    try:
        await _receive(held, offset + decoded.payload_offset, decoded.header.size, receiving)
    except (TierError, StorageError):
        receiving.abandon()
        raise
    staged = receiving.finish()
    if (staged.digest, staged.dataset_digest) != (decoded.header.digest, decoded.header.dataset):
        staged.release()
        raise RecordCorrupt(sequence, "its payload in the tier does not match its digest")
    return decoded.header, decoded.chain, staged


async def _find(held: _Object, sequence: int) -> tuple[int, DecodedRecord]:
    """Where a record begins, and its header: by the table of a sealed segment, or from record to record."""
    run = held.run
    head = await held.range(0, PAGE)
    offset, at = 0, run.first
    if head.startswith(_TABLE_NAME):
        first = decode_segment_header(head).first
        slot = await held.range(ENTRIES_OFFSET + (sequence - first) * ENTRY_BYTES, ENTRY_BYTES)
        entry = decode_entry(slot, sequence, first)
        if entry is None:
            raise RecordCorrupt(sequence, "its table entry in the tier is damaged")
        offset, at = entry.offset, sequence
    while True:
        decoded = decode_header(await held.range(offset, HEADER_LIMIT))
        if decoded.header.position.sequence != at:
            raise FormatError(f"{run.key} holds record {decoded.header.position}, not {at}")
        if at == sequence:
            return offset, decoded
        offset, at = offset + decoded.length, at + 1


async def _receive(held: _Object, offset: int, size: int, receiving: Receiving) -> None:
    while size > 0:
        piece = await held.range(offset, min(RANGE_BYTES, size))
        if not piece:
            raise FormatError(f"{held.run.key} ends too early")
        await asyncio.to_thread(receiving.write, memoryview(piece))
        offset, size = offset + len(piece), size - len(piece)
