"""Goal: after a compaction the index is what a new one says; a stub without its tombstone is a hole, not an instance.

Method: real data sets, some deleted and compacted; the index that followed is compared with one built anew.
"""

import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from storage.compacted import compactable, extent, next_compactable, stubs_among
from storage.deletion import Covered, Tombstone
from storage.digest import digests_of
from storage.disk import RealDisk
from storage.index import Index
from storage.indexer import Indexer
from storage.log import BytesPayload, Log
from storage.position import LogPosition, RecordHeader, RecordKind, chain_after
from storage.reader import StoredStub
from storage.record import instance_path
from tests.storage.compacting import append_tombstone, filled
from tests.storage.test_index import opened

SYNTAX = "1.2.840.10008.1.2.1"


def element(tag: int, vr: str, value: str) -> bytes:
    raw = value.encode() + (b"\0" if vr == "UI" and len(value) % 2 else b" " if len(value) % 2 else b"")
    return (
        (tag >> 16).to_bytes(2, "little")
        + (tag & 0xFFFF).to_bytes(2, "little")
        + vr.encode()
        + len(raw).to_bytes(2, "little")
        + raw
    )


def image(sop: str, series: str, study: str, name: str) -> bytes:
    """A Part 10 file that says these things."""
    meta = element(0x00020002, "UI", "1.2.840.10008.5.1.4.1.1.7") + element(0x00020003, "UI", sop)
    meta += element(0x00020010, "UI", SYNTAX)
    head = bytes(128) + b"DICM\x02\x00\x00\x00UL\x04\x00" + len(meta).to_bytes(4, "little") + meta
    data = element(0x00080016, "UI", "1.2.840.10008.5.1.4.1.1.7") + element(0x00080018, "UI", sop)
    data += element(0x00080060, "CS", "US") + element(0x0008103E, "LO", f"series by {name}")
    data += element(0x00100010, "PN", name) + element(0x00100020, "LO", f"ID {name}")
    data += element(0x0020000D, "UI", study) + element(0x0020000E, "UI", series)
    return head + data


@dataclass
class Archive:
    """A log with an index that follows it."""

    disk: RealDisk
    log: Log
    index: Index
    stored: dict[int, tuple[str, str, str]] = field(default_factory=dict[int, tuple[str, str, str]])

    def store(self, sop: str, series: str, study: str, name: str) -> int:
        data = image(sop, series, study, name)
        digests = digests_of(RecordKind.INSTANCE, [data])
        position = LogPosition(1, self.log.end.sequence + 1)
        path = instance_path(study, series, sop, position.sequence)
        header = RecordHeader(position, RecordKind.INSTANCE, digests.dataset, digests.digest, 5, path, len(data))
        self.log.append(header, chain_after(self.log.end.chain, header), BytesPayload(data))
        self.stored[position.sequence] = (study, series, sop)
        return position.sequence

    def delete(self, *sequences: int) -> int:
        covers = [Covered(*self.stored[s], self.log.read(s).header.dataset) for s in sequences]
        return append_tombstone(self.log, Tombstone(tuple(covers), "why", "anna", "", 7, "d1"))

    def follow(self) -> None:
        self.log.sync()
        Indexer(self.log, self.index).advance(self.log.end)

    def compact(self, *sequences: int) -> None:
        """Only these; of what the index says that there is."""
        there = {c.sequence: c.tombstone for c in compactable(self.index, self.log.end.sequence, 0, 1000)}
        for segment in self.log.segments():
            covered = {s: there[s] for s in sequences if s >= segment.first and s <= (segment.last or 0)}
            if covered:
                self.log.adopt_compaction(self.log.prepare_compaction(segment.first, covered))
                Indexer(self.log, self.index).compacted(list(covered))

    def anew(self) -> list[tuple[object, ...]]:
        """What an index says that is built from the log."""
        other = Index.open(self.disk, "other.sqlite")
        other.clear()
        Indexer(self.log, other).advance(self.log.end)
        assert not other.holes
        found = other.everything()
        other.close()
        return found


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    disk, log = opened(tmp_path / "data")
    return Archive(disk, log, Index.open(disk))


def seal(archive: Archive) -> None:
    """Everything so far lies in sealed segments afterwards."""
    filled(archive.log, 30)
    archive.follow()


