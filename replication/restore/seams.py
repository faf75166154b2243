"""The chain at one record of an object that may be damaged: where epochs meet, it says which branch goes on. Pure.

Headers alone are looked at. A record that cannot be read hides where the next one begins; records begin at multiples of
4096, so the next header is found again. What is found here is believed only by the record behind it.
"""

from typing import Final

from replication.tier.keys import Run
from storage.errors import RecordCorrupt
from storage.record import HEADER_LIMIT, RECORD_ALIGNMENT, DecodedRecord, decode_header

RECORD_STARTS: Final = b"././@PaxHeader\0"


class HeaderSearch:
    """Feed it all of the object's bytes in order, until it finds what is looked for."""

    def __init__(self, run: Run, sequence: int) -> None:
        self.run = run
        self._sequence = sequence
        self._rest = b""
        self._skip = 0

    def feed(self, piece: bytes, *, last: bool) -> bytes | None:
        """The chain up to the record, once its header was found. last: no bytes follow."""
        data = memoryview(self._rest + piece if self._rest else piece)
        at = min(self._skip, len(data))
        self._skip -= at
        while len(data) - at >= (1 if last else HEADER_LIMIT):
            decoded = self._header(data[at : at + HEADER_LIMIT])
            if decoded is not None and decoded.header.position.sequence == self._sequence:
                return decoded.chain
            step = decoded.length if decoded is not None else RECORD_ALIGNMENT
            self._skip = max(0, at + step - len(data))
            at = min(at + step, len(data))
        self._rest = bytes(data[at:])
        return None

    def _header(self, start: memoryview) -> DecodedRecord | None:
        """Of a record that the object's name promises; an image may hold somebody else's."""
        if bytes(start[: len(RECORD_STARTS)]) != RECORD_STARTS:
            return None
        try:
            decoded = decode_header(start)
        except RecordCorrupt:
            return None
        position = decoded.header.position
        promised = position.epoch == self.run.epoch and self.run.first <= position.sequence <= self.run.last
        return decoded if promised else None
