"""What a file is, by its content alone: where its data set begins and how that is encoded, or what else it is.

More lenient than `storage.dataset.read_meta`, which reads what Perenne wrote itself: files of other archives may lack
the group length, the transfer syntax or the whole File Meta, and their images are images nevertheless.
"""

import struct
from typing import Final

from msgspec import Struct

from storage.dataset import DEFLATED, EXPLICIT_BE, IMPLICIT_LE, Attributes, NeedMore, UnreadableDataSet, scan

EXPLICIT_LE: Final = "1.2.840.10008.1.2.1"
META_LIMIT: Final = 1024 * 1024
_LONG: Final = frozenset(b"OB OD OF OL OV OW SQ UC UN UR UT SV UV".split())
_VRS: Final = _LONG | frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_SCANNED: Final = 64 * 1024
_ROWS: Final = (b"\x28\0\x10\0US\x02\0", b"\x28\0\x10\0\x02\0\0\0")
_PIXELS: Final = (b"\xe0\x7f\x10\x00", b"\xe0\x7f\x08\x00", b"\xe0\x7f\x09\x00")
_MAGIC: Final = (
    (0, b"PK\x03\x04", "archive"),
    (0, b"\x1f\x8b", "archive"),
    (0, b"BZh", "archive"),
    (0, b"\xfd7zXZ\x00", "archive"),
    (257, b"ustar", "archive"),
    (0, b"{", "JSON"),
    (0, b"[", "JSON"),
    (0, b"<", "XML or HTML"),
    (0, b"SQLite format 3\0", "database"),
    (0, b"%PDF", "PDF"),
    (0, b"\xff\xd8\xff", "picture"),
    (0, b"\x89PNG", "picture"),
)
HEAD: Final = 512
"""Enough of a file to tell what it is."""


class Encoding(Struct, frozen=True):
    """offset: where the data set begins. assumed: the file does not say how it is encoded; its bytes were looked at."""

    offset: int
    transfer_syntax: str
    assumed: bool = False


def is_part10(head: bytes) -> bool:
    return head[128:132] == b"DICM"


def is_bare(head: bytes) -> bool:
    """Whether these bytes may be a data set without preamble and File Meta: it begins in group 8."""
    if len(head) < 16 or head[:2] not in (b"\x08\0", b"\0\x08"):
        return False
    return head[4:6] in _VRS or (head[:1] == b"\x08" and int.from_bytes(head[4:8], "little") <= 256)


def kind_of_other(head: bytes) -> str:
    """A word for what is no DICOM file."""
    if not head:
        return "empty"
    return next((kind for at, magic, kind in _MAGIC if head[at : at + len(magic)] == magic), "other")


def encoding_of(head: bytes) -> Encoding:
    """Look at the first bytes, File Meta included, of what `is_part10` or `is_bare`. Raises UnreadableDataSet."""
    if not is_part10(head):
        return Encoding(0, _looks(head), assumed=True)
    at, end, syntax = 132, None, ""
    while head[at : at + 2] == b"\x02\0" and at != end:
        if at + 12 > len(head) or head[at + 4 : at + 6] not in _VRS:
            raise UnreadableDataSet("its File Meta cannot be read")
        element, vr = struct.unpack_from("<H2s", head, at + 2)
        if vr in _LONG:
            (size,), start = struct.unpack_from("<I", head, at + 8), at + 12
        else:
            (size,), start = struct.unpack_from("<H", head, at + 6), at + 8
        value = head[start : start + size]
        if len(value) < size:
            raise UnreadableDataSet("its File Meta ends early")
        at = start + size
        if element == 0 and size == 4:
            end = at + int.from_bytes(value, "little")
        elif element == 0x10:
            syntax = value.decode("latin-1").strip("\0 ")
    return Encoding(at, syntax) if syntax else Encoding(at, _looks(head[at : at + 16]), assumed=True)


def _looks(data: bytes) -> str:
    """Implicit, or explicit in either order; a deflated data set always says so."""
    if data[4:6] in _VRS:
        return EXPLICIT_BE if data[:1] == b"\0" else EXPLICIT_LE
    return IMPLICIT_LE


def attributes_of(data: memoryview, transfer_syntax: str, *, complete: bool) -> Attributes:
    """The index attributes of a data set. complete: `data` is all of it. Raises UnreadableDataSet."""
    try:
        return scan(data[:_SCANNED], transfer_syntax, complete=complete and len(data) <= _SCANNED)
    except NeedMore:
        return scan(data, transfer_syntax, complete=complete)


def lacks_pixels(data: bytes, encoding: Encoding) -> bool:
    """Whether a whole file speaks of rows and has no pixels.

    Orthanc keeps a second file for many an instance, "DICOM until pixel data": the same UIDs, a proper Part 10 file,
    and no image. Where both are imported, the first to come would be the one that is served.
    """
    if encoding.transfer_syntax in DEFLATED or encoding.transfer_syntax == EXPLICIT_BE:
        return False
    return any(data.find(tag, encoding.offset) >= 0 for tag in _ROWS) and all(
        data.find(tag, encoding.offset) < 0 for tag in _PIXELS
    )
