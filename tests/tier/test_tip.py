"""Goal: a takeover finds the one log that the bucket proves, or none; never a mixture, never a shorter one.

Method: Hypothesis draws histories of leaders, of which each begins at some point of an earlier log and uploads a part
of its own; the last one uploads all. Objects overlap, cover each other, are lost and damaged.
"""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.vendor.pretty import RepresentationPrinter

from replication.tier.contents import read_run
from replication.tier.keys import Run
from replication.tier.tip import Branch, Broken, highest_epoch
from storage.errors import FormatError, RecordCorrupt
from storage.position import GENESIS, LogPoint, LogPosition
from tests.tier.paper_bucket import Log, PaperBucket, appended, end_of, grouped


@dataclass
class History:
    """live: the log of the last leader, all of it in the bucket. logs: of every leader, live the last."""

    bucket: PaperBucket
    live: Log
    logs: list[Log]

    def _repr_pretty_(self, printer: RepresentationPrinter, cycle: bool) -> None:
        """Names alone: Hypothesis would print every byte, and warn that it is much."""
        points = (f"{record.point.epoch}.{record.point.sequence}" for record in self.live)
        printer.text(f"live {' '.join(points)}; objects {' '.join(run.key for run in sorted(self.bucket.objects))}")


@st.composite
def histories(draw: st.DrawFn) -> History:
    bucket, epoch = PaperBucket(), 0
    logs: list[Log] = [()]
    cuts = st.sets(st.integers(1, 12))
    for _ in range(draw(st.integers(1, 5))):
        epoch += draw(st.integers(1, 2))
        parent: Log = draw(st.sampled_from(logs))
        kept = parent[: draw(st.integers(0, len(parent)))]
        log = appended(kept, epoch, draw(st.lists(st.integers(0, 1), max_size=4)))
        logs.append(log)
        for group in draw(st.permutations(grouped(log, list(draw(cuts)))))[: draw(st.integers(0, 4))]:
            bucket.put(group)
    live = logs[-1]
    for _ in range(draw(st.integers(1, 2))):
        for group in grouped(live, list(draw(cuts))):
            bucket.put(group)
    return History(bucket, live, logs)


def some_of(bucket: PaperBucket) -> st.SearchStrategy[list[Run]]:
    return st.lists(st.sampled_from(sorted(bucket.objects)), min_size=1, max_size=3, unique=True)


@given(histories())
def test_the_log_of_the_last_leader_is_found_whole(history: History) -> None:
    outcome, read = history.bucket.search()
    assert isinstance(outcome, Branch)
    assert outcome.tip == end_of(history.live)
    assert outcome.chains == {record.point.sequence: record.point.chain for record in history.live}
    held = [sequence for piece in outcome.pieces for sequence in range(piece.first, piece.last + 1)]
    assert held == list(range(1, len(history.live) + 1)), "each record once, in order"
    assert {piece.run for piece in outcome.pieces} <= set(read)
    assert all(outcome.contains(record.point) for record in history.live)


@given(histories())
def test_every_object_is_used_or_spare_or_an_orphan(history: History) -> None:
    outcome, _ = history.bucket.search()
    assert isinstance(outcome, Branch)
    used = {piece.run for piece in outcome.pieces}
    points = {record.point for record in history.live}
    assert used | set(outcome.spare) | set(outcome.orphans) == set(history.bucket.objects)
    assert len(used) + len(outcome.spare) + len(outcome.orphans) == len(history.bucket.objects)
    for run, data in history.bucket.objects.items():
        last = read_run(run, data)[-1]
        dead = LogPoint(last.header.position, last.chain) not in points
        assert run in used or (run in outcome.orphans) == dead, (
            "one that ends on a dead branch may begin on the live one"
        )


@given(histories(), st.data())
def test_from_a_point_of_ones_own_log_only_what_is_above_it_is_needed(history: History, data: st.DataObject) -> None:
    base = data.draw(st.sampled_from([GENESIS, *(record.point for record in history.live)]))
    for run in list(history.bucket.objects):
        if run.last <= base.sequence and data.draw(st.booleans()):
            del history.bucket.objects[run]
    outcome, _ = history.bucket.search(base)
    assert isinstance(outcome, Branch)
    assert outcome.tip == end_of(history.live)
    assert sorted(outcome.chains) == list(range(base.sequence + 1, len(history.live) + 1))


@given(histories(), st.data())
def test_the_search_ends_where_the_branch_meets_ones_own_log(history: History, data: st.DataObject) -> None:
    """However far that is above the base: what lies below is proved, and need not even be in the bucket."""
    whole = data.draw(st.sampled_from(history.logs))
    own = whole[: data.draw(st.integers(0, len(whole)))]
    points = {record.point for record in history.live}
    common = max((record.point for record in own if record.point in points), default=GENESIS, key=lambda p: p.sequence)
    for run in list(history.bucket.objects):
        if run.last < common.sequence and data.draw(st.booleans()):
            del history.bucket.objects[run]
    outcome, read = history.bucket.search(GENESIS, own)
    assert isinstance(outcome, Branch)
    assert outcome.base == common
    assert outcome.tip == end_of(history.live)
    assert sorted(outcome.chains) == list(range(common.sequence + 1, len(history.live) + 1))
    assert all(run.last > common.sequence for run in read[1:]), "beyond the tip, only what this log lacks"


