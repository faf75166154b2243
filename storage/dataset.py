"""The header scanner: index attributes from the first bytes of a data set (PS3.5 section 7), without parsing it all.

Explicit and implicit little endian, explicit big endian, deflated; sequences are skipped, nested and of undefined
length too. What looks odd goes to pydicom when the caller has the time; what pydicom cannot read either is unreadable.
Lengths are never believed beyond the bytes that are there; nesting, elements, inflated bytes and what pydicom may do
are bounded: hostile input costs an error and nothing else.
"""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any, Final, cast

from msgspec import Struct

from storage.digest import part10_meta_length

IMPLICIT_LE: Final = "1.2.840.10008.1.2"
EXPLICIT_BE: Final = "1.2.840.10008.1.2.2"
DEFLATED: Final = frozenset({"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"})
_UNDEFINED: Final = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_LONG: Final = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT", b"SV", b"UV"})
_SHORT: Final = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_MAX_DEPTH: Final = 64
_MAX_VALUE: Final = 64 * 1024
_MAX_QUICK_TEXT: Final = 1024
_MAX_CHARACTER_SETS: Final = 8
_INFLATE: Final = 4 * 1024 * 1024
_MAX_ELEMENTS: Final = 200_000
"""Elements and items that are walked over in one head, nested ones included: about 0.2 s."""
_MAX_PYDICOM_STEPS: Final = 30_000
"""Reads that pydicom is granted, one to three for an element: about 0.2 s."""
_LAST: Final = 0x00200013

_NAMES: Final = {
    0x00080005: "character_set",
    0x00080016: "sop_class_uid",
    0x00080018: "sop_instance_uid",
    0x00080020: "study_date",
    0x00080030: "study_time",
    0x00080050: "accession_number",
    0x00080060: "modality",
    0x00081030: "study_description",
    0x0008103E: "series_description",
    0x00100010: "patient_name",
    0x00100020: "patient_id",
    0x00100030: "patient_birth_date",
    0x00100040: "patient_sex",
    0x0020000D: "study_instance_uid",
    0x0020000E: "series_instance_uid",
    0x00200010: "study_id",
    0x00200011: "series_number",
    _LAST: "instance_number",
}


class UnreadableDataSet(Exception):
    """These bytes are no data set in the transfer syntax that was negotiated."""


class NeedMore(UnreadableDataSet):
    """The head ended before the last attribute: try again with more of the data set."""


class Undecided(UnreadableDataSet):
    """Nothing that a quick look can tell: look thoroughly, and not in an event loop."""


class _Odd(Exception):
    """Not what the fast path expects: let pydicom look."""


class Attributes(Struct, frozen=True):
    """Index attributes, as text without padding; empty where absent."""

    character_set: str = ""
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    study_date: str = ""
    study_time: str = ""
    accession_number: str = ""
    modality: str = ""
    study_description: str = ""
    series_description: str = ""
    patient_name: str = ""
    patient_id: str = ""
    patient_birth_date: str = ""
    patient_sex: str = ""
    study_instance_uid: str = ""
    series_instance_uid: str = ""
    study_id: str = ""
    series_number: str = ""
    instance_number: str = ""


class FileMeta(Struct, frozen=True):
    """What the File Meta group of a Part 10 file names (PS3.10 section 7.1). meta_length: preamble included.

    source_ae: who sent it; empty where the group does not say.
    """

    meta_length: int
    transfer_syntax_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    source_ae: str = ""


def scan(head: bytes | memoryview, transfer_syntax: str, *, complete: bool, thorough: bool = True) -> Attributes:
    """Return the index attributes of the data set that begins with `head`.

    complete: `head` is the whole data set. thorough: inflate, and let pydicom look at what is odd; without, the time
    taken is bounded by the length of `head`, about 10 ms for 64 KiB, and Undecided is raised instead.
    Raises NeedMore when `head` is not all and ends too early, else UnreadableDataSet.
    """
    data = bytes(head)
    if transfer_syntax in DEFLATED:
        if not thorough:
            raise Undecided("the data set is deflated")
        data, complete = _inflate(data, complete=complete)
    try:
        found = _Scanner(data, transfer_syntax, complete=complete).run()
    except (_Odd, struct.error) as odd:
        if not thorough:
            raise Undecided("the data set is odd") from odd
        found = _with_pydicom(data, transfer_syntax, complete=complete)
    return _attributes(found, thorough=thorough)


