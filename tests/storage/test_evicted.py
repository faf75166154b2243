"""Goal: an evicted segment is read as it was, from elsewhere, with every check; the log's shape is as before.

Method: a real log on a real disk; its evicted bytes are kept by the test, whole, altered or away.
"""

import subprocess
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from perenne.cli.repair_offline import survey
from storage.disk import RealDisk
from storage.errors import LogContradiction, RecordCorrupt, RecordsElsewhere
from storage.evicted import Stub
from storage.log import Log
from storage.position import EpochSpan
from storage.reader import FilePayload
from storage.table import ENTRIES_OFFSET, ENTRY_BYTES, MARK_OFFSETS
from storage.walk import Found, Walk
from tests.storage.compacting import bury, compact
from tests.storage.log_helpers import IDENTITY, append

RECORDS = 30


@dataclass
class Kept:
    """Where the records went. asked: ranges that were read back."""

    data: dict[int, bytes] = field(default_factory=dict[int, bytes])
    asked: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    away: bool = False
    forgotten: list[int] = field(default_factory=list[int])

    def read(self, stub: Stub, stubs: Sequence[int], offset: int, size: int) -> bytes:
        self.asked.append((offset, size))
        if self.away:
            raise RecordsElsewhere(stub.first, "the tier does not answer")
        return self.data[stub.first][offset : offset + size]

    def forget(self, stub: Stub, stubs: Sequence[int]) -> None:
        self.forgotten.append(stub.first)


@dataclass
class Holder:
    directory: Path
    kept: Kept
    log: Log

    def reopened(self) -> Log:
        self.log.close()
        self.log, _ = Log.open(RealDisk(self.directory), IDENTITY, host_rebooted=True, spares=0)
        self.log.elsewhere.source = self.kept
        return self.log

    def evict(self, sequence: int) -> EpochSpan:
        sealed = self.log.sealed_records(sequence)
        self.kept.data[sealed.span.first] = b"".join(sealed.pieces())
        self.log.evict(sequence)
        return sealed.span


@pytest.fixture
def holder(tmp_path: Path) -> Generator[Holder]:
    log, _ = Log.open(RealDisk(tmp_path), IDENTITY, host_rebooted=False, spares=0)
    for number in range(RECORDS):
        append(log, 2000 + 300 * number, epoch=1 if number < 20 else 2)
    log.sync()
    found = Holder(tmp_path, Kept(), log)
    log.elsewhere.source = found.kept
    yield found
    found.log.close()


def test_an_evicted_segment_reads_as_before_also_after_a_restart(holder: Holder) -> None:
    log = holder.log
    before = [(log.point_at(sequence), log.read_raw(sequence)) for sequence in range(1, RECORDS + 1)]
    shape = (log.epochs(), log.end, [(s.first, s.last, s.chain_before) for s in log.segments()])
    first, second = holder.evict(1), holder.evict(log.segments()[1].first)
    assert [s.evicted for s in log.segments()][:3] == [True, True, False]
    for again in (False, True):
        log = holder.reopened() if again else holder.log
        assert (log.epochs(), log.end, [(s.first, s.last, s.chain_before) for s in log.segments()]) == shape
        assert [(log.point_at(s), log.read_raw(s)) for s in range(1, RECORDS + 1)] == before
        assert log.intact
        assert log.is_evicted(first.first) and log.is_evicted(second.last) and not log.is_evicted(RECORDS)
    append(log, 3000, epoch=2)
    assert log.sync().sequence == RECORDS + 1


