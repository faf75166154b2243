"""The two digests of a payload, taken in one pass while its bytes arrive (docs/format.md, Digests)."""

from collections.abc import Iterable
from typing import Final

from blake3 import blake3
from msgspec import Struct

from storage.position import NO_DIGEST, RecordKind

# Preamble (128), "DICM", and the element (0002,0000) UL 4 with its value: PS3.10 section 7.1.
_PREFIX_BYTES: Final = 144
_GROUP_LENGTH: Final = b"DICM\x02\x00\x00\x00UL\x04\x00"
META_LIMIT_BYTES: Final = 1024 * 1024
"""A File Meta group that claims to be larger is not taken for one: its bytes are held until
it is complete.
"""

Bytes = bytes | bytearray | memoryview


def part10_meta_length(head: Bytes) -> int:
    """Return the bytes of preamble, prefix and File Meta at the start of a Part 10 file; 0 where
    there are none.

    It is a function of the first 144 bytes alone. A file without the group length that PS3.10 section 7.1
    requires counts as all data set: that changes what its digest covers first, not whether it is covered.
    """
    if len(head) < _PREFIX_BYTES or bytes(head[128:140]) != _GROUP_LENGTH:
        return 0
    length = _PREFIX_BYTES + int.from_bytes(head[140:144], "little")
    return length if length <= META_LIMIT_BYTES else 0


class PayloadDigests(Struct, frozen=True):
    """dataset: BLAKE3 of the data set (`NO_DIGEST` unless an instance).

    digest: of the payload as the record says.
    """

    dataset: bytes
    digest: bytes
    meta_length: int


class PayloadHasher:
    """Digests of one payload, fed in pieces of any size. An instance is split where its File Meta ends."""

    def __init__(self, kind: RecordKind = RecordKind.INSTANCE) -> None:
        self._instance = kind is RecordKind.INSTANCE
        self._body = blake3()
        self._head: bytearray | None = bytearray() if self._instance else None
        self._meta = b""

    def update(self, data: Bytes) -> None:
        if self._head is None:
            self._body.update(data)
            return
        # The boundary lies in the head: hold bytes until it is known and passed.
        head = data
        if self._head or len(data) < _PREFIX_BYTES:
            self._head += data
            head = self._head
        boundary = part10_meta_length(head)
        if len(head) < _PREFIX_BYTES or len(head) < boundary:
            if head is data:
                self._head += data
            return
        self._meta = bytes(head[:boundary])
        self._body.update(memoryview(head)[boundary:])
        self._head = None

    def finish(self) -> PayloadDigests:
        """Return the digests. A payload shorter than its File Meta claims is all data set."""
        if not self._instance:
            return PayloadDigests(NO_DIGEST, self._body.digest(), 0)
        if self._head is not None:
            self._body.update(self._head)
            self._head = None
        dataset = self._body.digest()
        return PayloadDigests(dataset, blake3(self._meta + dataset).digest(), len(self._meta))


def digests_of_whole(kind: RecordKind, payload: Bytes) -> PayloadDigests:
    """Return the digests of a payload that lies in one piece."""
    if kind is not RecordKind.INSTANCE:
        return PayloadDigests(NO_DIGEST, blake3(payload).digest(), 0)
    boundary = part10_meta_length(payload)
    if boundary > len(payload):
        boundary = 0
    whole = memoryview(payload)
    dataset = blake3(whole[boundary:]).digest()
    return PayloadDigests(dataset, blake3(bytes(whole[:boundary]) + dataset).digest(), boundary)


def digests_of(kind: RecordKind, parts: Iterable[Bytes]) -> PayloadDigests:
    """Return the digests of a whole payload given in pieces."""
    hasher = PayloadHasher(kind)
    for part in parts:
        hasher.update(part)
    return hasher.finish()
