"""Frames between nodes: a fixed header, a control part (one message in MessagePack), and raw payload bytes behind it.

Header, big-endian, 24 bytes: magic "PRNE", version u8, shape u8, two zero bytes, length of the control part u32, its
CRC-32 u32, length of the payload u64. Payloads carry their own digests; the checksum guards the control part alone.

Shapes: WHOLE, the payload follows at once; OPENING, the payload of that length follows in frames of the shape PIECE,
which have no control part. Between pieces there may be whole frames without payload, nothing else.
"""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from replication.messages import Message

MAGIC: Final = b"PRNE"
VERSION: Final = 1
MAX_CONTROL: Final = 4 * 1024 * 1024
MAX_PAYLOAD: Final = 1 << 42
WHOLE: Final = 0
OPENING: Final = 1
PIECE: Final = 2
_HEADER: Final = struct.Struct(">4sBB2xIIQ")
_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(Message)


class WireError(Exception):
    """What came is no frame of this protocol; the connection cannot be used any more."""


class Sink(Protocol):
    """Where the payload of one frame goes while it arrives."""

    def write(self, data: memoryview) -> None: ...

    def finish(self) -> None:
        """The payload is complete."""
        ...


def encode(message: Message, payload_size: int = 0, *, in_pieces: bool = False) -> bytes:
    """Return header and control part; `payload_size` raw bytes must follow, at once or in pieces.

    Raises WireError when the control part is too long.
    """
    control = _ENCODER.encode(message)
    if len(control) > MAX_CONTROL:
        raise WireError(f"a control part of {len(control)} bytes is longer than {MAX_CONTROL}")
    shape = OPENING if in_pieces else WHOLE
    return _HEADER.pack(MAGIC, VERSION, shape, len(control), zlib.crc32(control), payload_size) + control


def encode_piece(size: int) -> bytes:
    """Return the header of a piece; `size` raw bytes must follow."""
    return _HEADER.pack(MAGIC, VERSION, PIECE, 0, 0, size)


@dataclass(slots=True)
class _Arriving:
    """A payload of which `left` bytes are still to come."""

    sink: Sink
    left: int


class FrameDecoder:
    """Takes bytes as they come, cut anywhere.

    begin(message, payload_size): called once per frame with a message; returns the sink of its payload (never written
    when the size is 0, but finished all the same). Raises WireError from `feed`; nothing more can be fed then.
    max_control: no control part may be longer; it may be changed between frames.
    """

    def __init__(self, begin: Callable[[Message, int], Sink], *, max_control: int = MAX_CONTROL) -> None:
        self._begin = begin
        self.max_control = max_control
        self._pending = bytearray()
        self._arriving: _Arriving | None = None
        """The payload that raw bytes belong to, up to `_run` of them."""
        self._in_pieces: _Arriving | None = None
        self._run = 0

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next bytes of the stream."""
        view = memoryview(data)
        while view:
            view = self._payload(self._arriving, view) if self._arriving is not None else self._control(view)

    def _payload(self, arriving: _Arriving, view: memoryview) -> memoryview:
        taken = min(self._run, len(view))
        arriving.sink.write(view[:taken])
        self._run -= taken
        arriving.left -= taken
        if self._run == 0:
            self._arriving = None
        if arriving.left == 0:
            if arriving is self._in_pieces:
                self._in_pieces = None
            arriving.sink.finish()
        return view[taken:]

    def _control(self, view: memoryview) -> memoryview:
        if not self._pending and len(view) >= _HEADER.size:
            # Nearly always header and control part come in one read: they are decoded where they lie.
            end = _HEADER.size + self._control_length(view)
            if len(view) >= end:
                self._frame(view[:end])
                return view[end:]
        return self._collect(view)

    def _collect(self, view: memoryview) -> memoryview:
        pending = self._pending
        needed = _HEADER.size
        if len(pending) >= needed:
            needed += self._control_length(pending)
        taken = min(needed - len(pending), len(view))
        pending += view[:taken]
        if len(pending) == _HEADER.size and self._control_length(pending) > 0:
            return view[taken:]
        if len(pending) == needed:
            self._pending = bytearray()
            self._frame(memoryview(pending))
        return view[taken:]

    def _control_length(self, start: bytearray | memoryview) -> int:
        magic, version, shape, length, _, payload = _HEADER.unpack_from(start)
        if magic != MAGIC:
            raise WireError("what came does not begin like a frame")
        if version != VERSION or shape > PIECE:
            raise WireError(f"frame version {version}, shape {shape} is not known here")
        if shape == PIECE:
            if length or self._in_pieces is None or not 0 < payload <= self._in_pieces.left:
                raise WireError("a piece does not belong to any payload")
        elif not 0 < length <= self.max_control or payload > MAX_PAYLOAD:
            raise WireError(f"a frame of {length} + {payload} bytes is beyond all bounds")
        elif self._in_pieces is not None and (payload or shape == OPENING):
            raise WireError("a second payload came within the first")
        elif shape == OPENING and not payload:
            raise WireError("an opened payload is empty")
        return int(length)

    def _frame(self, whole: memoryview) -> None:
        _, _, shape, _, checksum, payload = _HEADER.unpack_from(whole)
        control = whole[_HEADER.size :]
        if shape == PIECE:
            self._arriving, self._run = self._in_pieces, payload
            return
        if zlib.crc32(control) != checksum:
            raise WireError("the checksum of a control part is wrong")
        try:
            message = _DECODER.decode(control)
        except msgspec.MsgspecError as error:
            raise WireError(f"a message cannot be read: {error}") from error
        sink = self._begin(message, payload)
        if payload == 0:
            sink.finish()
        elif shape == OPENING:
            self._in_pieces = _Arriving(sink, payload)
        else:
            self._arriving, self._run = _Arriving(sink, payload), payload
