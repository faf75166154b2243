"""A DICOM file set: files under names that media allow, and the DICOMDIR that lists them (PS3.10 8, PS3.3 annex F).

pydicom makes the records. Its FileSet is not used for the rest: it writes every instance anew with its own encoder,
looks through all others for each one added, and silently leaves out the second file of a UID.
"""

import io
import os
import re
import struct
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import pydicom
from blake3 import blake3
from pydicom import Dataset
from pydicom.charset import convert_encodings
from pydicom.datadict import dictionary_keyword, dictionary_VR
from pydicom.filebase import DicomBytesIO
from pydicom.fileset import FileSet
from pydicom.filewriter import write_dataset

from perenne.dimse.meta import file_meta
from perenne.dimse.uids import EXPLICIT_LE
from perenne.moving.content import Content, Held, InFile
from perenne.moving.holdings import Holding
from perenne.moving.targets import NotWritten, place

FILE: Final = "DICOMDIR"
_CLASS: Final = "1.2.840.10008.1.3.10"
_LACKING: Final = re.compile(r"\(([0-9A-Fa-f]{4}),([0-9A-Fa-f]{4})\)")
_INVENTED: Final = {"DA": "19000101", "TM": "000000", "IS": "0", "UI": "", "DT": "19000101", "CS": "UNKNOWN"}
_MOST_INVENTED: Final = 12
_MOST_BESIDE: Final = 1_000_000
_FIXED: Final = 24 + 12 + 12 + 10 + 12
"""Bytes between File Meta and the first record."""
_ITEM: Final = 8
_NEXT, _LOWER = 8, 30
"""Where a record's first and third element, its two offsets, have their values."""
_PREFIX: Final = {"PATIENT": "PT", "STUDY": "ST", "SERIES": "SE", "IMAGE": "IM"}
_RECORDS: Final[Callable[[None, Dataset], Iterator[Dataset]]] = cast(Any, FileSet)._recordify
"""Needs no file set, whose making leaves a directory behind. There is no public way to it."""
_READ: Final[Callable[..., Dataset]] = cast(Any, pydicom).dcmread  # pydicom is typed in part only


@dataclass(slots=True)
class _Node:
    """One directory record: its bytes, and the records below it by what tells them apart."""

    encoded: bytes = b""
    below: dict[tuple[str, ...], "_Node"] = field(default_factory=dict[tuple[str, ...], "_Node"])
    name: str = ""
    offset: int = 0

    def walk(self) -> Iterator["_Node"]:
        for node in self.below.values():
            yield node
            yield from node.walk()


