"""Archives as other systems leave them: trees, Orthanc's storage, tar and zip; made of data sets of our own."""

import io
import json
import struct
import tarfile
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

from perenne.bench.load import CT, EXPLICIT_LE
from tests.integration.rig import made

PIXELS = b"\xe0\x7f\x10\x00"
FILLER = bytes(range(256)) * 8


def part10(data: bytes, uid: str, *, sop_class: str = CT, syntax: str = EXPLICIT_LE) -> bytes:
    """A Part 10 file around a data set."""

    def element(number: int, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2)
        return b"\x02\0" + number.to_bytes(2, "little") + b"UI" + len(value).to_bytes(2, "little") + value

    meta = element(2, sop_class.encode()) + element(3, uid.encode()) + element(0x10, syntax.encode())
    return bytes(128) + b"DICM\x02\0\0\0UL\x04\0" + len(meta).to_bytes(4, "little") + meta + data


def slices(first: int, count: int, filler: bytes = FILLER) -> dict[str, bytes]:
    """Files by SOP Instance UID, images that say how many rows they have."""
    return {uid: part10(data, uid) for uid, data in (image(first + n, filler) for n in range(count))}


def image(number: int, filler: bytes = FILLER) -> tuple[str, bytes]:
    uid, data = made(number, filler=filler)
    at = data.index(PIXELS)
    return uid, data[:at] + struct.pack("<HH2sHH", 0x28, 0x10, b"US", 2, 512) + data[at:]


def tree(folder: Path, files: Iterable[bytes], suffix: str = "") -> Path:
    for number, content in enumerate(files):
        place = folder / f"2024/{number % 3}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"F{number:06d}{suffix}").write_bytes(content)
    return folder


def orthanc_form(content: bytes) -> bytes:
    """As Orthanc writes an attachment when StorageCompression is on."""
    return len(content).to_bytes(8, "little") + zlib.compress(content)


def orthanc(folder: Path, files: Iterable[bytes]) -> Path:
    """Every second file compressed; beside each its JSON summary, and its header as a Part 10 file without pixels."""

    def put(content: bytes) -> None:
        name = str(uuid.uuid4())
        place = folder / name[:2] / name[2:4]
        place.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)

    for number, content in enumerate(files):
        cut = content.find(PIXELS)
        for attachment in (content, json.dumps({"0008,0018": number}).encode(), content[:cut]):
            put(orthanc_form(attachment) if number % 2 else attachment)
    (folder / "index").write_bytes(b"SQLite format 3\0" + bytes(100))
    return folder


def tar(path: Path, files: Iterable[bytes], mode: str = "w") -> Path:
    opened: Callable[[Path, str], tarfile.TarFile] = cast(Any, tarfile).open  # typed for constant modes only
    with opened(path, mode) as archive:
        for number, content in enumerate(files):
            member = tarfile.TarInfo(f"disc/IM{number:05d}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def zipped(path: Path, files: Iterable[bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, content in enumerate(files):
            archive.writestr(f"DICOM/IM{number:05d}", content)
    return path