def read_meta(data: bytes | memoryview) -> FileMeta:
    """Read preamble and File Meta at the start of a Part 10 file. Raises UnreadableDataSet."""
    length = part10_meta_length(bytes(data[:144]))
    if length == 0 or length > len(data):
        raise UnreadableDataSet("no File Meta with its group length")
    view, at = bytes(data[:length]), 144
    found: dict[int, str] = {}
    while at + 8 <= length:
        group, element, vr = struct.unpack_from("<HH2s", view, at)
        if vr in _LONG:
            (size,) = struct.unpack_from("<I", view, at + 8) if at + 12 <= length else (_UNDEFINED,)
            at += 12
        else:
            (size,) = struct.unpack_from("<H", view, at + 6)
            at += 8
        if at + size > length or group != 2:
            raise UnreadableDataSet("the File Meta group is not what its length says")
        if element in (2, 3, 0x10, 0x16):
            found[element] = _text(view[at : at + size])
        at += size
    return FileMeta(length, found.get(0x10, ""), found.get(2, ""), found.get(3, ""), found.get(0x16, ""))


def _text(value: bytes) -> str:
    return value.decode("latin-1").strip("\0 ")


def _inflate(data: bytes, *, complete: bool) -> tuple[bytes, bool]:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        plain = inflater.decompress(data, _INFLATE)
    except zlib.error as error:
        raise UnreadableDataSet("the data set is not deflated") from error
    if complete and not inflater.eof and not inflater.unconsumed_tail:
        raise UnreadableDataSet("the deflated data set ends early")
    return plain, inflater.eof


