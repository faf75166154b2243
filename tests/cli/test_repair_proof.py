"""Goal: an offline repair takes nothing that its own log does not prove, keeps all it takes out, and says what is so.

Method: real logs on a real disk. The other directory is of another branch or cluster, ends earlier, or changes while it
is read; the own one lost its end, or both sides of a seam between two segments.
"""

import errno
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from perenne.cli.repair import repair_offline
from replication.opening import Store, open_store
from storage.disk import Buffer, RealDisk, RealFile
from storage.log import Log, LogIdentity
from storage.metadata import NodeIdentity, PromiseFile, write_identity
from storage.table import ENTRIES_OFFSET, ENTRY_BYTES
from tests.cli.test_repair import overwrite, segments, told
from tests.cli.two_nodes import two_nodes
from tests.storage.compacting import bury, compact, filled, opened
from tests.storage.log_helpers import IDENTITY, append, lose

SIZE = 3000
WHOLE = ((1, 0),) * 4 + ((2, 0),) * 4 + ((3, 0),) * 4
"""Epoch and salt of twelve records, in three segments."""
ROT = b"rot" * 16_000


def name(first: int) -> str:
    return f"log/{first:012d}.tar"


def node(directory: Path, records: Iterable[tuple[int, int]], *, floor: int = 0, cluster: str = "test-cluster") -> Path:
    """A data directory of these records. floor: up to where it knows them to be committed."""
    disk = RealDisk(directory)
    write_identity(disk, NodeIdentity(cluster, "n1", "incarnation"))
    log = Log.open(disk, LogIdentity(cluster, IDENTITY.segment_bytes), host_rebooted=False, spares=0)[0]
    for epoch, salt in records:
        append(log, SIZE, epoch, salt)
    log.sync()
    promise = PromiseFile(disk)
    promise.store(floor=log.point_at(floor), host_boot="boot")
    promise.close()
    log.close()
    return directory


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return two_nodes(tmp_path, [SIZE] * 4)


def repaired(one: Path, other: Path) -> int:
    return repair_offline(one, other=other, tier=None, dry_run=False, as_json=False)


def started(directory: Path) -> Store:
    """As its node would open it, on a host that has not restarted; closed at once."""
    store = open_store(RealDisk(directory), IDENTITY, host_boot="boot", direct=False, spares=0)
    store.log.close()
    store.promise.close()
    return store


def damage_entry(directory: Path, sequence: int, first: int) -> None:
    overwrite(directory / name(first), ENTRIES_OFFSET + (sequence - first) * ENTRY_BYTES + 9, b"rot")


# Of another branch


@pytest.mark.parametrize(
    ("floor", "instead"),
    [(12, (3, 9)), (12, (4, 9)), (10, (4, 9))],
    ids=["of-its-epoch", "of-a-later-one", "above-the-floor"],
)
def test_no_record_of_another_branch_takes_the_place_of_the_last_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], floor: int, instead: tuple[int, int]
) -> None:
    one = node(tmp_path / "one", WHOLE, floor=floor)
    other = node(tmp_path / "other", (*WHOLE[:11], instead))
    lose(one, 12)
    before = segments(one)
    assert repaired(one, other) == 1
    assert segments(one) == before
    assert "record 12: " in capsys.readouterr().out


def test_a_record_of_an_epoch_that_was_deposed_does_not_replace_the_first_one_of_the_next(tmp_path: Path) -> None:
    one = node(tmp_path / "one", WHOLE[:9], floor=8)
    other = node(tmp_path / "other", (*WHOLE[:8], (2, 5)))
    lose(one, 9)
    before = segments(one)
    assert repaired(one, other) == 1
    assert segments(one) == before


def test_a_directory_of_another_cluster_is_bad_usage_and_so_is_the_same_one(tmp_path: Path) -> None:
    """The first record of any log follows from nothing: no chain says of which cluster it is."""
    one = node(tmp_path / "one", WHOLE[:1])
    other = node(tmp_path / "other", [(1, 5)], cluster="another")
    (tmp_path / "link").symlink_to(one)
    lose(one, 1)
    before = segments(one)
    for source, why in ((other, "another cluster"), (one, "the same directory"), (tmp_path / "link", "the same")):
        code, _, errors = told("repair", str(one), "--from", str(source))
        assert (code, why in errors) == (2, True), errors
        assert segments(one) == before


def test_the_newest_segment_is_not_taken_from_a_log_that_contradicts_the_floor_within_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = node(tmp_path / "one", WHOLE, floor=11)
    other = node(tmp_path / "other", (*WHOLE[:8], *((3, 9),) * 4))
    overwrite(one / name(9), 0, ROT)
    before = segments(one)
    assert repaired(one, other) == 1
    assert segments(one) == before
    assert "another branch" in capsys.readouterr().out


