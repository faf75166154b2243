"""Whether a data set comes to an end, or was cut short: its elements are walked from the first to the last, unread.

The header scanner stops at the last attribute of the index, so a file whose copy broke off within its pixel data looks
like any other to it. Only what is certain is said here: a length that runs past the end, a sequence that nothing ends.
What other programs write is odd in many ways, and an oddity is no proof of a cut.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import Final

from perenne.moving.content import PIECE
from storage.dataset import DEFLATED, EXPLICIT_BE

_LONG: Final = frozenset(b"OB OD OF OL OV OW SQ UC UN UR UT SV UV".split())
_SHORT: Final = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_VRS: Final = _LONG | _SHORT
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED: Final = 0xFFFFFFFF
_PIXELS: Final = frozenset((0x7FE00008, 0x7FE00009, 0x7FE00010))
_LAST: Final = 0xFFFCFFFF
"""No element has a higher tag: what looks like one is padding."""
_DEEPEST: Final = 64


class _Unclear(Exception):
    """Not what the standard has: nobody can tell where it should end."""


class _Cut(Exception):
    """The bytes end before the value does. Its text: where, if that is not an element."""


def where_cut(pieces: Iterable[bytes], offset: int, transfer_syntax: str) -> str:
    """Within which element the data set ends too early, for people; empty where it does not, or nobody can tell.

    pieces: of the whole file. offset: where the data set begins in it. Raises what `pieces` does.
    """
    coming = _from(iter(pieces), offset)
    if transfer_syntax in DEFLATED:
        coming = _inflated(coming)
    walk = _Walk(coming, ">" if transfer_syntax == EXPLICIT_BE else "<")
    try:
        walk.run()
    except _Cut as cut:
        return str(cut) or _named(walk.tag)
    except _Unclear:
        return ""
    return ""


def _named(tag: int) -> str:
    return f"{'its pixel data ' if tag in _PIXELS else ''}({tag >> 16:04X},{tag & 0xFFFF:04X})"


def _from(pieces: Iterator[bytes], offset: int) -> Iterator[bytes]:
    for piece in pieces:
        yield piece[offset:] if offset else piece
        offset = max(0, offset - len(piece))


def _inflated(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Raises _Cut when the compressed bytes have no end, _Unclear."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    for piece in pieces:
        left = piece
        while left and not inflater.eof:
            try:
                yield inflater.decompress(left, PIECE)
            except zlib.error as error:
                raise _Unclear from error
            left = inflater.unconsumed_tail
    if not inflater.eof:
        raise _Cut("its compressed bytes")


class _Walk:
    """tag: the outermost element that it is in; 0 between two of them, and before the first."""

    def __init__(self, pieces: Iterator[bytes], order: str) -> None:
        self.tag = 0
        self._pieces = pieces
        self._data = b""
        self._at = 0
        self._short = struct.Struct(order + "HH2sH").unpack_from
        self._tags = struct.Struct(order + "HH").unpack_from
        self._u16 = struct.Struct(order + "H").unpack_from
        self._u32 = struct.Struct(order + "I").unpack_from
        self._explicit = False

    def run(self) -> None:
        """Raises _Cut, _Unclear."""
        self._explicit = self._has(6) and self._data[self._at + 4 : self._at + 6] in _VRS
        before, shown = -1, False
        while self._has(8):
            before = self._plain(before)
            if not self._has(8):
                break
            tag = self._next_tag()
            if tag <= before or tag > _LAST:
                raise _Unclear  # padding, as a rule
            before = self.tag = tag
            self._element(0)
            self.tag = 0
            shown = shown or tag in _PIXELS
        if not shown and self._data[self._at :].strip(b"\0"):
            raise _Cut("the head of an element")

    def _plain(self, before: int) -> int:
        """Go over what is like nearly all: rising tags, types with a short length, in memory. Return the last one's."""
        data, at, end, unpack = self._data, self._at, len(self._data), self._short
        while self._explicit and at + 8 <= end:
            group, element, vr, size = unpack(data, at)
            tag = group << 16 | element
            if vr not in _SHORT or not before < tag <= _LAST or at + 8 + size > end:
                break
            before, at = tag, at + 8 + size
        self._at = at
        return before

    def _element(self, depth: int) -> None:
        """The one that begins here, which has eight bytes at least."""
        size, explicit = self._header()
        if size == _UNDEFINED:
            outer, self._explicit = self._explicit, explicit
            self._items(depth)
            self._explicit = outer
        else:
            self._skip(size)

    def _header(self) -> tuple[int, bool]:
        """Go behind it. Return how long the value is, and whether what is nested in it names its types."""
        vr = self._data[self._at + 4 : self._at + 6]
        if not self._explicit:
            if vr in _VRS and self._next_tag() not in _PIXELS:
                raise _Unclear  # perhaps no length
            (size,) = self._u32(self._data, self._at + 4)
            self._at += 8
            return size, False
        if vr not in _VRS:
            raise _Unclear
        if vr not in _LONG:
            (size,) = self._u16(self._data, self._at + 6)
            self._at += 8
            return size, True
        self._need(12)
        (size,) = self._u32(self._data, self._at + 8)
        self._at += 12
        return size, vr != b"UN"

    def _items(self, depth: int) -> None:
        """Up to the delimiter of a sequence, or of the fragments of an image."""
        if depth > _DEEPEST:
            raise _Unclear
        while True:
            self._need(8)
            tag = self._next_tag()
            (size,) = self._u32(self._data, self._at + 4)
            self._at += 8
            if tag == _SEQUENCE_END:
                return
            if tag != _ITEM:
                raise _Unclear
            if size != _UNDEFINED:
                self._skip(size)
                continue
            self._need(8)
            while self._next_tag() != _ITEM_END:
                self._element(depth + 1)
                self._need(8)
            self._at += 8

    def _next_tag(self) -> int:
        group, element = self._tags(self._data, self._at)
        return int(group << 16 | element)

    def _need(self, size: int) -> None:
        if not self._has(size):
            raise _Cut

    def _has(self, size: int) -> bool:
        while len(self._data) - self._at < size:
            piece = next(self._pieces, None)
            if piece is None:
                return False
            self._data = self._data[self._at :] + piece if self._at < len(self._data) else piece
            self._at = 0
        return True

    def _skip(self, size: int) -> None:
        while size > len(self._data) - self._at:
            size -= len(self._data) - self._at
            piece = next(self._pieces, None)
            if piece is None:
                raise _Cut
            self._data, self._at = piece, 0
        self._at += size
