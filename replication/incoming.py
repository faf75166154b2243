"""Payloads of frames while they arrive: into staging, hashed on the way, refused when their digest is wrong."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from replication.arriving import ArrivingSegment
from replication.messages import Append, Fetched, LookupAnswer, Message, Propose, ProposeSmall, Segment
from replication.wire import WireError
from storage.deletion import SMALL_KINDS, SMALL_LIMIT_BYTES
from storage.errors import StorageError
from storage.position import RecordKind
from storage.staging import Staged, StagingArea


@dataclass(frozen=True, slots=True)
class Gone:
    """In place of the payload of a deleted instance, which was taken away. tombstone: what is said to cover it."""

    tombstone: int


Payload = Staged | Gone | ArrivingSegment | None
"""What came with a message: an instance or a small record, what is left of one, a segment, or nothing."""
Deliver = Callable[[Message, Payload], None]


class PayloadSink:
    """The bytes of one record or instance."""

    def __init__(
        self, message: Message, size: int, staging: StagingArea, deliver: Deliver, count: Callable[[int], None]
    ) -> None:
        self._message = message
        self._deliver = deliver
        self._count = count
        kind = RecordKind.INSTANCE
        if isinstance(message, (Append, Fetched)):
            if size != message.record.size or message.record.tombstone:
                raise WireError(f"a record of {message.record.size} bytes came with {size}")
            kind = message.record.header().kind
        elif isinstance(message, ProposeSmall):
            kind = RecordKind(message.kind)
            if kind not in SMALL_KINDS or size > SMALL_LIMIT_BYTES:
                raise WireError(f"a {message.kind} of {size} bytes is not offered like this")
        self._receiving = staging.begin_raw(kind)

    def write(self, data: memoryview) -> None:
        self._count(len(data))
        self._receiving.write(data)

    def finish(self) -> None:
        staged = self._receiving.finish()
        if (staged.digest, staged.dataset_digest) != _expected(self._message, staged):
            staged.release()
            raise WireError("the payload does not match its digest")
        self._deliver(self._message, staged)

    def abandon(self) -> None:
        self._receiving.abandon()


def _expected(message: Message, staged: Staged) -> tuple[bytes, bytes]:
    if isinstance(message, (Append, Fetched)):
        return message.record.digest, message.record.dataset
    if isinstance(message, Propose):
        return message.digest, message.dataset
    if isinstance(message, ProposeSmall):
        return message.digest, staged.dataset_digest
    if isinstance(message, LookupAnswer):
        return message.digest, staged.dataset_digest
    raise WireError(f"{type(message).__name__} has no payload")


class SegmentSink:
    """A whole segment; the log takes it over once it is proved."""

    def __init__(
        self, message: Segment, segment: ArrivingSegment, deliver: Deliver, count: Callable[[int], None]
    ) -> None:
        self._message = message
        self._segment = segment
        self._deliver = deliver
        self._count = count

    def write(self, data: memoryview) -> None:
        self._count(len(data))
        self._segment.write(data)

    def finish(self) -> None:
        self._segment.arrived()
        self._deliver(self._message, self._segment)

    def abandon(self) -> None:
        self._segment.discard()


class NoPayload:
    """A message that stands alone."""

    def __init__(self, message: Message, size: int, deliver: Deliver) -> None:
        if size:
            raise WireError(f"{type(message).__name__} came with a payload")
        self._message = message
        self._deliver = deliver

    def write(self, data: memoryview) -> None:
        raise AssertionError("there is nothing to write")

    def finish(self) -> None:
        message = self._message
        taken = message.record.tombstone if isinstance(message, (Append, Fetched)) else 0
        self._deliver(message, Gone(taken) if taken else None)

    def abandon(self) -> None:
        pass


IncomingSink = PayloadSink | SegmentSink | NoPayload


class Incoming:
    """Chooses where the payload of each frame of one connection goes."""

    def __init__(self, staging: StagingArea, deliver: Deliver, segment: Callable[[int], ArrivingSegment]) -> None:
        self._staging = staging
        self._deliver = deliver
        self._segment = segment
        self._sink: PayloadSink | SegmentSink | None = None
        self.arriving: Message | None = None
        """The message whose payload is under way."""
        self.received = 0
        """Payload bytes so far, unfinished ones included."""

    def begin(self, message: Message, size: int) -> IncomingSink:
        """Raises WireError, StorageError."""
        if isinstance(message, Segment) and size:
            self._sink = SegmentSink(message, self._segment(size), self._finished, self._count)
        elif size and isinstance(message, (Append, Fetched, Propose, ProposeSmall, LookupAnswer)):
            self._sink = PayloadSink(message, size, self._staging, self._finished, self._count)
        else:
            return NoPayload(message, size, self._deliver)  # one may come between the pieces of a payload
        self.arriving = message
        return self._sink

    def _finished(self, message: Message, payload: Payload) -> None:
        self._sink = self.arriving = None
        self._deliver(message, payload)

    def _count(self, size: int) -> None:
        self.received += size

    def abandon(self) -> None:
        """The connection ended in the middle of a payload."""
        sink, self._sink = self._sink, None
        if sink is not None:
            with contextlib.suppress(StorageError):  # a file that stays in staging/ is removed at the next start
                sink.abandon()