def test_the_space_becomes_free_and_what_is_left_is_a_tar_file(holder: Holder) -> None:
    path = holder.directory / holder.log.segments()[0].name
    blocks = path.stat().st_blocks
    holder.evict(1)
    assert path.stat().st_blocks < blocks / 2
    done = subprocess.run(["tar", "tf", str(path)], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("segment.table\n", "")


@pytest.mark.parametrize("page", MARK_OFFSETS)
def test_one_damaged_page_does_not_make_it_forget_that_it_is_evicted(holder: Holder, page: int) -> None:
    holder.evict(1)
    with (holder.directory / holder.log.segments()[0].name).open("r+b") as file:
        file.seek(page + 30)
        file.write(b"?")
    log = holder.reopened()
    assert log.is_evicted(1) and log.read(1).header.position.sequence == 1


def test_a_compacted_segment_is_evicted_in_the_form_that_it_has(holder: Holder) -> None:
    at = bury(holder.log, [2, 3], 2)
    append(holder.log, 100, epoch=2)
    holder.log.sync()
    compact(holder.log, [2, 3], at)
    before = {sequence: holder.log.read_raw(sequence) for sequence in range(1, at + 1)}
    holder.evict(1)
    for again in (False, True):
        log = holder.reopened() if again else holder.log
        assert log.is_evicted(2) and log.is_stub(2)
        assert {sequence: log.read_raw(sequence) for sequence in before} == before
        assert log.intact


def test_a_stub_whose_tombstone_is_evicted_is_no_damage_to_who_reads_the_files(holder: Holder) -> None:
    """What compaction rewrote may stay while what came later goes (seed 17 with --scrub --compact)."""
    log = holder.log
    at = bury(log, [2, 3], 2)
    while log.sealed_at(at) is None:
        append(log, 9000, epoch=2)
    log.sync()
    compact(log, [2, 3], at)
    holder.evict(at)
    walk = Walk(holder.directory, verify=True)
    found = [one for path in walk.segments() for one in walk.segment(path)]
    assert all(isinstance(one, Found) or one.note for one in found)
    left = list(walk.finish())
    assert [(fault.sequence, fault.lost, fault.note) for fault in left] == [(2, 0, True), (3, 0, True)]
    assert all(f"tombstone {at}, which says so, is evicted" in fault.text for fault in left)
    surveyed = survey(holder.directory, lambda _: None)
    assert not surveyed.records and not surveyed.missing, "nothing is repaired for that"


def test_a_segment_that_was_compacted_since_it_was_proved_is_not_evicted(holder: Holder) -> None:
    at = bury(holder.log, [2, 3], 2)
    proved = holder.log.sealed_records(1)
    compact(holder.log, [2, 3], at)
    with pytest.raises(LogContradiction, match="written anew"):
        holder.log.evict(1, proved)
    at = bury(holder.log, [4], 2)
    prepared = holder.log.prepare_compaction(1, {4: at})
    holder.evict(1)
    with pytest.raises(RecordsElsewhere):
        holder.log.adopt_compaction(prepared)
    assert not [path for path in (holder.directory / "log").iterdir() if path.suffix != ".tar"]


def test_points_and_epochs_never_ask_the_tier(holder: Holder) -> None:
    holder.evict(1)
    log = holder.reopened()
    holder.kept.asked.clear()
    assert all(log.point_at(sequence) for sequence in range(RECORDS + 1))
    assert log.epochs() and log.segments() and log.sealed_at(1)
    with (holder.directory / log.segments()[0].name).open("r+b") as file:
        file.seek(ENTRIES_OFFSET + 2 * ENTRY_BYTES + 40)
        file.write(b"?")
    assert log.point_at(3) is None, "its entry is damaged"
    assert not holder.kept.asked
    assert log.read(3).header.position.sequence == 3


@pytest.mark.parametrize("trouble", ["away", "altered", "short", "unknown"])
def test_what_cannot_be_had_is_said_and_is_no_damage_of_this_node(holder: Holder, trouble: str) -> None:
    span = holder.evict(1)
    data = bytearray(holder.kept.data[1])
    if trouble == "altered":
        data[2000] ^= 1
    elif trouble == "short":
        del data[1000:]
    elif trouble == "unknown":
        holder.log.elsewhere.source = None
    holder.kept.data[1], holder.kept.away = bytes(data), trouble == "away"
    with pytest.raises(RecordCorrupt if trouble in ("altered", "short") else RecordsElsewhere):
        holder.log.read(span.first)
    assert holder.kept.forgotten == ([1] if trouble in ("altered", "short") else [])
    assert holder.log.intact
    assert not holder.log.damaged()


def test_a_reader_that_began_before_the_eviction_reads_on(holder: Holder) -> None:
    stored = holder.log.read(2, whole_limit=100)
    assert isinstance(stored.payload, FilePayload)
    wanted = b"".join(holder.log.read(2).payload.parts())
    holder.evict(1)
    holder.kept.away = True
    assert b"".join(stored.payload.parts()) == wanted


def test_what_is_written_damaged_or_cut_is_not_evicted_and_what_is_evicted_not_cut(holder: Holder) -> None:
    log = holder.log
    log.note_damage(2)
    with pytest.raises(LogContradiction, match="damage"):
        holder.evict(1)
    assert not log.judge(2)
    span = holder.evict(1)
    with pytest.raises(RecordsElsewhere):
        holder.evict(1)
    with pytest.raises(LookupError):
        log.evict(RECORDS)
    with pytest.raises(LogContradiction, match="evicted"):
        log.truncate_after(span.last - 1)


def test_a_scrub_mends_nothing_of_it_and_what_the_tier_has_damaged_is_not_its_finding(holder: Holder) -> None:
    holder.evict(1)
    path = holder.directory / holder.log.segments()[0].name
    before = path.read_bytes()
    assert holder.log.mend_frame(1) == []
    assert path.read_bytes() == before
    holder.kept.data[1] = bytes(len(holder.kept.data[1]))
    assert not holder.log.judge(1)
    holder.kept.away = True
    assert not holder.log.judge(1)
    assert holder.log.intact
