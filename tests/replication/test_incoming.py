"""Payloads of frames on their way into staging."""

import pytest

from replication.arriving import ArrivingSegment
from replication.incoming import Gone, Incoming, Payload, PayloadSink
from replication.messages import Append, Fetched, LookupAnswer, Message, Propose, ProposeSmall, to_point, to_record
from replication.wire import WireError
from storage.position import GENESIS, LogPosition, RecordHeader, RecordKind
from storage.staging import Staged, StagingArea
from tests.storage.log_helpers import record_after
from tests.storage.memory_disk import MemoryDisk


def sent_as(kind: type[Message], content: bytes, arrives: bytes) -> list[Payload]:
    """What is delivered of a message whose payload was `content` when it was sent."""
    delivered: list[Payload] = []

    def deliver(message: Message, payload: Payload) -> None:
        delivered.append(payload)

    staging = StagingArea(MemoryDisk(), memory_instance_bytes=1 << 20, pool_bytes=1 << 24)
    receiving = staging.begin_raw(RecordKind.TOMBSTONE if kind is ProposeSmall else RecordKind.INSTANCE)
    receiving.write(memoryview(content))
    original = receiving.finish()
    digests = original.dataset_digest, original.digest
    position, path = LogPosition(1, 1), "study/1.2.3.dcm"
    record = to_record(RecordHeader(position, RecordKind.INSTANCE, *digests, 0, path, len(content)), bytes(32))
    point = to_point(GENESIS)
    messages: tuple[Message, ...] = (
        Propose(1, "1.2", "1.2.3", "1.4", "1.5", "1.2.840.10008.1.2.1", len(content), *digests),
        ProposeSmall(1, "tombstone", original.digest),
        Append(1, point, point, record),
        Fetched(1, point, record),
        LookupAnswer(1, "present", original.digest, 0),
    )
    message = next(message for message in messages if isinstance(message, kind))
    sink = PayloadSink(message, len(arrives), staging, deliver, lambda count: None)
    sink.write(memoryview(arrives))
    sink.finish()
    return delivered


@pytest.mark.parametrize("kind", [Propose, ProposeSmall, Append, Fetched, LookupAnswer])
def test_a_payload_whose_bytes_were_altered_on_the_way_is_not_delivered(kind: type[Message]) -> None:
    content = bytes(128) + b"DICM" + bytes(range(200))
    (payload,) = sent_as(kind, content, content)
    assert isinstance(payload, Staged)
    with pytest.raises(WireError):
        sent_as(kind, content, content[:-1] + b"\xff")


def no_segment(size: int) -> ArrivingSegment:
    raise AssertionError(f"none of {size} bytes was announced")


def test_what_is_left_of_a_deleted_instance_comes_without_a_payload() -> None:
    delivered: list[Payload] = []
    staging = StagingArea(MemoryDisk(), memory_instance_bytes=1 << 20, pool_bytes=1 << 24)
    incoming = Incoming(staging, lambda message, payload: delivered.append(payload), no_segment)
    header, chain, payload = record_after(GENESIS, 700)
    point = to_point(GENESIS)
    stub = Append(1, point, point, to_record(header, chain, 9))
    incoming.begin(stub, 0).finish()
    assert delivered == [Gone(9)]
    with pytest.raises(WireError):
        incoming.begin(stub, payload.size)
    incoming.begin(Append(1, point, point, to_record(header, chain)), 0).finish()
    assert delivered[1:] == [None], "one without a payload that says nothing of a tombstone is no stub"
