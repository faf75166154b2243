"""Protocol data units of the upper layer, all but association negotiation (PS3.8 section 9.3).

`PduReader` takes the byte stream in pieces of any size and hands on what it can at once: fragments of P-DATA
without waiting for the end of their PDU, every other PDU whole.
"""

import enum
import struct
from collections.abc import Iterator
from typing import Final, Protocol

ASSOCIATE_RQ: Final = 0x01
ASSOCIATE_AC: Final = 0x02
ASSOCIATE_RJ: Final = 0x03
P_DATA: Final = 0x04
RELEASE_RQ: Final = 0x05
RELEASE_RP: Final = 0x06
ABORT: Final = 0x07

RELEASE_RQ_PDU: Final = b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00"
RELEASE_RP_PDU: Final = b"\x06\x00\x00\x00\x00\x04\x00\x00\x00\x00"

PDV_COMMAND: Final = 0x01
PDV_LAST: Final = 0x02

_PDU_HEADER: Final = struct.Struct(">BxI")
_PDV_HEADER: Final = struct.Struct(">IBB")
_BOTH_HEADERS: Final = struct.Struct(">BxIIBB")
_LIMITS: Final = {ASSOCIATE_RQ: 1024 * 1024, ASSOCIATE_AC: 1024 * 1024}
_SHORT_LIMIT: Final = 64
"""RJ, release and abort are four bytes; a little more is forgiven."""


class AbortReason(enum.IntEnum):
    """Reason/Diag. of an A-ABORT whose source is the service provider (PS3.8 table 9-26)."""

    NOT_SPECIFIED = 0
    UNRECOGNIZED_PDU = 1
    UNEXPECTED_PDU = 2
    UNRECOGNIZED_PARAMETER = 4
    UNEXPECTED_PARAMETER = 5
    INVALID_PARAMETER = 6


