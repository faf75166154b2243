"""Deeds on the log: appends, truncations, whole segments, what its thread reports. The core decided all of them."""

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final

from replication.api import ConflictRefused, Draft, NotPromised, WasDeleted
from replication.arriving import ArrivingSegment
from replication.core import effects as fx
from replication.core import events as ev
from replication.inbox import Held
from replication.incoming import Gone
from replication.recent import RecentRecord
from replication.rejoin import saved_instances
from storage.dataset import UnreadableDataSet, read_meta
from storage.deletion import SMALL_KINDS, SMALL_LIMIT_BYTES, NotUnderstood, decode_small
from storage.disk import Disk
from storage.errors import StorageError, StorageFull
from storage.indexer import HEAD_BYTES
from storage.log import BytesPayload, Log
from storage.position import LogPoint, RecordKind
from storage.staging import Staged

if TYPE_CHECKING:
    from replication.replicator import Replicator

_LOG: Final = logging.getLogger("perenne.replicator")


class Writing:
    """The log of one node, as its driver writes it. lost_and_found: files that were saved there so far."""

    def __init__(self, replicator: "Replicator", disk: Disk, log: Log, held: Held) -> None:
        self._replicator = replicator
        self._disk = disk
        self._log = log
        self._held = held
        self._loop = asyncio.get_running_loop()
        self._stages = replicator.stages
        self._prover, self._syncer = (replicator.runtime.executor(name, 1) for name in ("prove", "settle"))
        self.group = replicator.runtime.commit_queue(log, self._hop_durable, self._hop_failed)
        self.lost_and_found = len(disk.list("lost+found")) if disk.exists("lost+found") else 0

    def close(self) -> None:
        """End its threads, once they have done what was asked of them. Blocks."""
        self.group.close()
        self._prover.shutdown()
        self._syncer.shutdown()

    def arriving(self, name: str, size: int) -> ArrivingSegment:
        """Take in a whole segment of `size` bytes, into a file of this name."""
        return ArrivingSegment(name, self._disk, self._log.proof(name, size), self._prover, self._syncer)

    def append_own(self, effect: fx.AppendOwn) -> None:
        """A record that the core made itself."""
        payload = BytesPayload(effect.payload)
        self._append(RecentRecord(effect.header, effect.chain, payload), payload)

    def _append(self, record: RecentRecord, payload: Staged | BytesPayload) -> None:
        self._replicator.recent.add(record)
        self._stages.queued(record.header.position.sequence)
        self.group.submit(record.header, record.chain, payload)

    def append_offer(self, effect: fx.AppendProposal) -> None:
        """An instance that was offered here, or by another node."""
        offer = self._replicator.offers.get(effect.ticket)
        assert offer is not None, "a ticket is settled once"
        draft, staged = offer.draft, offer.staged
        staged.retain()
        record = RecentRecord(
            effect.header,
            effect.chain,
            staged,
            draft.sop_instance_uid,
            draft.transfer_syntax_uid,
            (offer.origin, offer.ticket_there) if offer.origin is not None else None,
            _offered_head(draft),
            draft.attributes,
            draft.small,
        )
        self._append(record, staged)

    def append_received(self, effect: fx.AppendStaged) -> None:
        """A record that the leader sent."""
        staged = self._held.take(effect.handle)
        if isinstance(staged, Gone):
            self._replicator.recent.add(RecentRecord(effect.header, effect.chain, None))
            self.group.submit_stub(effect.header, effect.chain, staged.tombstone)
            return
        assert isinstance(staged, Staged), "a record has a payload"
        record = RecentRecord(effect.header, effect.chain, staged)
        if effect.header.kind is RecordKind.INSTANCE:
            record.head = _head(staged, HEAD_BYTES)
            with contextlib.suppress(UnreadableDataSet):
                meta = read_meta(record.head)
                record.uid, record.transfer_syntax_uid = meta.sop_instance_uid, meta.transfer_syntax_uid
        elif effect.header.kind in SMALL_KINDS:
            record.head = _head(staged, SMALL_LIMIT_BYTES)
            try:
                record.small = decode_small(effect.header.kind, record.head)
            except NotUnderstood as error:
                _LOG.critical("a record of the leader is not understood", extra={"reason": str(error)})
        self._append(record, staged)

    def _hop_durable(self, point: LogPoint) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._durable, point)

    def _hop_failed(self, error: StorageError) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.log_failed, error)

    def _durable(self, point: LogPoint) -> None:
        self._stages.durable(point.sequence)
        if not self._replicator.closed:
            self._replicator.feed(ev.LocalDurable(point))
            self._replicator.release()

    def log_failed(self, error: StorageError) -> None:
        """The log cannot be written any more: this node confirms nothing."""
        _LOG.critical("the log cannot be written", extra={"reason": str(error)})
        self._stages.forget()
        self._replicator.feed(ev.LocalFailed(str(error), full=isinstance(error, StorageFull)))

    async def resume(self) -> None:
        """Write on after the disk was full."""
        await asyncio.wrap_future(self.group.resume())
        self._stages.forget()
        self._replicator.recent.cut_after(self._log.end.sequence)
        _LOG.warning("there is room again: the log is written on", extra={"end": self._log.end.sequence})
        self._replicator.feed(ev.LogResumed())

    async def truncate(self, point: LogPoint) -> None:
        """Cut back to `point`; what is cut goes to lost+found, and what is an instance among it is offered again."""
        replicator = self._replicator
        try:
            names = await asyncio.wrap_future(self.group.call(lambda: self._log.truncate_after(point.sequence)))
        except StorageError as error:
            self.log_failed(error)
            return
        _LOG.warning("records were moved to lost+found", extra={"records": len(names), "after": point.sequence})
        self.lost_and_found += len(names)
        replicator.recent.cut_after(point.sequence)
        replicator.feed(ev.Truncated(point))
        saved = await self._loop.run_in_executor(
            replicator.readers, saved_instances, self._disk, names, replicator.staging
        )
        for draft in saved:
            replicator.spawn(self._offer_again(draft))

    async def _offer_again(self, draft: Draft) -> None:
        """What was cut may have been stored nowhere else: it is offered anew, whatever its sender was told."""
        with contextlib.suppress(NotPromised, ConflictRefused, StorageFull):
            try:
                await self._replicator.commit(draft)
            except WasDeleted:
                _LOG.warning("deleted meanwhile: it stays in lost+found", extra={"instance": draft.sop_instance_uid})

    async def install(self, effect: fx.InstallSegment) -> None:
        """Take over a whole segment, or refuse it."""
        arrived = self._held.take(effect.handle)
        assert isinstance(arrived, ArrivingSegment), "a segment lies in a file"
        self._replicator.network.on_segment()
        end: LogPoint | None = None
        try:
            proved = await arrived.proved()
            installed = await asyncio.wrap_future(self.group.call(lambda: self._log.install_segment(proved)))
            self._replicator.recent.installed_upto(installed.sequence)
            end = installed
            _LOG.info("took over a whole segment", extra={"end": end.sequence})
        except StorageError as error:
            _LOG.error("a segment was refused", extra={"reason": str(error)})
            self._replicator.drop(arrived)
        except Exception:  # such as no descriptor left: unanswered, this node would follow nobody
            _LOG.exception("a segment could not be taken over")
            self._replicator.drop(arrived)
        self._replicator.feed(ev.SegmentInstalled(end))


def _offered_head(draft: Draft) -> bytes:
    """What the index needs of it: all of a tombstone or note; of an instance enough to name it."""
    if draft.small is not None:
        return _head(draft.staged, SMALL_LIMIT_BYTES)
    return _head(draft.staged, HEAD_BYTES if draft.attributes is None else draft.staged.meta_length)


def _head(staged: Staged, size: int) -> bytes:
    return bytes(next(staged.parts(), memoryview(b""))[:size])  # a piece is longer than any head
