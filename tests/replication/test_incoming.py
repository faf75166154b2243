"""Payloads of frames on their way into staging."""

import pytest

from replication.arriving import ArrivingSegment
from replication.incoming import Gone, Incoming, Payload, PayloadSink
from replication.messages import Append, Message, Propose, to_point, to_record
from replication.wire import WireError
from storage.position import GENESIS
from storage.staging import Staged, StagingArea
from tests.storage.log_helpers import record_after
from tests.storage.memory_disk import MemoryDisk


def sent_as(content: bytes, arrives: bytes) -> list[Payload]:
    """What is delivered of an instance whose bytes were `content` when it was sent."""
    delivered: list[Payload] = []

    def deliver(message: Message, payload: Payload) -> None:
        delivered.append(payload)

    staging = StagingArea(MemoryDisk(), memory_instance_bytes=1 << 20, pool_bytes=1 << 24)
    receiving = staging.begin_raw()
    receiving.write(memoryview(content))
    original = receiving.finish()
    message = Propose(
        1, "1.2", "1.2.3", "1.4", "1.5", "1.2.840.10008.1.2.1", len(content), original.dataset_digest, original.digest
    )
    sink = PayloadSink(message, len(arrives), staging, deliver, lambda count: None)
    sink.write(memoryview(arrives))
    sink.finish()
    return delivered


def test_a_payload_whose_bytes_were_altered_on_the_way_is_not_delivered() -> None:
    content = bytes(128) + b"DICM" + bytes(range(200))
    (payload,) = sent_as(content, content)
    assert isinstance(payload, Staged)
    with pytest.raises(WireError):
        sent_as(content, content[:-1] + b"\xff")


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