class PduError(Exception):
    """The peer broke the protocol; the association is to be aborted."""

    def __init__(self, reason: AbortReason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class PduSink(Protocol):
    """Where a PduReader hands things to. Both may raise PduError."""

    def fragment(self, context_id: int, control: int, data: memoryview, ends: bool) -> None:
        """Take a piece of a PDV: at least one call per PDV, the last with `ends`.

        control: the message control header, bits PDV_COMMAND and PDV_LAST. data: valid during the call.
        """
        ...

    def pdu(self, kind: int, body: bytes) -> None:
        """Take a whole PDU other than P-DATA-TF; `body` is what follows its six-byte header."""
        ...


class PduReader:
    """data_allowed: whether P-DATA-TF is welcome in this state. stopped: set it to ignore all further bytes.

    max_data: the largest P-DATA-TF allowed, as advertised to the peer.
    """

    def __init__(self, sink: PduSink, max_data: int) -> None:
        self._sink = sink
        self._max_data = max_data
        self.data_allowed = False
        self.stopped = False
        self._header = bytearray()
        self._pdu_left = 0
        self._pdv_left = 0
        self._context_id = 0
        self._control = 0
        self._kind = 0
        self._body: bytearray | None = None
        self._body_left = 0

    @property
    def between_pdus(self) -> bool:
        return not (self._header or self._pdu_left or self._body is not None)

    def feed(self, data: memoryview) -> None:
        """Take the next bytes. Raises PduError; nothing may be fed afterwards."""
        position, end = 0, len(data)
        while position < end and not self.stopped:
            if self._pdv_left:
                taken = min(self._pdv_left, end - position)
                self._pdv_left -= taken
                self._pdu_left -= taken
                piece = data[position : position + taken]
                position += taken
                self._sink.fragment(self._context_id, self._control, piece, self._pdv_left == 0)
            elif self._body is not None:
                taken = min(self._body_left, end - position)
                self._body += data[position : position + taken]
                position += taken
                self._take_body(taken)
            elif not self._pdu_left and not self._header and end - position >= 12 and data[position] == P_DATA:
                _, length, pdv_length, context_id, control = _BOTH_HEADERS.unpack_from(data, position)
                position += 12
                self._begin_data(length)
                self._begin_pdv(pdv_length, context_id, control)
            else:
                taken = min(6 - len(self._header), end - position)
                self._header += data[position : position + taken]
                position += taken
                if len(self._header) == 6:
                    self._take_header()

    def _take_header(self) -> None:
        if self._pdu_left:
            pdv_length, context_id, control = _PDV_HEADER.unpack(self._header)
            self._header.clear()
            self._begin_pdv(pdv_length, context_id, control)
            return
        kind, length = _PDU_HEADER.unpack(self._header)
        self._header.clear()
        if kind == P_DATA:
            self._begin_data(length)
            return
        if not ASSOCIATE_RQ <= kind <= ABORT:
            raise PduError(AbortReason.UNRECOGNIZED_PDU, f"PDU type {kind:#04x}")
        if length > _LIMITS.get(kind, _SHORT_LIMIT):
            raise PduError(AbortReason.INVALID_PARAMETER, f"PDU type {kind} of {length} bytes")
        self._kind, self._body, self._body_left = kind, bytearray(), length
        if not length:
            self._take_body(0)

    def _take_body(self, taken: int) -> None:
        self._body_left -= taken
        if self._body_left == 0 and self._body is not None:
            body, self._body = bytes(self._body), None
            self._sink.pdu(self._kind, body)

    def _begin_data(self, length: int) -> None:
        if not self.data_allowed:
            raise PduError(AbortReason.UNEXPECTED_PDU, "P-DATA-TF in this state")
        if length > self._max_data:
            raise PduError(AbortReason.INVALID_PARAMETER, f"P-DATA-TF of {length} bytes")
        if length < 6:
            raise PduError(AbortReason.INVALID_PARAMETER, "P-DATA-TF without a PDV")
        self._pdu_left = length

    def _begin_pdv(self, length: int, context_id: int, control: int) -> None:
        left = self._pdu_left - 4 - length
        # What remains must be another PDV, so nothing or at least its six bytes.
        if length < 2 or left < 0 or 0 < left < 6:
            raise PduError(AbortReason.INVALID_PARAMETER, f"PDV of {length} bytes")
        self._pdu_left -= 6
        self._pdv_left = length - 2
        self._context_id, self._control = context_id, control
        if not self._pdv_left:
            self._sink.fragment(context_id, control, memoryview(b""), True)


def abort_pdu(source: int, reason: int) -> bytes:
    """source: 0 the service user, 2 the service provider."""
    return b"\x07\x00\x00\x00\x00\x04\x00\x00%c%c" % (source, reason)


def reject_pdu(result: int, source: int, reason: int) -> bytes:
    """Return an A-ASSOCIATE-RJ (PS3.8 table 9-21)."""
    return b"\x03\x00\x00\x00\x00\x04\x00%c%c%c" % (result, source, reason)


def data_header(context_id: int, control: int, size: int) -> bytes:
    """Return the headers of a P-DATA-TF with one PDV whose fragment has `size` bytes."""
    return _BOTH_HEADERS.pack(P_DATA, size + 6, size + 2, context_id, control)


def data_pdus(context_id: int, control: int, data: memoryview, max_length: int) -> Iterator[bytes | memoryview]:
    """Yield headers and views of `data` in P-DATA-TF PDUs of one PDV each.

    control: PDV_COMMAND or 0; PDV_LAST is added to the last fragment. max_length: what the peer can receive
    (PS3.8 annex D.1), 0 for no limit; data then goes in PDUs of 1 MiB.
    """
    room = max(max_length - 6, 1) if max_length else 1024 * 1024
    total = len(data)
    for start in range(0, max(total, 1), room):
        size = min(room, total - start)
        last = PDV_LAST if start + size == total else 0
        yield data_header(context_id, control | last, size)
        yield data[start : start + size]