class FileSetTarget:
    """folder: the root of the file set. What is in it already must be what would be written."""

    def __init__(self, folder: Path, spool: Path) -> None:
        self._folder = folder
        self.spool = spool
        self._root = _Node()
        self._uids: set[str] = set()
        self.invented: Counter[str] = Counter()
        """What a record must have and an instance had not, by its keyword: media need a value."""

    def has(self, one: Holding) -> bool:
        return False

    def put(self, one: Holding, content: Content) -> bool:
        header = self._header(content)
        uid = str(header.get("SOPInstanceUID", ""))
        if uid in self._uids:
            raise NotWritten(f"a file set names {uid} only once: this other version of it needs --as files")
        records = self._records(header)
        chain, parent = list[tuple[_Node, tuple[str, ...], _Node]](), self._root
        for record, key in zip(records, [*_keys(header)[: len(records) - 1], (uid, str(one.sequence))], strict=True):
            node = parent.below.get(key) or _Node(name=_name(str(record.DirectoryRecordType), len(parent.below)))
            chain.append((parent, key, node))
            parent = node
        components = [node.name for _, _, node in chain]
        records[-1].ReferencedFileID = components
        for record, (_, _, node) in zip(records, chain, strict=True):
            node.encoded = node.encoded or _encoded(record)
        written = place(content, self.spool, self._folder.joinpath(*components), one.digest)
        for above, key, node in chain:  # only now: a record without its file would be a lie
            above.below[key] = node
        self._uids.add(uid)
        return written

    def finish(self) -> None:
        data = self._directory()
        digest = blake3(data).digest()  # a directory is never there already: its own UID is new
        place(Held(data), self.spool, self._folder / FILE, digest)
        os.sync()

    def abandon(self) -> None: ...

    def _header(self, content: Content) -> Dataset:
        source = content.path if isinstance(content, InFile) else io.BytesIO(b"".join(content.pieces()))
        try:
            return _READ(source, stop_before_pixels=True, force=True)
        except Exception as error:  # noqa: BLE001 - pydicom fails in many ways on odd input
            raise NotWritten(f"its header cannot be read for a DICOMDIR ({type(error).__name__})") from error

    def _records(self, header: Dataset) -> list[Dataset]:
        """From the patient's down, or the only one. What is required and absent is invented, in the directory alone."""
        for _ in range(_MOST_INVENTED):
            try:
                records = list(_RECORDS(None, header))
                if len(records) == 1 or records[1].get("StudyInstanceUID"):
                    return [_modern(record) for record in records]
                self._invent(header, "(0020,000D)")
            except ValueError as error:
                self._invent(header, str(error))
            except Exception as error:  # noqa: BLE001 - pydicom fails in many ways on odd input
                raise NotWritten(f"no directory record can be made of it ({type(error).__name__})") from error
        raise NotWritten("no directory record can be made of it: too much is missing")

    def _invent(self, header: Dataset, complaint: str) -> None:
        lacking = _LACKING.search(complaint)
        if lacking is None:
            raise NotWritten(f"no directory record can be made of it: {complaint}")
        tag = int(lacking[1] + lacking[2], 16)
        vr, keyword = dictionary_VR(tag), dictionary_keyword(tag)
        if vr == "SQ":
            raise NotWritten(f"no directory record can be made of it: it has no {keyword}")
        self.invented[keyword] += 1
        value = _INVENTED.get(vr, "UNKNOWN")
        if vr == "UI":
            names = [str(header.get(name, "")) for name in ("PatientID", "PatientName", "StudyInstanceUID")]
            value = f"2.25.{int.from_bytes(blake3(repr([keyword, *names]).encode()).digest(16), 'big')}"
        setattr(header, keyword, value)

    def _directory(self) -> bytes:
        """The file: its records in a row, each naming where the next beside it and the first below it are."""
        uid = f"2.25.{uuid.uuid4().int}"
        start = file_meta(sop_class_uid=_CLASS, sop_instance_uid=uid, transfer_syntax_uid=EXPLICIT_LE, source_ae="")
        sequence = len(start) + _FIXED
        at = sequence
        for node in self._root.walk():
            node.offset = at
            at += _ITEM + len(node.encoded)
        if at >= 1 << 32:
            raise NotWritten("a DICOMDIR can be 4 GiB at most: export less at once")
        roots = list(self._root.below.values())
        first, last = (roots[0].offset, roots[-1].offset) if roots else (0, 0)
        fixed = struct.pack("<HH2sH16s", 4, 0x1130, b"CS", 16, b"PERENNE".ljust(16))
        fixed += struct.pack("<HH2sHI", 4, 0x1200, b"UL", 4, first) + struct.pack("<HH2sHI", 4, 0x1202, b"UL", 4, last)
        fixed += struct.pack("<HH2sHH", 4, 0x1212, b"US", 2, 0)
        fixed += struct.pack("<HH2sHI", 4, 0x1220, b"SQ", 0, at - sequence)
        return b"".join((start, fixed, *_items(self._root)))


def _items(parent: _Node) -> Iterator[bytes]:
    beside = list(parent.below.values())
    for node, following in zip(beside, [*beside[1:], None], strict=False):
        record = bytearray(node.encoded)
        lower = next(iter(node.below.values()), None)
        struct.pack_into("<I", record, _NEXT, following.offset if following is not None else 0)
        struct.pack_into("<I", record, _LOWER, lower.offset if lower is not None else 0)
        yield struct.pack("<HHI", 0xFFFE, 0xE000, len(record)) + record
        yield from _items(node)


def _keys(header: Dataset) -> list[tuple[str, ...]]:
    """What tells patients, studies and series apart. Two patients of one ID stay two: their names differ."""
    patient = (str(header.get("PatientID", "")), str(header.get("PatientName", "")))
    return [patient, (str(header.get("StudyInstanceUID", "")),), (str(header.get("SeriesInstanceUID", "")),)]


def _modern(record: Dataset) -> Dataset:
    """Dates and times as they are written since 1993: a directory has no other."""
    for keyword, old in (("StudyDate", "."), ("StudyTime", ":")):
        if old in str(record.get(keyword, "")):
            setattr(record, keyword, str(record.get(keyword)).replace(old, ""))
    return record


def _name(record_type: str, number: int) -> str:
    """A component of a file ID: at most 8 characters, capital letters and digits."""
    if number >= _MOST_BESIDE:
        raise NotWritten("a file set has room for a million files in a folder: export less at once")
    return f"{_PREFIX.get(record_type, record_type[:2])}{number:06d}"


def _encoded(record: Dataset) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    try:
        write_dataset(buffer, record, convert_encodings(record.get("SpecificCharacterSet", "iso8859")))
    except Exception as error:  # noqa: BLE001 - pydicom fails in many ways on odd values
        raise NotWritten(f"its directory record cannot be written ({type(error).__name__})") from error
    return buffer.getvalue()
