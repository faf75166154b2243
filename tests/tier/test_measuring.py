"""Whether an object is as long as its records: what a log says of it, and what real stores answer."""

import os
from pathlib import Path

from replication.tier.keys import Run
from replication.tier.measuring import length_of, unlike
from storage.log import Log
from storage.position import EpochSpan
from tests.restore.archive import Archive, put
from tests.tier import test_packing, test_stubs
from tests.tier.rig import directory_reached, run
from tests.tier.test_packing import Holder

holder, log = test_packing.holder, test_stubs.log


def measured(holder: Holder, *runs: Run) -> tuple[Run, ...]:
    return run(unlike(holder.reached.store, holder.log, runs, holder.reached.pool))


def test_an_object_that_is_shorter_or_longer_than_its_records_is_named(holder: Holder) -> None:
    first, second, *_ = holder.spans()
    assert not holder.pack(first).reason
    end = holder.log.end.sequence
    newest = holder.name(EpochSpan(4, end, end))
    run(holder.reached.store.put(newest.key, holder.log.read_raw(end)))
    sound = [holder.name(first), newest]
    assert measured(holder, *sound) == ()
    (short, long) = holder.name(second), holder.name(EpochSpan(1, second.first, second.first))
    run(holder.reached.store.put(short.key, holder.records(second.first, second.last)[:-4096]))
    run(holder.reached.store.put(long.key, holder.records(second.first, second.first) + bytes(4096)))
    assert measured(holder, *sound, short, long) == (short, long)


def test_a_file_that_was_cut_is_named(tmp_path: Path) -> None:
    """Behind the store's back: it tells by its own seal."""
    made = Archive.begin(tmp_path / "data")
    made.epoch(1)
    made.instances(30)
    tier = directory_reached(tmp_path / "san")
    one, other = run(put(tier.store, made.log, [(1, 15), (16, 31)]))
    path = tmp_path / "san" / other.key
    path.chmod(0o644)
    os.truncate(path, path.stat().st_size - 5000)
    assert run(unlike(tier.store, made.log, [one, other], tier.pool)) == (other,)
    tier.end()
    made.sealed()


def test_what_is_listed_and_is_not_there_any_more_is_no_fault_of_length(holder: Holder) -> None:
    assert measured(holder, holder.name(holder.spans()[0])) == ()


def test_of_another_branch_or_of_two_segments_a_log_says_nothing(holder: Holder) -> None:
    first, second, *_ = holder.spans()
    own = holder.name(first)
    assert length_of(holder.log, own, {}) == len(holder.records(first.first, first.last))
    assert length_of(holder.log, Run(own.epoch, own.first, own.last, bytes(8)), {}) is None
    assert length_of(holder.log, holder.name(EpochSpan(1, first.first, second.last)), {}) is None
    assert length_of(holder.log, Run(4, own.first, 10_000, bytes(8)), {}) is None


def test_of_a_compacted_segment_the_form_that_lies_here_is_known(log: Log) -> None:
    _, whole, compacted = test_stubs.first_segment(log)
    assert length_of(log, compacted, {}) == log.sealed_records(1).size
    assert length_of(log, whole, {}) is None


__all__ = ["holder", "log"]
