"""Tombstones in the log and in the index: hidden at once, the same after a rebuild, and plain files for tar."""

import json
import subprocess
from pathlib import Path

import pytest

from storage.deletion import (
    COVERS_LIMIT,
    Covered,
    Note,
    NotUnderstood,
    Tombstone,
    decode_small,
    encode_note,
    encode_tombstone,
    in_parts,
    small_path,
)
from storage.digest import digests_of
from storage.index import Index, InstanceLocation
from storage.indexer import Indexer
from storage.log import BytesPayload, Log
from storage.position import LogPosition, RecordHeader, RecordKind, chain_after
from tests.storage.test_index import SAMPLES, opened, store

UID = "1.3.6.1.4.1.5962.1.1.1.1.1.20040119072730.12322"
STUDY = "1.3.6.1.4.1.5962.1.2.1.20040119072730.12322"
SERIES = "1.3.6.1.4.1.5962.1.3.1.1.20040119072730.12322"


def covered(location: InstanceLocation) -> Covered:
    return Covered(STUDY, SERIES, UID, location.dataset)


def tombstone(*covers: Covered, request: str = "r") -> Tombstone:
    return Tombstone(covers, "sent twice", "anna", "", 1_700_000_000_000_000, request)


def write(log: Log, small: Tombstone | Note) -> int:
    kind = RecordKind.TOMBSTONE if isinstance(small, Tombstone) else RecordKind.NOTE
    payload = encode_tombstone(small) if isinstance(small, Tombstone) else encode_note(small)
    digests = digests_of(kind, [payload])
    position = LogPosition(1, log.end.sequence + 1)
    path = small_path(position, kind)
    header = RecordHeader(position, kind, digests.dataset, digests.digest, 1, path, len(payload))
    log.append(header, chain_after(log.end.chain, header), BytesPayload(payload))
    log.sync()
    return position.sequence


def test_what_is_deleted_is_hidden_and_a_store_after_it_is_there(tmp_path: Path) -> None:
    disk, log = opened(tmp_path / "data")
    data = (SAMPLES / "CT_small.dcm").read_bytes()
    index = Index.open(disk)
    store(log, data)
    log.sync()
    Indexer(log, index).advance(log.end)
    (first,) = index.find(UID)
    assert index.everything()[1:], "a series and a study"
    at = write(log, tombstone(covered(first)))
    Indexer(log, index).advance(log.end)
    (gone,) = index.find(UID)
    assert (gone.deleted_by, index.count_instances()) == (at, 0)
    assert index.burials.of(UID) == ((at, first.dataset),)
    assert not index.survey("SELECT * FROM study"), "nothing is left of it"
    store(log, data)
    log.sync()
    Indexer(log, index).advance(log.end)
    assert [location.deleted_by for location in index.find(UID)] == [at, 0]
    assert len(index.survey("SELECT * FROM study")) == 1
    followed = index.everything()
    index.clear()
    Indexer(log, index).advance(log.end)
    assert index.everything() == followed, "an index that is built anew says the same"
    index.close()
    log.close()


def test_a_conflict_is_none_any_more_when_one_of_the_two_is_deleted(tmp_path: Path) -> None:
    disk, log = opened(tmp_path / "data")
    data = (SAMPLES / "CT_small.dcm").read_bytes()
    store(log, data)
    store(log, data[:-2] + b"\1\2")
    log.sync()
    index = Index.open(disk)
    Indexer(log, index).advance(log.end)
    assert index.conflicts() == (UID,)
    write(log, tombstone(covered(index.find(UID)[1])))
    Indexer(log, index).advance(log.end)
    assert not index.conflicts()
    assert index.count_instances() == 1
    index.close()
    log.close()


def test_an_instance_that_was_unreadable_when_it_was_deleted_stays_deleted(tmp_path: Path) -> None:
    disk, log = opened(tmp_path / "data")
    store(log, (SAMPLES / "CT_small.dcm").read_bytes())
    log.sync()
    index = Index.open(disk)
    Indexer(log, index).advance(log.end)
    (first,) = index.find(UID)
    at = write(log, tombstone(covered(first)))
    entry = log.entry(1)
    assert entry is not None
    index.clear()
    with (tmp_path / "data" / log.segments()[0].name).open("r+b") as segment:
        segment.seek(entry.offset)
        whole = segment.read(1024)
        segment.seek(entry.offset)
        segment.write(bytes(1024))
        segment.flush()
        Indexer(log, index).advance(log.end)
        assert (index.holes, index.blind) == (frozenset({1}), False), "its entry says that it is no tombstone"
        segment.seek(entry.offset)
        segment.write(whole)
    Indexer(log, index).fill_holes()
    (found,) = index.find(UID)
    assert found.deleted_by == at
    assert not index.survey("SELECT * FROM study")
    index.close()
    log.close()


