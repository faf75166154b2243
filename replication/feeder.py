"""Feeding followers: the log as a stream over each link, pulled as fast as the link and the follower take it."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final

from replication.core.values import Identity, ReplicaId
from replication.messages import Append, Fetched, FetchEnd, Segment, to_point, to_record
from replication.peers import PeerNetwork
from replication.recent import Recent, RecentRecord
from replication.troubles import UNREADABLE, Troubles
from storage.errors import StorageError
from storage.log import Log
from storage.position import LogPoint
from storage.reader import StoredRecord, StoredStub
from storage.segment import Segment as LogSegment
from storage.staging import PIECE
from storage.timing import Timings

_LOG: Final = logging.getLogger("perenne.feeder")
BLOCKED_S: Final = 2.0
"""A record that cannot be read is tried again after this long: it may be repaired, or another node leads by then."""
WINDOW_BYTES: Final = 64 * 1024 * 1024
"""What may be sent and not yet confirmed, per follower; one record may always be."""


@dataclass(slots=True)
class _Stream:
    peer: Identity
    epoch: int
    sent: LogPoint
    live_from: int
    outstanding: deque[tuple[int, int, float]] = field(default_factory=deque[tuple[int, int, float]])
    """Sequence, size, and when it was sent; 0 for what was there before the stream, which is caught up with."""
    bytes: int = 0
    reading: bool = False
    alone: int = 0
    """A whole segment is under way up to this sequence: nothing follows before it is confirmed."""
    piecewise: int = 0
    """The segment that begins with this record went out whole before and did not arrive: it goes record by record."""
    blocked_at: int = 0
    """The record at which the stream stands still because it cannot be read."""


class Feeder:
    """All streams that this node feeds as leader.

    end(): the last record handed to the log. committed(): the commit point. in_sync(peer): whether it is in the set.
    """

    def __init__(
        self,
        log: Log,
        recent: Recent,
        network: PeerNetwork,
        readers: Executor,
        *,
        end: Callable[[], int],
        committed: Callable[[], LogPoint],
        in_sync: Callable[[Identity], bool],
        read: Callable[[int], Awaitable[StoredRecord | StoredStub]] | None = None,
        acknowledged: Timings,
        troubles: Troubles,
    ) -> None:
        """read(sequence): a record, wherever its bytes are; from the log where it is left out. acknowledged: how long a
        new record is on its way to a follower and back.
        """
        self._log = log
        self._recent = recent
        self._network = network
        self._readers = readers
        self._end = end
        self._committed = committed
        self._in_sync = in_sync
        self._read = read or self._read_log
        self._acknowledged = acknowledged
        self._troubles = troubles
        self._streams: dict[int, _Stream] = {}
        self._whole: dict[Identity, int] = {}
        """By process, the first record of a segment that was sent whole and is not confirmed."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._refused: dict[int, int] = {}
        """By link, the end of a whole segment that was not taken: its records go one by one, up to the damaged one."""

    def start(self, link: int, peer: Identity, epoch: int, after: LogPoint) -> None:
        stream = self._streams[link] = _Stream(peer, epoch, after, self._end())
        if self._whole.get(peer) == after.sequence + 1:
            stream.piecewise = after.sequence + 1
        self.pump(link)

    def blocked_at(self, replica: ReplicaId) -> int:
        """The record that keeps a replica from catching up, because it cannot be read here; 0 when none does."""
        return max((s.blocked_at for s in self._streams.values() if s.peer.id == replica), default=0)

    def stop(self, link: int) -> None:
        stream = self._streams.pop(link, None)
        if stream is not None and stream.alone:
            self._refused[link] = stream.alone

    def confirmed(self, link: int, sequence: int) -> None:
        """The follower has everything up to `sequence`: the window moves."""
        stream = self._streams.get(link)
        if stream is None:
            return
        now = perf_counter()
        while stream.outstanding and stream.outstanding[0][0] <= sequence:
            _, size, sent = stream.outstanding.popleft()
            stream.bytes -= size
            if sent:
                self._acknowledged.took(now - sent)
        if stream.alone and sequence >= stream.alone:
            stream.alone = 0
            self._whole.pop(stream.peer, None)
        self.pump(link)

    def pump_all(self) -> None:
        for link in list(self._streams):
            self.pump(link)

    def pump(self, link: int) -> None:
        """Send what may be sent now."""
        stream = self._streams.get(link)
        while stream is not None and not stream.reading and not stream.alone:
            following = stream.sent.sequence + 1
            full = stream.outstanding and stream.bytes >= WINDOW_BYTES
            if following > self._end() or full or self._network.congested(link):
                return
            record = self._recent.get(following)
            if record is not None and record.payload is not None:
                self._send(link, stream, record)
            else:
                stream.reading = True
                task = asyncio.get_running_loop().create_task(self._read_and_send(link, stream, following))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def _send(self, link: int, stream: _Stream, record: RecentRecord) -> None:
        sequence = record.header.position.sequence
        # A follower that offered the record holds its bytes until it is answered, which waits for its own confirmation.
        own = record.origin is not None and record.origin[0] == stream.peer and self._in_sync(stream.peer)
        ticket = record.origin[1] if own and record.origin is not None and sequence > stream.live_from else 0
        message = Append(
            stream.epoch,
            to_point(stream.sent),
            to_point(self._committed()),
            to_record(record.header, record.chain),
            ticket,
        )
        if ticket:
            self._network.send(link, message)
        else:
            self._network.send(link, message, record.payload)
        self._sent(stream, record.point, record.header.size)

    def _send_stub(self, link: int, stream: _Stream, stub: StoredStub) -> None:
        """What is left of a deleted instance; the tombstone follows on this very stream."""
        points = to_point(stream.sent), to_point(self._committed())
        record = to_record(stub.header, stub.chain, stub.tombstone)
        self._network.send(link, Append(stream.epoch, *points, record))
        self._sent(stream, LogPoint(stub.header.position, stub.chain), 0)

    def _sent(self, stream: _Stream, point: LogPoint, size: int) -> None:
        stream.sent = point
        stream.outstanding.append((point.sequence, size, perf_counter() if point.sequence > stream.live_from else 0.0))
        stream.bytes += size

    async def _read_and_send(self, link: int, stream: _Stream, sequence: int) -> None:
        """Records that are no longer in memory come from the log; sealed segments go as a whole."""
        try:
            whole_here = (s for s in self._log.segments() if s.first == sequence and s.sealed and not s.evicted)
            segment = next(whole_here, None)
            last = segment.last if segment is not None else None
            refused = last is not None and last <= self._refused.get(link, 0)
            whole = segment is not None and last is not None and self._may_go_whole(stream, sequence, last)
            if segment is not None and last is not None and whole and not refused:
                if stream.outstanding:
                    return  # a follower takes a segment once all before it is durable there: its next word wakes us
                end = self._log.point_at(last)
                if end is not None:
                    content = _SegmentFile(self._log.lend_segment(sequence))
                    committed = to_point(self._committed())
                    message = Segment(stream.epoch, to_point(stream.sent), to_point(end), committed)
                    self._network.send(link, message, content)
                    stream.alone = last
                    self._whole[stream.peer] = sequence
                    self._sent(stream, end, content.size)
                    return
            stored = await self._read(sequence)
            stream.blocked_at = 0
            if self._streams.get(link) is stream:
                if isinstance(stored, StoredStub):
                    self._send_stub(link, stream, stored)
                else:
                    self._send(link, stream, RecentRecord(stored.header, stored.chain, stored.payload))
        except StorageError as error:
            # The stream stays: ended here, nobody would begin it again, and the follower would wait for ever.
            stream.blocked_at = sequence
            self._troubles.count(stream.peer.id, UNREADABLE)
            facts = {"peer": stream.peer.id, "sequence": sequence, "reason": str(error)}
            _LOG.error("a follower cannot catch up: a record cannot be read", extra=facts)
            await asyncio.sleep(BLOCKED_S)
        finally:
            stream.reading = False
        self.pump(link)

    async def _read_log(self, sequence: int) -> StoredRecord | StoredStub:
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._log.read_any, sequence)

    def _may_go_whole(self, stream: _Stream, first: int, last: int) -> bool:
        """A segment with damage in it is refused as a whole; record by record, the sound part arrives and the rest is
        found.
        """
        damaged = any(first <= sequence <= last for sequence in self._log.damaged())
        return last <= self._committed().sequence and stream.piecewise != first and not damaged

    async def send_tail(self, link: int, nonce: int, after: LogPoint, last: int) -> None:
        """Answer a candidate that lacks the end of this log."""
        previous, reason = after, ""
        try:
            for sequence in range(after.sequence + 1, last + 1):
                stored = await self._read(sequence)
                if not await self._network.clear(link):
                    return
                taken = stored.tombstone if isinstance(stored, StoredStub) else 0
                payload = None if isinstance(stored, StoredStub) else stored.payload
                record = to_record(stored.header, stored.chain, taken)
                self._network.send(link, Fetched(nonce, to_point(previous), record), payload)
                previous = LogPoint(stored.header.position, stored.chain)
        except StorageError as error:
            reason = str(error)
        self._network.send(link, FetchEnd(nonce, reason))


@dataclass(frozen=True, slots=True)
class _SegmentFile:
    """A sealed segment as a payload: nobody writes to it any more. What takes its place meanwhile is another file."""

    segment: LogSegment

    @property
    def size(self) -> int:
        return self.segment.size

    def parts(self) -> Iterator[memoryview]:
        yield from (memoryview(piece) for piece in self.segment.raw(0, self.segment.size, PIECE))