@given(histories(), st.data())
def test_a_log_that_is_not_of_the_branch_is_never_joined_to_it(history: History, data: st.DataObject) -> None:
    points = {record.point for log in history.logs for record in log}
    strangers = sorted(points - {record.point for record in history.live}, key=lambda p: (p.position, p.chain))
    if not strangers:
        return
    base = data.draw(st.sampled_from(strangers))
    outcome, _ = history.bucket.search(base)
    assert isinstance(outcome, Broken)
    assert outcome.why


@given(histories(), st.data())
def test_whatever_is_lost_or_damaged_the_answer_is_the_whole_log_or_none(history: History, data: st.DataObject) -> None:
    bucket = history.bucket
    for run in data.draw(some_of(bucket)):
        match data.draw(st.sampled_from(["damaged", "altered", "renamed"])):
            case "damaged":
                bucket.damaged.add(run)
            case "altered":
                place = data.draw(st.integers(0, len(bucket.objects[run]) - 1))
                old = bucket.objects[run]
                bucket.objects[run] = old[:place] + bytes([old[place] ^ 1]) + old[place + 1 :]
            case _:
                other = data.draw(st.sampled_from(sorted(bucket.objects)))
                bucket.objects[run] = bucket.objects[other]
    outcome, _ = bucket.search()
    if isinstance(outcome, Branch):
        assert outcome.chains == {record.point.sequence: record.point.chain for record in history.live}
    else:
        assert 0 < outcome.sequence <= len(history.live)


@given(histories(), st.data())
def test_a_listing_without_some_objects_never_hides_that_something_is_missing(
    history: History, data: st.DataObject
) -> None:
    """What was counted (`tierfloor`) is in the answer, or is seen to be missing from it."""
    counted = data.draw(st.sampled_from(history.live)).point
    for run in data.draw(some_of(history.bucket)):
        del history.bucket.objects[run]
    outcome, _ = history.bucket.search()
    if isinstance(outcome, Branch) and outcome.contains(counted):
        chains = {record.point.sequence: record.point.chain for record in history.live[: counted.sequence]}
        assert {s: c for s, c in outcome.chains.items() if s <= counted.sequence} == chains


def test_an_orphan_with_higher_numbers_does_not_outrank_a_newer_epoch() -> None:
    """Trap 5: "the highest epoch at each position" would take records 4 and 5 from the dead branch."""
    bucket = PaperBucket()
    old = appended((), 1, [1, 2, 3, 4])
    new = appended(old[:2], 2, [7])
    for group in (*grouped(old, [1, 2, 3, 4, 5]), *grouped(new[2:], [])):
        bucket.put(group)
    outcome, _ = bucket.search()
    assert isinstance(outcome, Branch)
    assert outcome.tip == LogPoint(LogPosition(2, 4), new[-1].point.chain)
    assert [run.last for run in outcome.orphans] == [3, 4, 5]
    assert highest_epoch(bucket.objects) == 2


def test_a_tip_that_cannot_be_read_is_not_passed_over_for_a_lower_one() -> None:
    bucket = PaperBucket()
    log = appended((), 1, [1, 2, 3])
    runs = [bucket.put((record,)) for record in log]
    bucket.damaged.add(runs[-1])
    outcome, _ = bucket.search()
    assert isinstance(outcome, Broken)
    assert (outcome.sequence, outcome.why) == (4, (f"{runs[-1].key}: damaged",))


def test_a_first_record_whose_chain_was_altered_is_the_one_that_is_named() -> None:
    """Behind the part of it that the name of the object repeats."""
    bucket = PaperBucket()
    (record,) = appended((), 1, [])
    run = bucket.put((record,))
    said, chain = bucket.objects[run], record.point.chain.hex().encode()
    bucket.objects[run] = said.replace(chain, chain[:-1] + (b"1" if chain.endswith(b"0") else b"0"))
    outcome, _ = bucket.search()
    assert isinstance(outcome, Broken)
    assert (outcome.sequence, "its branch does not pass" in outcome.why[0]) == (1, True)


def test_two_chains_at_the_tip_are_a_contradiction() -> None:
    """Two standalone nodes of one epoch: a cloned machine."""
    bucket = PaperBucket()
    bucket.put(appended((), 1, [1]))
    bucket.put(appended((), 1, [2]))
    outcome, _ = bucket.search()
    assert isinstance(outcome, Broken)
    assert "two chains at one position" in outcome.why[0]


def test_an_empty_bucket_adds_nothing() -> None:
    log = appended((), 1, [1])
    for base in (GENESIS, end_of(log)):
        assert PaperBucket().search(base)[0] == Branch(base, base, (), {}, (), ())


def test_a_wide_object_spares_reading_the_small_ones() -> None:
    bucket = PaperBucket()
    log = appended((), 1, list(range(30)))
    for record in log:
        bucket.put((record,))
    wide = bucket.put(log)
    outcome, read = bucket.search()
    assert isinstance(outcome, Branch)
    assert read == [wide]
    assert len(outcome.spare) == 31


@pytest.mark.parametrize("cut", [1, 600, 4096])
def test_an_object_that_is_cut_short_or_goes_on_is_not_believed(cut: int) -> None:
    bucket = PaperBucket()
    log = appended((), 1, [1, 2])
    run = bucket.put(log)
    for data in (bucket.objects[run][:-cut], bucket.objects[run] + bytes(cut)):
        with pytest.raises((FormatError, RecordCorrupt)):
            read_run(run, data)
    with pytest.raises((FormatError, RecordCorrupt)):
        read_run(Run(1, 1, 2, run.chain_prefix), bucket.objects[run])
