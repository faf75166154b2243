"""Goal: objects of a tier that were put from a compacted log are read, proved, lent and restored like others; and
whoever gets a stub without its tombstone does not take it for sound.

Method: a compacted log, its records in objects of a directory; a real restore.
"""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from replication.core import effects as fx
from replication.core.events import TierPacked
from replication.packing import Packer
from replication.tier.contents import read_run
from replication.tier.keys import Run, form_of, run_name
from replication.tier.lending import lend
from replication.tier.port import NotThere
from storage.deletion import Covered, Tombstone
from storage.disk import RealDisk
from storage.errors import PayloadGone, RecordCorrupt
from storage.log import Log
from storage.position import EpochSpan
from storage.staging import StagingArea
from tests.restore.archive import STUDY, Archive, groups, put, reopened, restored, uid
from tests.storage.compacting import append_tombstone, compact
from tests.tier.rig import Reached, directory_reached, run

GONE = (5, 6, 700)


@pytest.fixture
def tier(tmp_path: Path) -> Iterator[Reached]:
    reached = directory_reached(tmp_path / "san")
    yield reached
    reached.end()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    """A compacted log; its tombstone lies in its second epoch."""
    made = Archive.begin(tmp_path / "leader")
    made.epoch(1)
    made.instances(800, size=9000)
    covers = [Covered(STUDY, STUDY, uid(s), made.log.read(s).header.dataset) for s in GONE]
    made.epoch(4)
    at = append_tombstone(made.log, Tombstone(tuple(covers), "why", "anna", "", 1, "d1"), 4)
    made.instances(20)
    made.log.sync()
    compact(made.log, GONE, at)
    yield made.log
    made.sealed()


def name(log: Log, first: int, last: int) -> Run:
    end = log.point_at(last)
    assert end is not None
    return run_name(first, end)


def test_an_object_with_stubs_is_proved_record_by_record(log: Log) -> None:
    data = b"".join(log.read_raw(s) for s in range(2, 10))
    links = read_run(name(log, 2, 9), data)
    assert [link.sequence for link in links if link.tombstone] == [5, 6]
    at = data.index(b"This image was deleted")
    with pytest.raises(RecordCorrupt, match="stub"):
        read_run(name(log, 2, 9), data[:at] + b"?" + data[at + 1 :])
    with pytest.raises(RecordCorrupt):
        read_run(name(log, 2, 9), data[:-4096])


def test_the_tier_lends_what_is_left(log: Log, tier: Reached, tmp_path: Path) -> None:
    data = b"".join(log.read_raw(s) for s in range(2, 10))
    run(tier.store.put(name(log, 2, 9).key, data))
    area = StagingArea(RealDisk(tmp_path / "staging"), memory_instance_bytes=64 * 1024, pool_bytes=1 << 20)
    found = run(lend(tier.store, 1, 6, area))
    assert found is not None and found[2] == log.cover(6)[0].tombstone
    assert found[:2] == (log.cover(6)[0].header, log.cover(6)[0].chain)


@pytest.fixture
def packer(log: Log, tier: Reached, tmp_path: Path) -> Iterator[Packer]:
    with ThreadPoolExecutor(1) as threads:
        yield Packer(log, RealDisk(tmp_path / "leader"), tier.store, threads, urgent=lambda: False)


def first_segment(log: Log) -> tuple[EpochSpan, Run, Run]:
    """The records of it, their name with all payloads, and their name as they are."""
    span = log.sealed_at(1)
    assert span is not None
    whole = name(log, span.first, span.last)
    return span, whole, replace(whole, form=form_of([s for s in GONE if s <= span.last]))


def pack(packer: Packer, span: EpochSpan) -> TierPacked:
    return run(packer.pack(fx.PackSegment(1, span.first, span.last), conditional=True))


def test_a_segment_is_packed_and_proved_under_the_name_of_its_form(log: Log, tier: Reached, packer: Packer) -> None:
    span, whole, compacted = first_segment(log)
    assert "no object of the form" in (run(packer.prove(span)) or "")
    run(tier.store.put(whole.key, b"with every payload"))
    assert "no object of the form" in (run(packer.prove(span)) or ""), "evicted it would be read by other offsets"
    done = pack(packer, span)
    assert (done.reason, done.form, done.moved) == ("", compacted.form, log.sealed_records(1).size)
    assert run(packer.prove(span)) is None
    assert run(tier.store.get(compacted.key)) == b"".join(log.sealed_records(1).pieces())
    assert pack(packer, span).moved == 0
    assert run(tier.store.get(whole.key)) == b"with every payload", "who replaces it, the core says"


def test_an_object_with_other_stubs_than_its_name_says_replaces_nothing(
    log: Log, tier: Reached, packer: Packer
) -> None:
    span, whole, compacted = first_segment(log)
    other = replace(whole, form=form_of([5]))
    run(tier.store.put(compacted.key, b"".join(log.sealed_records(1).pieces())))
    assert run(packer.prove(span)) is None
    run(tier.store.put(other.key, run(tier.store.get(compacted.key))))
    held = log.stubs_of
    log.stubs_of = lambda sequence: held(sequence)[:1]  # type: ignore[method-assign]  # as if the table said so
    done = pack(packer, span)
    assert done.lasting and "not those that its name says" in done.reason
    assert "not those that its name says" in (run(packer.prove(span)) or "")
    run(tier.store.delete(other.key))
    done = pack(packer, span)
    assert not done.lasting and "compacted while it was read" in done.reason, (
        "the records are read, not the table alone"
    )
    with pytest.raises(NotThere):
        run(tier.store.head(other.key))


def test_a_restore_brings_the_stubs_back_and_believes_them(log: Log, tier: Reached, tmp_path: Path) -> None:
    asyncio.run(put(tier.store, log, groups(log, 100)))
    report = restored(tier.store, tmp_path / "data")
    assert report.complete and report.records == log.end.sequence
    again = reopened(tmp_path / "data")
    assert again.end == log.end and again.intact
    for sequence in range(1, log.end.sequence + 1):
        assert again.read_raw(sequence) == log.read_raw(sequence)
    with pytest.raises(PayloadGone):
        again.read(5)
    again.close()


def test_a_restore_that_ends_before_the_tombstone_serves_no_stub(log: Log, tier: Reached, tmp_path: Path) -> None:
    runs = asyncio.run(put(tier.store, log, groups(log, 100)))
    for run_ in runs:
        if run_.epoch == 4:
            run(tier.store.delete(run_.key))
    restored(tier.store, tmp_path / "data")
    again = reopened(tmp_path / "data")
    assert again.end.sequence == 801 and set(again.damaged()) == set(GONE) and not again.intact
    with pytest.raises(RecordCorrupt):
        again.read_any(5)
    again.close()