def test_what_only_the_payload_said_is_forgotten_and_the_rest_stays(archive: Archive) -> None:
    first = archive.store("1.5.1", "1.3", "1.2", "WRONG^NAME")
    archive.store("1.5.2", "1.3", "1.2", "RIGHT^NAME")
    third = archive.store("1.5.3", "1.33", "1.22", "GONE^NAME")
    at = archive.delete(first, third)
    seal(archive)
    assert [c.sequence for c in compactable(archive.index, at, 0, 9)] == [first, third]
    assert not compactable(archive.index, at - 1, 0, 9), "only what these tombstones cover"
    assert [next_compactable(archive.index, at, after) for after in (0, first, third)] == [first, third, 0]
    assert [(one.study, one.instances) for one in extent(archive.index, at)] == [("1.2", 1), ("1.22", 1)]
    assert archive.index.survey("SELECT patient_name FROM study") == [("WRONG^NAME",)]
    archive.compact(first, third)
    assert archive.index.survey("SELECT patient_name FROM study") == [("RIGHT^NAME",)]
    assert archive.index.survey("SELECT series_description FROM series") == [("series by RIGHT^NAME",)]
    (found,) = archive.index.find("1.5.1")
    assert (found.deleted_by, found.study_instance_uid, found.transfer_syntax_uid) == (at, "1.2", "")
    assert stubs_among(archive.index, [1, 2, 3]) == {first: at, third: at}
    assert not compactable(archive.index, at, 0, 9)
    assert archive.index.everything() == archive.anew()
    everything = b"".join(path.read_bytes() for path in Path(archive.disk.path("") or "").rglob("0*.tar"))
    assert b"GONE^NAME" not in everything and b"WRONG^NAME" not in everything and b"RIGHT^NAME" in everything


def test_what_was_repaired_with_its_payload_is_compacted_again(archive: Archive) -> None:
    first = archive.store("1.5.1", "1.3", "1.2", "SOME^NAME")
    at = archive.delete(first)
    seal(archive)
    whole = archive.log.read_raw(first)
    archive.compact(first)
    archive.log.note_damage(first)
    archive.log.repair(first, whole)
    assert archive.log.read_raw(first) == whole
    archive.index.refilled(first)
    assert [c.sequence for c in compactable(archive.index, at, 0, 9)] == [first]
    archive.compact(first)
    assert archive.log.is_stub(first) and archive.index.everything() == archive.anew()


@pytest.mark.parametrize("seed", range(12))
def test_an_index_built_anew_says_the_same_whatever_was_deleted_and_compacted(archive: Archive, seed: int) -> None:
    rng = random.Random(seed)
    living: list[int] = []
    deleted: list[int] = []
    for number in range(40):
        if living and rng.random() < 0.35:
            gone = rng.sample(living, rng.randint(1, min(3, len(living))))
            archive.delete(*gone)
            living = [s for s in living if s not in gone]
            deleted += gone
        else:
            study, series = rng.choice("12"), rng.choice("12")
            again = rng.choice(deleted) if deleted and rng.random() < 0.2 else 0
            names = archive.stored[again] if again else (f"1.2.{study}", f"1.3.{study}.{series}", f"1.5.{number}")
            living.append(archive.store(names[2], names[1], names[0], f"name {number}"))
    seal(archive)
    for part in (deleted[::2], deleted[1::2]):
        archive.compact(*part)
        assert archive.index.everything() == archive.anew()


def test_a_stub_without_its_tombstone_is_a_hole_until_it_comes(archive: Archive, tmp_path: Path) -> None:
    first = archive.store("1.5.1", "1.3", "1.2", "SOME^NAME")
    at = archive.delete(first)
    seal(archive)
    archive.compact(first)
    disk, log = opened(tmp_path / "other")
    index = Index.open(disk)
    for sequence in range(1, archive.log.end.sequence + 1):
        found = archive.log.read_any(sequence)
        if isinstance(found, StoredStub):
            log.append_stub(found.header, found.chain, found.tombstone)
        else:
            log.append(found.header, found.chain, found.payload)
        log.sync()
        Indexer(log, index).advance(log.end)
        assert (index.holes, index.blind) == (frozenset({first}), False)
        assert not index.find("1.5.1"), "nothing is known of it, and so nothing is called absent"
        assert index.count_instances() == 0
    assert Indexer(log, index).fill_holes() == 0
    assert [found.deleted_by for found in index.find("1.5.1")] == [at]
    assert index.everything() == archive.index.everything()
