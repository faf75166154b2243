"""From something found (a file, a member of an archive) to an instance that can be sent, or the reason why not."""

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from blake3 import blake3

from perenne.dimse.uids import is_storage
from perenne.moving import findings
from perenne.moving.content import (
    IN_MEMORY,
    PIECE,
    SIZE_PREFIX,
    Content,
    Deflated,
    Held,
    InFile,
    Inflating,
    Stream,
    Unreadable,
    compressed_size,
    read_upto,
    spool,
)
from perenne.moving.findings import LeftOut
from perenne.moving.part10 import (
    HEAD,
    META_LIMIT,
    attributes_of,
    encoding_of,
    is_bare,
    is_part10,
    kind_of_other,
    lacks_pixels,
)
from perenne.moving.whole import where_cut
from storage.dataset import UnreadableDataSet

_UID: Final = re.compile(r"[0-9.]{1,64}")
_DIRECTORY: Final = "1.2.840.10008.1.3.10"


@dataclass(frozen=True, slots=True)
class Find:
    """A file or a member of an archive, opened. path: where it can be read again; None for members.

    stamp: changes when its bytes may have changed, so that what was acknowledged need not be read again.
    """

    name: str
    stamp: str
    stream: Stream
    path: Path | None = None


@dataclass(frozen=True, slots=True)
class Instance:
    """What one C-STORE needs. dataset: BLAKE3 of the data set, which begins at `offset` of the content."""

    name: str
    stamp: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    dataset: str
    content: Content
    offset: int
    header_only: bool

    @property
    def size(self) -> int:
        return self.content.size - self.offset

    @property
    def pair(self) -> tuple[str, str]:
        return self.sop_class_uid, self.transfer_syntax_uid


@dataclass(frozen=True, slots=True)
class Examiner:
    """folder: for large members of archives. largest: bytes that one may have, so that no archive fills it."""

    folder: Path
    largest: int

    def examine(self, find: Find) -> Instance | LeftOut:
        """Whatever is wrong with the bytes is no error here, but the reason why they are left out."""
        try:
            return self._examine(find)
        except UnreadableDataSet as error:
            return LeftOut(find.name, findings.UNREADABLE, str(error))
        except Unreadable as error:
            return LeftOut(find.name, findings.UNREADABLE, str(error))
        except OSError as error:
            return LeftOut(find.name, findings.UNREADABLE, f"cannot be read: {error.strerror or error}")

    def _examine(self, find: Find) -> Instance | LeftOut:
        stream, head, inflated = find.stream, read_upto(find.stream, HEAD), None
        if not is_part10(head) and not is_bare(head) and (inflated := compressed_size(head)) is not None:
            stream = Inflating(Joined(head[SIZE_PREFIX:], stream), inflated)
            head = read_upto(stream, HEAD)
        if not is_part10(head) and not is_bare(head):
            return LeftOut(find.name, findings.NOT_DICOM, kind_of_other(head))
        if inflated is not None and inflated > self.largest:
            raise Unreadable(f"it is larger than {self.largest:,} bytes, the most that --largest allows")
        content = self._content(find, head, stream, inflated)
        try:
            found = self._instance(find, content, bare=not is_part10(head))
        except BaseException:  # Ctrl-C too: a temporary file is not left behind
            content.discard()
            raise
        if isinstance(found, LeftOut):
            content.discard()
        return found

    def _content(self, find: Find, head: bytes, stream: Stream, inflated: int | None) -> Content:
        data = head + read_upto(stream, IN_MEMORY - len(head))
        again: Content | None = None
        if find.path is not None:
            whole = InFile(find.path, find.path.stat().st_size)
            again = whole if inflated is None else Deflated(find.path, inflated)
        if len(data) < IN_MEMORY:
            return Held(data, again)
        return again or spool(data, stream, self.folder, self.largest)

    def _instance(self, find: Find, content: Content, *, bare: bool) -> Instance | LeftOut:
        first = next(content.pieces())
        encoding = encoding_of(first[:META_LIMIT])
        whole = len(first) == content.size
        try:
            data = first if whole else b"".join(_upto(content, IN_MEMORY))
            attributes = attributes_of(
                memoryview(data)[encoding.offset :], encoding.transfer_syntax, complete=len(data) == content.size
            )
        except UnreadableDataSet:
            if bare:  # it was only taken for a data set by its first bytes
                return LeftOut(find.name, findings.NOT_DICOM, "other")
            raise
        sop_class, uid = attributes.sop_class_uid, attributes.sop_instance_uid
        if sop_class == _DIRECTORY or (not sop_class and _names_directory(first)):
            return LeftOut(find.name, findings.NOT_DICOM, "DICOMDIR")
        if not _UID.fullmatch(sop_class) or not _UID.fullmatch(uid):
            if bare and not sop_class and not uid:
                return LeftOut(find.name, findings.NOT_DICOM, "other")
            return LeftOut(find.name, findings.REFUSED, "its data set has no SOP Class UID or SOP Instance UID", uid)
        if not is_storage(sop_class):
            return LeftOut(find.name, findings.REFUSED, f"class {sop_class} is no storage class", uid)
        digest = blake3()
        pieces = _hashed(content, encoding.offset, digest)
        cut = where_cut(pieces, encoding.offset, encoding.transfer_syntax)
        if cut:
            return LeftOut(find.name, findings.UNREADABLE, f"it is cut short within {cut}", uid)
        deque(pieces, maxlen=0)  # the rest is hashed, too
        return Instance(
            find.name,
            find.stamp,
            sop_class,
            uid,
            encoding.transfer_syntax,
            digest.hexdigest(),
            content,
            encoding.offset,
            header_only=whole and lacks_pixels(first, encoding),
        )

    def kept(self, instance: Instance) -> Instance:
        """The same instance, out of memory. Raises Unreadable, OSError."""
        content = instance.content
        if not isinstance(content, Held):
            return instance
        later = content.again or spool(content.data, Joined(b"", None), self.folder, self.largest)
        return replace(instance, content=later)


def _upto(content: Content, most: int) -> list[bytes]:
    parts: list[bytes] = []
    for piece in content.pieces():
        parts.append(piece)
        most -= len(piece)
        if most < PIECE:
            break
    return parts


def _hashed(content: Content, offset: int, digest: blake3) -> Iterator[bytes]:
    """The whole content; the digest takes what comes from `offset` on."""
    for piece in content.pieces():
        digest.update(memoryview(piece)[offset:])
        offset = max(0, offset - len(piece))
        yield piece


def _names_directory(head: bytes) -> bool:
    """Whether a file without a SOP class in its data set says in its File Meta that it is a DICOMDIR."""
    return _DIRECTORY.encode() in head[:1024]


class Joined:
    """Bytes that were read already, and what comes after them."""

    def __init__(self, head: bytes, rest: Stream | None) -> None:
        self._head, self._rest = head, rest

    def read(self, size: int, /) -> bytes:
        if self._head:
            part, self._head = self._head[:size], self._head[size:]
            return part
        return self._rest.read(size) if self._rest is not None else b""