def test_of_two_segments_in_a_row_the_first_is_not_taken_before_both_are_proved(
    tmp_path: Path, pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    one, right = pair
    stranger = node(tmp_path / "stranger", [(epoch, 7) for epoch, _ in WHOLE])
    for first in (1, 5):
        overwrite(one / name(first), 0, ROT)
    before = segments(one)
    assert repaired(one, stranger) == 1
    assert segments(one) == before
    assert repaired(one, right) == 0, capsys.readouterr().out
    assert segments(one) == segments(right)


# An end that comes too early


def test_a_source_that_ends_before_the_floor_does_not_shorten_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = node(tmp_path / "one", WHOLE, floor=12)
    other = node(tmp_path / "other", WHOLE[:11])
    overwrite(one / name(9), 0, ROT)
    before = segments(one)
    assert repaired(one, other) == 1
    assert segments(one) == before
    assert "this node knew 12 to be committed" in capsys.readouterr().out


def test_a_source_that_ends_earlier_does_not_shorten_a_log_that_can_be_opened(tmp_path: Path) -> None:
    one = node(tmp_path / "one", WHOLE, floor=9)
    other = node(tmp_path / "other", WHOLE[:11])
    lose(one, 10)
    lose(one, 11)
    assert repaired(one, other) == 1
    store = started(one)
    assert store.log.end.sequence == 12 and store.log.damaged() == (10, 11)


def test_what_lay_beyond_the_end_of_the_source_is_named_and_the_others_are_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = node(tmp_path / "one", WHOLE, floor=9)
    other = node(tmp_path / "other", WHOLE[:11])
    overwrite(one / name(9), 0, b"rot" * 1000)  # no header: such a log cannot be opened
    damage_entry(one, 8, 5)
    overwrite(one / name(9), 25_000, b"rot" * 1000)
    assert repaired(one, other) == 1
    assert "record 12 lay there" in capsys.readouterr().out
    store = started(one)
    assert store.log.end.sequence == 11 and store.host_rebooted
    assert repaired(one, other) == 0
    assert "the others are asked" in capsys.readouterr().out, "nothing is wrong, and yet the end is not settled"


def test_newest_segments_that_were_missing_may_not_be_all_that_were(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The node may have confirmed more than the source has: before, it could not lead for want of its floor."""
    one = node(tmp_path / "one", (*WHOLE, (3, 0)), floor=12)
    other = node(tmp_path / "other", WHOLE)
    (one / name(9)).unlink()
    assert repaired(one, other) == 0, capsys.readouterr().out
    store = started(one)
    assert store.log.end.sequence == 12 and store.host_rebooted


def test_what_was_cut_when_a_repair_was_killed_is_put_back_by_the_next(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = pair
    log = opened(RealDisk(one))
    log.truncate_after(10)
    log.close()
    stranger = node(tmp_path / "stranger", (*WHOLE[:11], (3, 9)))
    assert repaired(one, stranger) == 1
    assert opened_end(one) == 11, "it follows, and is of the very epoch; the next one is not what was promised"
    assert repaired(one, other) == 0, capsys.readouterr().out
    assert opened_end(one) == 12
    assert started(one).host_rebooted


def opened_end(directory: Path) -> int:
    log = opened(RealDisk(directory))
    log.close()
    return log.end.sequence


def test_a_missing_segment_that_the_source_lacks_too_is_named_once_and_the_node_is_not_sound(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = pair
    for directory in pair:
        (directory / name(5)).unlink()
    assert repaired(one, other) == 1
    assert capsys.readouterr().out.startswith("segment 5: the other directory does not have it\n0 segments")
    assert started(one).log.damaged() == (5, 6, 7, 8)


# The seam between two segments


def test_a_header_that_nobody_can_know_is_taken_with_its_segment(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = pair
    damage_entry(one, 4, 1)
    overwrite(one / name(5), 600, b"rot")
    assert repaired(one, other) == 0, capsys.readouterr().out
    assert segments(one) == segments(other)


@pytest.mark.parametrize("missing", [False, True])
def test_both_sides_of_a_seam_are_mended_at_once(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str], *, missing: bool
) -> None:
    one, other = pair
    lose(one, 4)
    if missing:
        (one / name(5)).unlink()
    else:
        overwrite(one / name(5), 0, ROT)
    assert repaired(one, other) == 0, capsys.readouterr().out
    assert segments(one) == segments(other)


def test_an_evicted_segment_without_its_header_comes_from_a_node_that_kept_it(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = pair
    log = opened(RealDisk(one))
    log.evict(6)
    log.close()
    overwrite(one / name(5), 600, b"rot")
    assert repaired(one, other) == 0, capsys.readouterr().out
    assert segments(one) == segments(other)


def test_a_segment_that_is_evicted_or_still_written_there_is_called_so(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = pair
    log = opened(RealDisk(other))
    log.evict(6)
    append(log, SIZE, 3)
    log.sync()
    copy = shutil.copytree(one, one.with_name("copy"))
    overwrite(one / name(5), 0, ROT)
    overwrite(copy / name(9), 0, ROT)
    assert repaired(one, other) == repaired(copy, other) == 1
    log.close()
    said = capsys.readouterr().out
    assert "segment 5: the other node has evicted it" in said, said
    assert "segment 9: the other node still writes to it" in said, said


def test_a_stub_is_mended_behind_its_tombstone_at_the_damaged_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = node(tmp_path / "one", [])
    log = opened(RealDisk(one))
    filled(log, 4)
    append(log, SIZE, 2)
    log.sync()
    tombstone = bury(log, [2, 3], 3)
    compact(log, [2, 3], tombstone)
    log.close()
    shutil.copytree(one, tmp_path / "other")
    lose(one, 2)
    lose(one, tombstone)
    assert repaired(one, tmp_path / "other") == 0, capsys.readouterr().out
    assert started(one).log.damaged() == ()


# What the disk does meanwhile


@pytest.mark.parametrize("why", [errno.EPERM, errno.EXDEV])
def test_where_no_hard_link_can_be_made_a_segment_is_kept_all_the_same(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], why: int
) -> None:
    one, other = pair
    overwrite(one / name(5), 0, ROT)
    damaged = (one / name(5)).read_bytes()

    def refused(*_: object, **__: object) -> None:
        raise OSError(why, os.strerror(why))

    def within(old: Path, new: Path) -> None:
        if why == errno.EXDEV and Path(old).parent.name != Path(new).parent.name and "lost+found" in str(new):
            raise OSError(why, os.strerror(why))
        rename(old, new)

    rename = os.rename
    monkeypatch.setattr("os.link", refused)
    monkeypatch.setattr("os.rename", within)
    assert repaired(one, other) == 0, capsys.readouterr().out
    assert segments(one) == segments(other)
    assert [path.read_bytes() for path in (one / "lost+found").iterdir()] == [damaged]
    assert started(one).log.damaged() == ()


def test_what_cannot_be_taken_leaves_neither_a_copy_nor_a_second_name(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = pair
    overwrite(one / name(5), 0, ROT)
    (one / "damaged").write_bytes(b"nobody knows")
    for _ in range(2):
        assert repaired(one, other) == 1
        assert not list((one / "staging").iterdir())
    assert len(list((one / "lost+found").iterdir())) <= 1

    def full(*_: object) -> None:
        raise OSError(errno.EIO, "the other disk fails")

    (one / "damaged").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("storage.segment_file.SegmentFile.read", full)
        with pytest.raises(OSError, match="fails"):
            repaired(one, other)
    assert repaired(one, other) == 0
    assert not list((one / "staging").iterdir())


def test_a_source_that_changes_between_two_reads_puts_nothing_unproved_in_place(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """That node may run: what was proved a moment ago may be a stub, or zeros, when it is read once more."""
    one, other = pair
    overwrite(one / name(5), _middle_of(one, 6), b"rot")
    write = RealFile.pwrite

    place = _middle_of(other, 6) - 100

    def changed_before(self: RealFile, parts: Sequence[Buffer], offset: int) -> None:
        overwrite(other / name(5), place, bytes(1000))
        write(self, parts, offset)

    monkeypatch.setattr(RealFile, "pwrite", changed_before)
    assert repaired(one, other) == 0, capsys.readouterr().out
    monkeypatch.undo()
    log = opened(RealDisk(one))
    assert not log.judge(6)
    log.close()


def _middle_of(directory: Path, sequence: int) -> int:
    log = opened(RealDisk(directory))
    entry = log.entry(sequence)
    log.close()
    assert entry is not None
    return entry.offset + 5000


def test_a_read_only_directory_is_one_line(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = pair
    lose(one, 6)

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "lock")

    monkeypatch.setattr(RealDisk, "lock", refused)
    code, output, errors = told("repair", str(one), "--from", str(other))
    assert (code, output) == (1, "")
    assert errors.startswith("perenne: ") and "Read-only" in errors