def test_a_tombstone_that_cannot_be_read_makes_the_index_say_so(tmp_path: Path) -> None:
    """What it covers is not known, so nothing may be called undeleted."""
    disk, log = opened(tmp_path / "data")
    store(log, (SAMPLES / "CT_small.dcm").read_bytes())
    log.sync()
    index = Index.open(disk)
    Indexer(log, index).advance(log.end)
    at = write(log, tombstone(covered(index.find(UID)[0])))
    entry = log.entry(at)
    assert entry is not None
    with (tmp_path / "data" / log.segments()[0].name).open("r+b") as segment:
        segment.seek(entry.offset + entry.length - 4096 + 3700)
        kept = segment.read(1)
        segment.seek(-1, 1)
        segment.write(bytes([kept[0] ^ 1]))
        segment.flush()
        Indexer(log, index).advance(log.end)
        assert index.blind
        index.close()
        index = Index.open(disk)
        assert index.blind, "also after a restart"
        segment.seek(-1, 1)
        segment.write(kept)
    assert Indexer(log, index).fill_holes() == 0
    assert not index.blind
    assert index.find(UID)[0].deleted_by == at
    index.close()
    log.close()


def test_the_last_tombstone_of_a_log_is_found_without_an_index(tmp_path: Path) -> None:
    _, log = opened(tmp_path / "data")
    for _ in range(3):
        store(log, (SAMPLES / "CT_small.dcm").read_bytes())
    log.sync()
    assert log.last_tombstone(1) == 0
    at = write(log, tombstone(Covered(STUDY, SERIES, UID, bytes(32))))
    store(log, (SAMPLES / "MR_small.dcm").read_bytes())
    log.sync()
    assert (log.last_tombstone(1), log.last_tombstone(at + 1)) == (at, 0)
    log.close()


def test_tar_shows_who_deleted_what_and_why(tmp_path: Path) -> None:
    _, log = opened(tmp_path / "data")
    at = write(log, tombstone(Covered(STUDY, SERIES, UID, bytes(32))))
    log.close()
    name = f"perenne/{at:012d}-tombstone.json"
    segment = next((tmp_path / "data" / "log").glob("*.tar"))
    command = ["tar", "xf", str(segment), "-O", name]
    said = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert (said["asked_by"], said["reason"], said["covers"][0]["sop"]) == ("anna", "sent twice", UID)


def test_holds_follow_the_notes(tmp_path: Path) -> None:
    disk, log = opened(tmp_path / "data")
    index = Index.open(disk)
    held = write(log, Note("hold", STUDY, {"by": "anna", "reason": "court"}))
    Indexer(log, index).advance(log.end)
    assert (index.burials.hold(STUDY), index.burials.hold("1.2")) == (held, 0)
    assert [note.facts["reason"] for note in index.burials.notes("hold")] == ["court"]
    write(log, Note("release", STUDY, {"by": "anna"}))
    Indexer(log, index).advance(log.end)
    assert index.burials.hold(STUDY) == 0
    index.close()
    log.close()


def test_a_tombstone_says_the_same_after_it_was_read_back() -> None:
    original = tombstone(Covered(STUDY, SERIES, UID, bytes(range(32))))
    assert decode_small(RecordKind.TOMBSTONE, encode_tombstone(original)) == original
    assert len(in_parts([original.covers[0]] * (COVERS_LIMIT + 1))) == 2


@pytest.mark.parametrize("payload", [b"", b"{}", b'{"covers":[]}', b"[]", b'{"covers":[{"sop":"1"}]}'])
def test_what_is_no_tombstone_is_not_taken_for_one(payload: bytes) -> None:
    with pytest.raises(NotUnderstood):
        decode_small(RecordKind.TOMBSTONE, payload)
    with pytest.raises(NotUnderstood):
        encode_tombstone(Tombstone((), "", "", "", 0, ""))
