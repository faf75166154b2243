"""Whole records as they lie in a segment, taken apart or cut to pages while they pass."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from storage.position import RecordHeader
from storage.reader import Payload
from storage.record import encode_header, record_length, trailing_padding

PAGE: Final = 4096
PIECE: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class WholeRecord:
    """A whole record, as it lies in a segment."""

    header: RecordHeader
    chain: bytes
    payload: Payload

    @property
    def size(self) -> int:
        return record_length(self.header.path, self.header.size)

    def parts(self) -> Iterator[memoryview]:
        yield memoryview(encode_header(self.header, self.chain))
        yield from self.payload.parts()
        yield memoryview(bytes(trailing_padding(self.header.size)))


@dataclass(frozen=True, slots=True)
class InnerPayload:
    """The payload inside the raw bytes of a whole record."""

    source: Payload
    offset: int
    size: int

    def parts(self) -> Iterator[memoryview]:
        left = self.size
        for part in after(self.source, self.offset):
            yield part[:left]
            left -= min(left, len(part))
            if not left:
                return


def in_pages(source: Payload) -> Iterator[bytes]:
    """The bytes of a whole record in pieces of whole pages."""
    held = bytearray()
    for part in source.parts():
        held += part
        if len(held) >= PIECE:
            whole = len(held) // PAGE * PAGE
            yield bytes(held[:whole])
            del held[:whole]
    if held:
        yield bytes(held)


def after(source: Payload, offset: int) -> Iterator[memoryview]:
    """Yield the bytes of `source` from `offset` on."""
    for part in source.parts():
        skipped = min(offset, len(part))
        offset -= skipped
        if skipped < len(part):
            yield part[skipped:]
