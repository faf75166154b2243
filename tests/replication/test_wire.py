"""Frames: cut anywhere, in pieces, and hostile."""

import struct
import zlib
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.messages import FetchEnd, Goodbye, Lookup, Message, Propose, Survey
from replication.wire import MAX_CONTROL, MAX_PAYLOAD, FrameDecoder, WireError, encode, encode_piece


@dataclass
class Taken:
    """What came out of a decoder: messages with their payloads, in the order in which they were complete."""

    frames: list[tuple[Message, bytes]] = field(default_factory=list[tuple[Message, bytes]])

    def begin(self, message: Message, size: int) -> "_Sink":
        return _Sink(self, message, size)


class _Sink:
    def __init__(self, taken: Taken, message: Message, size: int) -> None:
        self._taken, self._message, self._size = taken, message, size
        self._content = bytearray()

    def write(self, data: memoryview) -> None:
        self._content += data

    def finish(self) -> None:
        assert len(self._content) == self._size
        self._taken.frames.append((self._message, bytes(self._content)))


def proposal(ticket: int) -> Propose:
    return Propose(ticket, "1.2", "1.2.3", "1.4", "1.5", "1.2.840.10008.1.2.1", 132, bytes(32), bytes(32))


def cut(stream: bytes, points: list[int]) -> list[bytes]:
    edges = sorted({0, len(stream), *(point % (len(stream) + 1) for point in points)})
    return [stream[low:high] for low, high in zip(edges, edges[1:], strict=False)]


payloads = st.binary(max_size=300)


@given(st.lists(payloads, max_size=5), st.lists(st.integers(0, 10_000), max_size=12))
def test_frames_come_out_as_they_went_in_wherever_the_stream_is_cut(bodies: list[bytes], points: list[int]) -> None:
    frames: list[tuple[Message, bytes]] = [(proposal(number), body) for number, body in enumerate(bodies)]
    stream = b"".join(encode(message, len(body)) + body for message, body in frames)
    taken = Taken()
    decoder = FrameDecoder(taken.begin)
    for part in cut(stream, points):
        decoder.feed(part)
    assert taken.frames == frames


@given(st.lists(st.binary(min_size=1, max_size=80), min_size=1, max_size=6), st.lists(st.integers(0, 10_000)))
def test_a_payload_in_pieces_lets_small_messages_pass_between(pieces: list[bytes], points: list[int]) -> None:
    whole = b"".join(pieces)
    stream = encode(proposal(7), len(whole), in_pieces=True)
    for number, piece in enumerate(pieces):
        stream += encode_piece(len(piece)) + piece + encode(Survey(number))
    taken = Taken()
    decoder = FrameDecoder(taken.begin)
    for part in cut(stream, points):
        decoder.feed(part)
    surveys: list[tuple[Message, bytes]] = [(Survey(number), b"") for number in range(len(pieces))]
    assert [frame for frame in taken.frames if isinstance(frame[0], Survey)] == surveys
    assert taken.frames[len(pieces) - 1] == (proposal(7), whole)


def header(
    *, magic: bytes = b"PRNE", version: int = 1, shape: int = 0, control: bytes = b"", payload: int = 0
) -> bytes:
    return struct.pack(">4sBB2xIIQ", magic, version, shape, len(control), zlib.crc32(control), payload) + control


GOOD = encode(FetchEnd(1, ""))[24:]


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", "does not begin like a frame"),
        (header(version=2, control=GOOD), "version 2"),
        (header(shape=3, control=GOOD), "shape 3"),
        (header(), "beyond all bounds"),
        (struct.pack(">4sBB2xIIQ", b"PRNE", 1, 0, MAX_CONTROL + 1, 0, 0), "beyond all bounds"),
        (header(control=GOOD, payload=MAX_PAYLOAD + 1), "beyond all bounds"),
        (header(shape=2, payload=10), "belong to any payload"),
        (header(shape=1, control=GOOD), "opened payload is empty"),
        (encode(proposal(1), 5, in_pieces=True) + encode(proposal(2), 3), "within the first"),
        (encode(proposal(1), 5, in_pieces=True) + encode_piece(6), "belong to any payload"),
        (header(control=b"\xc1"), "cannot be read"),
        (header(control=b"\x92\xa5Hullo\x01"), "cannot be read"),
    ],
)
def test_what_is_no_frame_is_refused_with_the_reason(stream: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        FrameDecoder(Taken().begin).feed(stream)


@given(st.integers(24, 24 + len(GOOD) - 1), st.integers(0, 7))
def test_a_flipped_bit_in_the_control_part_is_noticed(at: int, bit: int) -> None:
    stream = bytearray(encode(FetchEnd(1, "")))
    stream[at] ^= 1 << bit
    with pytest.raises(WireError, match="checksum"):
        FrameDecoder(Taken().begin).feed(bytes(stream))


@given(st.binary(max_size=200))
def test_garbage_gives_an_error_or_waits_for_more(garbage: bytes) -> None:
    taken = Taken()
    try:
        FrameDecoder(taken.begin).feed(garbage)
    except WireError:
        return
    assert not taken.frames


def test_a_control_part_that_is_too_long_is_not_even_sent() -> None:
    with pytest.raises(WireError, match="longer than"):
        encode(Goodbye("x" * (MAX_CONTROL + 1)))
    assert encode(Lookup(1, "1.2", send_bytes=True)).startswith(b"PRNE")
