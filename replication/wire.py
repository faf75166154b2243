"""Frames between nodes: a fixed header, a control part (one message in MessagePack), and raw payload bytes behind it.

Header, big-endian, 24 bytes: magic "PRNE", version u8, three zero bytes, length of the control part u32, its CRC-32
u32, length of the payload u64. Payloads carry their own digests; the checksum guards the control part alone.
"""

import struct
import zlib
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from replication.messages import Message

MAGIC: Final = b"PRNE"
VERSION: Final = 1
MAX_CONTROL: Final = 4 * 1024 * 1024
MAX_PAYLOAD: Final = 1 << 42
_HEADER: Final = struct.Struct(">4sB3xIIQ")
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


def encode(message: Message, payload_size: int = 0) -> bytes:
    """Return header and control part; `payload_size` raw bytes must follow. Raises WireError when it is too long."""
    control = _ENCODER.encode(message)
    if len(control) > MAX_CONTROL:
        raise WireError(f"a control part of {len(control)} bytes is longer than {MAX_CONTROL}")
    return _HEADER.pack(MAGIC, VERSION, len(control), zlib.crc32(control), payload_size) + control


class FrameDecoder:
    """Takes bytes as they come, cut anywhere.

    begin(message, payload_size): called once per frame; returns the sink of its payload (never written when the
    size is 0, but finished all the same). Raises WireError from `feed`; nothing more can be fed then.
    """

    def __init__(self, begin: Callable[[Message, int], Sink]) -> None:
        self._begin = begin
        self._pending = bytearray()
        self._sink: Sink | None = None
        self._left = 0

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next bytes of the stream."""
        view = memoryview(data)
        while view:
            view = self._payload(self._sink, view) if self._sink is not None else self._control(view)

    def _payload(self, sink: Sink, view: memoryview) -> memoryview:
        taken = min(self._left, len(view))
        sink.write(view[:taken])
        self._left -= taken
        if self._left == 0:
            self._sink = None
            sink.finish()
        return view[taken:]

    def _control(self, view: memoryview) -> memoryview:
        pending = self._pending
        needed = _HEADER.size
        if len(pending) >= needed:
            needed += self._control_length()
        taken = min(needed - len(pending), len(view))
        pending += view[:taken]
        if len(pending) == _HEADER.size and self._control_length() > 0:
            return view[taken:]
        if len(pending) == needed:
            self._frame()
        return view[taken:]

    def _control_length(self) -> int:
        magic, version, length, _, payload = _HEADER.unpack_from(self._pending)
        if magic != MAGIC:
            raise WireError("what came does not begin like a frame")
        if version != VERSION:
            raise WireError(f"frame version {version} is not known here")
        if not 0 < length <= MAX_CONTROL or payload > MAX_PAYLOAD:
            raise WireError(f"a frame of {length} + {payload} bytes is beyond all bounds")
        return int(length)

    def _frame(self) -> None:
        _, _, _, checksum, payload = _HEADER.unpack_from(self._pending)
        control = bytes(self._pending[_HEADER.size :])
        self._pending.clear()
        if zlib.crc32(control) != checksum:
            raise WireError("the checksum of a control part is wrong")
        try:
            message = _DECODER.decode(control)
        except msgspec.MsgspecError as error:
            raise WireError(f"a message cannot be read: {error}") from error
        sink = self._begin(message, payload)
        if payload == 0:
            sink.finish()
        else:
            self._sink, self._left = sink, payload