class _Scanner:
    """One pass over the elements of the outermost data set."""

    def __init__(self, data: bytes, transfer_syntax: str, *, complete: bool) -> None:
        self._data = data
        self._complete = complete
        self._left = _MAX_ELEMENTS
        self._explicit = transfer_syntax != IMPLICIT_LE
        order = ">" if transfer_syntax == EXPLICIT_BE else "<"
        self._element = struct.Struct(order + "HH2sH").unpack_from
        self._tag = struct.Struct(order + "HH").unpack_from
        self._u16 = struct.Struct(order + "H").unpack_from
        self._u32 = struct.Struct(order + "I").unpack_from

    def run(self) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        data, at, before, end = self._data, 0, -1, len(self._data)
        explicit, unpack, name_of = self._explicit, self._element, _NAMES.get
        for _ in range(_MAX_ELEMENTS):
            if at >= end:
                break
            if at + 12 > end and not (self._complete and at + 8 <= end):
                self._ended()
            # One call per element in the common case: this loop is on the write path.
            if explicit:
                group, element, vr, size = unpack(data, at)
            else:
                (group, element), vr, size = self._tag(data, at), b"", 0
            tag = group << 16 | element
            if tag <= before:
                raise _Odd
            if tag > _LAST:
                return found
            before = tag
            if vr in _SHORT:
                at += 8
            else:
                at, size, vr = self._header(at, explicit=explicit)
            if size == _UNDEFINED:
                at = self._skip_items(at, 0, explicit=explicit and vr != b"UN")
                continue
            if at + size > end:
                self._ended()
            name = name_of(tag)
            if name is not None:
                if size > _MAX_VALUE:
                    raise _Odd
                found[name] = data[at : at + size]
            at += size
        else:
            raise UnreadableDataSet("too many elements")
        if not self._complete:
            raise NeedMore("the head ends before the last attribute")
        return found

    def _ended(self) -> None:
        if not self._complete:
            raise NeedMore("the head ends within an element")
        first_vr = self._data[4:6]
        if not self._explicit and (first_vr in _SHORT or first_vr in _LONG):
            raise _Odd  # explicit after all: its lengths look absurd when read as implicit
        raise UnreadableDataSet("the data set ends within an element")

    def _step(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise UnreadableDataSet("too many elements")

    def _header(self, at: int, *, explicit: bool) -> tuple[int, int, bytes]:
        """Return where the value begins, its length, and the VR."""
        data = self._data
        if not explicit:
            return at + 8, self._u32(data, at + 4)[0], b""
        vr = data[at + 4 : at + 6]
        if vr in _SHORT:
            return at + 8, self._u16(data, at + 6)[0], vr
        if vr not in _LONG:
            raise _Odd
        if at + 12 > len(data):
            self._ended()
        return at + 12, self._u32(data, at + 8)[0], vr

    def _skip_items(self, at: int, depth: int, *, explicit: bool) -> int:
        """Skip items up to the sequence delimiter; `at` is behind the sequence's header."""
        if depth > _MAX_DEPTH:
            raise UnreadableDataSet("sequences are nested too deeply")
        data = self._data
        while True:
            self._step()
            if at + 8 > len(data):
                self._ended()
            group, element = self._tag(data, at)
            (size,) = self._u32(data, at + 4)
            tag = group << 16 | element
            at += 8
            if tag == _SEQUENCE_END:
                return at
            if tag != _ITEM:
                raise _Odd
            if size == _UNDEFINED:
                at = self._skip_elements(at, depth, explicit=explicit)
            elif at + size > len(data):
                self._ended()
            else:
                at += size

    def _skip_elements(self, at: int, depth: int, *, explicit: bool) -> int:
        """Skip the elements of an item of undefined length, up to its delimiter."""
        data = self._data
        while True:
            self._step()
            if at + 8 > len(data):
                self._ended()
            group, element = self._tag(data, at)
            if group == 0xFFFE:
                if group << 16 | element != _ITEM_END:
                    raise _Odd
                return at + 8
            at, size, vr = self._header(at, explicit=explicit)
            if size == _UNDEFINED:
                at = self._skip_items(at, depth + 1, explicit=explicit and vr != b"UN")
            elif at + size > len(data):
                self._ended()
            else:
                at += size


class _Rationed(io.BytesIO):
    """What pydicom reads from. It asks for each element, nested ones too, so that its work is bounded here."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._left = _MAX_PYDICOM_STEPS
        self._at_character_set = False

    def read(self, size: int | None = -1) -> bytes:
        found = super().read(size)
        # pydicom looks at each part of a Specific Character Set by itself, so those cost by their length.
        self._left -= len(found) if self._at_character_set else 1
        if self._left < 0:
            raise UnreadableDataSet("too many elements for pydicom")
        if size != 4:  # the length of a long VR stands between tag and value
            self._at_character_set = found[:4] in (b"\x08\0\x05\0", b"\0\x08\0\x05")
        return found


def _with_pydicom(data: bytes, transfer_syntax: str, *, complete: bool) -> dict[str, bytes]:
    """Let pydicom read what the fast path would not. Any failure of its is an unreadable data set.

    Its warnings are not caught here: `warnings` cannot do that in threads. `perenne.logs` sees to them.
    """
    from pydicom.filereader import read_dataset

    source = _Rationed(data)
    reached = False

    def beyond(tag: Any, _vr: Any, length: Any) -> bool:
        nonlocal reached
        reached = int(tag) > _LAST
        # pydicom takes what is left of a value that runs past the end for all of it.
        if not reached and length != _UNDEFINED and source.tell() + int(length) > len(data):
            raise UnreadableDataSet("the data set ends within an element")
        return reached

    read = cast(Callable[..., Any], read_dataset)
    try:
        dataset = read(source, transfer_syntax == IMPLICIT_LE, transfer_syntax != EXPLICIT_BE, stop_when=beyond)
        if not reached and not (complete and source.tell() == len(data)):
            raise UnreadableDataSet("pydicom did not come to the last attribute")
        found: dict[str, bytes] = {}
        for tag, name in _NAMES.items():
            if tag in dataset:
                raw: Any = dataset.get_item(tag)
                value: Any = raw.value
                text = value if isinstance(value, bytes) else str(value or "").encode("latin-1", "replace")
                found[name] = text[:_MAX_VALUE]
    except Exception as error:  # noqa: BLE001 - pydicom fails in many ways on hostile input
        if not complete:
            raise NeedMore("the head cannot be read so far") from error
        raise UnreadableDataSet(f"pydicom: {type(error).__name__}") from error
    if not found:
        if not complete:
            raise NeedMore("nothing was found so far")
        raise UnreadableDataSet("no attribute of an instance was found")
    return found


def _attributes(found: dict[str, bytes], *, thorough: bool) -> Attributes:
    character_set = _text(found.get("character_set", b""))
    values: dict[str, str] = {}
    for name, raw in found.items():
        if raw.isascii():
            values[name] = _text(raw)
        elif thorough or len(raw) <= _MAX_QUICK_TEXT:
            values[name] = _decode(raw, character_set)
        else:
            raise Undecided("long text that is not ASCII")
    return Attributes(**values)


def _decode(raw: bytes, character_set: str) -> str:
    """Decode text that is not ASCII by its Specific Character Set (PS3.3 C.12.1.1.2)."""
    from pydicom.charset import convert_encodings, decode_bytes

    names = [part.strip() for part in character_set.split("\\")][:_MAX_CHARACTER_SETS]
    try:
        return str(decode_bytes(raw, convert_encodings(names or None), {0x0A, 0x0D, 0x09, 0x5C})).strip("\0 ")
    except (LookupError, ValueError):
        return _text(raw)
