"""When a stub is believed: a tombstone in one's own log, read and proved, covers exactly this instance.

What a stub says of itself proves nothing: whoever can take a payload away can write a text in its place.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Protocol

from storage.deletion import Covered, NotUnderstood, Tombstone, decode_small
from storage.errors import RecordAbsent, RecordCorrupt
from storage.payload import StoredRecord
from storage.position import RecordHeader, RecordKind
from storage.record import instance_path
from storage.table import Entry

_KEPT: Final = 64
"""Tombstones that stay in memory: one covers up to 128 instances, which mostly lie together."""


class _Log(Protocol):
    def entry(self, sequence: int) -> Entry | None: ...

    def read(self, sequence: int) -> StoredRecord: ...


def cover_of(tombstone: Tombstone, header: RecordHeader) -> Covered | None:
    """What a tombstone says of the instance with this header; None when it does not cover it, or when two of its names
    may be meant (a UID that is none is called `unknown` in the path).
    """
    name = header.path.rpartition("/")[2]
    found = [
        covered
        for covered in tombstone.covers
        if covered.dataset == header.dataset and name in _file_names(covered.sop_instance_uid, header)
    ]
    return found[0] if len(found) == 1 else None


def _file_names(sop: str, header: RecordHeader) -> list[str]:
    versions = (None, header.position.sequence)
    return [instance_path("", "", sop, version).rpartition("/")[2] for version in versions]


class Believed:
    """The tombstones of one log. Any thread may ask."""

    def __init__(self, log: _Log) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, bytes], Tombstone] = OrderedDict()

    def cover(self, header: RecordHeader, tombstone: int) -> Covered:
        """The instance as this log's own tombstone names it. Raises RecordCorrupt where it does not cover it, or is not
        there, and RecordsElsewhere where it cannot be read now.
        """
        sequence = header.position.sequence
        covered = None
        if header.kind is RecordKind.INSTANCE and tombstone > sequence:
            try:
                covered = cover_of(self._tombstone(tombstone), header)
            except (RecordAbsent, RecordCorrupt, NotUnderstood) as error:
                reason = f"its payload was taken away, and tombstone {tombstone} is not here: {error}"
                raise RecordCorrupt(sequence, reason) from error
        if covered is None:
            raise RecordCorrupt(sequence, f"its payload was taken away, and record {tombstone} does not cover it")
        return covered

    def _tombstone(self, sequence: int) -> Tombstone:
        entry = self._log.entry(sequence)
        key = (sequence, entry.chain) if entry is not None else None
        with self._lock:
            if key is not None and (known := self._kept.get(key)) is not None:
                return known
        stored = self._log.read(sequence)
        if stored.header.kind is not RecordKind.TOMBSTONE:
            raise NotUnderstood("it is no tombstone")
        content = decode_small(RecordKind.TOMBSTONE, b"".join(bytes(part) for part in stored.payload.parts()))
        assert isinstance(content, Tombstone), "its kind says so"
        with self._lock:
            self._kept[sequence, stored.chain] = content
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return content


class Unbelieved:
    """Stubs of a log that is read from its beginning, until the tombstones come by that cover them."""

    def __init__(self) -> None:
        self._waiting: dict[int, list[RecordHeader]] = {}
        self._denied: list[int] = []
        self._unread: list[tuple[int, int]] = []

    def stub(self, header: RecordHeader, tombstone: int) -> None:
        self._waiting.setdefault(tombstone, []).append(header)

    def tombstone(self, sequence: int, payload: Callable[[], bytes]) -> None:
        """This record is a sound one; payload(): what it says."""
        waiting = self._waiting.pop(sequence, [])
        if not waiting:
            return
        try:
            content = decode_small(RecordKind.TOMBSTONE, payload())
        except NotUnderstood:
            content = None
        for header in waiting:
            if not isinstance(content, Tombstone) or cover_of(content, header) is None:
                self._denied.append(header.position.sequence)

    def elsewhere(self, sequence: int) -> None:
        """This record is a tombstone by its proved entry, and what it says lies in the tier."""
        self._unread += [(header.position.sequence, sequence) for header in self._waiting.pop(sequence, [])]

    def unread(self) -> list[tuple[int, int]]:
        """Those whose tombstones could not be read here, with these."""
        return sorted(self._unread)

    def left(self) -> list[int]:
        """Those that no tombstone covered: they are damaged."""
        missing = (header.position.sequence for waiting in self._waiting.values() for header in waiting)
        return sorted([*self._denied, *missing])
