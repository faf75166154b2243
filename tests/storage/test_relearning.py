"""Goal: an evicted segment gets the places of another object of the same records, whose new stubs this log proves, or
stays as it is; whoever reads meanwhile gets what is there.

Method: real logs, on a disk in memory that is stopped after every operation. The objects are kept by the test.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest

from replication.tier.contents import Link, read_run
from replication.tier.keys import form_of, run_name
from storage.disk import Disk
from storage.errors import LogContradiction, PayloadGone, RecordCorrupt, RecordsElsewhere
from storage.evicted import Stub
from storage.log import Log
from storage.position import LogPoint
from storage.reader import FilePayload, StoredStub
from tests.storage.compacting import bury, compact, filled, opened
from tests.storage.log_helpers import append
from tests.storage.memory_disk import MemoryDisk
from tests.storage.recording_disk import killed, killed_inside_last_write, power_cuts

RECORDS = 30
GONE = {2, 3}


@dataclass
class Objects:
    """By first record and stubs, as their names say."""

    data: dict[tuple[int, tuple[int, ...]], bytes] = field(default_factory=dict[tuple[int, tuple[int, ...]], bytes])

    asked: Callable[[], None] | None = None
    """What happens when something is asked of them the next time."""

    def read(self, stub: Stub, stubs: Sequence[int], offset: int, size: int) -> bytes:
        asked, self.asked = self.asked, None
        if asked is not None:
            asked()
        found = self.data.get((stub.first, tuple(stubs)))
        if found is None:
            raise RecordsElsewhere(stub.first, "no such object", gone=True)
        return found[offset : offset + size]

    def forget(self, stub: Stub, stubs: Sequence[int]) -> None: ...

    def links(self, last: LogPoint, stubs: Sequence[int], first: int = 1) -> tuple[Link, ...]:
        return read_run(run_name(first, last, form_of(stubs)), self.data[first, tuple(stubs)])


@dataclass
class Scene:
    """A log whose first segment is evicted with all payloads, beside the objects of both forms."""

    disk: MemoryDisk
    log: Log
    objects: Objects
    tombstone: int
    last: LogPoint

    @property
    def new(self) -> tuple[Link, ...]:
        return self.objects.links(self.last, sorted(GONE))

    def reopened(self, disk: Disk, *, rebooted: bool = True) -> Log:
        log = opened(disk, host_rebooted=rebooted, floor=self.tombstone)
        log.elsewhere.source = self.objects
        return log


def scene() -> Scene:
    disk, objects = MemoryDisk(), Objects()
    log = opened(disk)
    filled(log, RECORDS)
    at = bury(log, GONE | {4})
    sealed = log.sealed_records(1)
    last = log.point_at(sealed.span.last)
    assert last is not None and sealed.span.last > max(GONE)
    objects.data[1, ()] = b"".join(sealed.pieces())
    for gone in (GONE, {3, 4}):
        twin = opened(disk.copy(), floor=at)
        compact(twin, gone, at)
        objects.data[1, tuple(sorted(gone))] = b"".join(twin.sealed_records(1).pieces())
    log.elsewhere.source = objects
    log.evict(1)
    return Scene(disk, log, objects, at, last)


def test_what_is_left_is_read_by_the_new_places_and_what_is_gone_says_so() -> None:
    found = scene()
    log, at = found.log, found.tombstone
    before = {sequence: log.read_raw(sequence) for sequence in range(1, at + 1)}
    points = [log.point_at(sequence) for sequence in range(at + 1)]
    relearned = log.prepare_relearning(1, found.new)
    assert {s: c.sop_instance_uid for s, c in relearned.stubs.items()} == {s: f"1.2.3.{s}" for s in GONE}
    assert {s: log.read_raw(s) for s in before} == before, "nothing is changed yet"
    log.adopt_relearning(relearned)
    del found.objects.data[1, ()]
    for again in (False, True):
        log = found.reopened(found.disk) if again else log
        assert [log.point_at(sequence) for sequence in range(at + 1)] == points
        assert all(log.read_raw(s) == raw for s, raw in before.items() if s not in GONE)
        for sequence in GONE:
            assert log.is_stub(sequence) and log.is_evicted(sequence)
            assert isinstance(log.read_any(sequence), StoredStub)
            assert log.cover(sequence)[1].sop_instance_uid == f"1.2.3.{sequence}"
            with pytest.raises(PayloadGone):
                log.read(sequence)
            with pytest.raises(PayloadGone):
                log.read_head(sequence, 100)
        assert log.stubs_of(1) == sorted(GONE) and log.damaged() == () and log.intact
        if not again:
            log.close()
    log.close()


def test_relearning_survives_a_stop_after_every_operation() -> None:
    found = scene()
    log, at = found.log, found.tombstone
    before = {sequence: log.read_raw(sequence) for sequence in range(1, at + 1)}
    images: list[MemoryDisk] = []
    found.disk.after = lambda kind, name: images.append(found.disk.copy())
    log.adopt_relearning(log.prepare_relearning(1, found.new))
    after = {sequence: log.read_raw(sequence) for sequence in GONE}
    assert len(images) > 1
    rng = random.Random(4)
    forms: set[int] = set()
    for image in images:
        stops = [killed(image), *killed_inside_last_write(image, rng), *power_cuts(image, rng, 3)]
        for number, stopped in enumerate(stops):
            stopped.close()
            again = found.reopened(stopped, rebooted=number > 0)
            assert again.damaged() == () and again.end.sequence == at and again.is_evicted(1)
            stubs = again.stubs_of(1)
            assert stubs in ([], sorted(GONE)), "the one table or the other"
            assert {s: again.read_raw(s) for s in before} == before | (after if stubs else {})
            forms.add(len(stubs))
            assert not [name for name in stopped.list("log") if not name.endswith(".tar")], "nothing is left behind"
            again.close()
    assert forms == {0, len(GONE)}, "both were met"


@pytest.mark.parametrize("wrong", ["tombstone", "branch", "short", "chain", "nothing new", "less", "not evicted"])
def test_what_this_log_does_not_prove_is_not_learned(wrong: str) -> None:
    found = scene()
    log, links = found.log, list(found.new)
    match wrong:
        case "tombstone":  # it is no tombstone, or does not cover it
            links[1] = replace(links[1], tombstone=found.tombstone - 1)
        case "branch":  # with the same stubs, and another record behind them
            other = opened(MemoryDisk())
            for number in range(RECORDS):
                append(other, 2000 + 300 * number - (number > 3))
            other.sync()
            compact(other, GONE, bury(other, GONE))
            found.objects.data[1, (2, 3)] = b"".join(other.sealed_records(1).pieces())
            last = other.point_at(other.sealed_records(1).span.last)
            assert last is not None
            links = list(found.objects.links(last, (2, 3)))[: len(links)]
            assert len(links) == found.last.sequence, "as many records as here"
        case "short":
            links = links[:-1]
        case "chain":
            links[-1] = replace(links[-1], chain=bytes(32))
        case "nothing new":
            links = list(found.objects.links(found.last, ()))
        case "less":
            log.adopt_relearning(log.prepare_relearning(1, links))
            links = list(found.objects.links(found.last, (3, 4)))
        case _:
            links = links[:1]
    before = {name: found.disk.read(f"log/{name}") for name in found.disk.list("log")}
    with pytest.raises((RecordCorrupt, LogContradiction)):
        log.prepare_relearning(log.segments()[1].first if wrong == "not evicted" else 1, links)
    assert {name: found.disk.read(f"log/{name}") for name in found.disk.list("log")} == before
    log.close()


def test_a_reader_that_holds_the_old_places_reads_once_more_when_their_object_is_gone() -> None:
    found = scene()
    log, kept = found.log, found.objects.data.pop((1, ()))
    relearned = log.prepare_relearning(1, found.new)
    with pytest.raises(RecordsElsewhere):
        log.read(4)

    found.objects.asked = lambda: log.adopt_relearning(relearned)
    assert log.read_raw(4) in kept
    assert log.stubs_of(1) == sorted(GONE) and log.damaged() == ()
    log.close()


def test_a_segment_that_came_back_meanwhile_keeps_its_records() -> None:
    found = scene()
    log, at = found.log, found.tombstone
    before = {sequence: log.read_raw(sequence) for sequence in range(1, at + 1)}
    relearned = log.prepare_relearning(1, found.new)
    name = relearned.name
    content = found.disk.read(name)
    log.drop_relearning(relearned)
    assert not found.disk.exists(name)
    log.adopt_compaction(log.prepare_compaction(1, dict.fromkeys(GONE, at), bring_back=True))
    assert not log.is_evicted(1) and log.stubs_of(1) == sorted(GONE)
    found.disk.write_atomically(name, content)
    with pytest.raises(LogContradiction, match="anew"):
        log.adopt_relearning(relearned)
    assert not found.disk.exists(name)
    found.objects.data.clear()
    assert all(log.read_raw(s) == raw for s, raw in before.items() if s not in GONE)
    log.close()
    assert found.reopened(found.disk).read_raw(4) == before[4], "it lies here"


def test_what_the_tier_has_damaged_does_not_come_back() -> None:
    found = scene()
    log, at = found.log, found.tombstone
    whole = found.objects.data[1, ()]
    found.objects.data[1, ()] = whole[:9000] + b"?" + whole[9001:]
    with pytest.raises(RecordCorrupt):
        log.prepare_compaction(1, dict.fromkeys(GONE, at), bring_back=True)
    with pytest.raises(RecordsElsewhere):
        log.prepare_compaction(1, dict.fromkeys(GONE, at))
    assert log.is_evicted(1) and log.stubs_of(1) == [] and log.damaged() == ()
    assert all(name.endswith(".tar") for name in found.disk.list("log"))
    log.close()


def test_a_large_payload_under_way_says_so_when_its_object_is_gone() -> None:
    found = scene()
    stored = found.log.read(5, whole_limit=10)
    assert isinstance(stored.payload, FilePayload)
    found.objects.data.pop((1, ()))
    with pytest.raises(RecordsElsewhere):
        list(stored.payload.parts())
    found.log.close()
