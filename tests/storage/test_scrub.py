"""Goal: a scrub reads everything in time, hinders nobody, and goes on where it was.

Method: the plan alone, in virtual time.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from storage.disk import RealDisk
from storage.scrub import (
    QUIET_S,
    Depth,
    Progress,
    Read,
    ScrubPlan,
    ScrubSettings,
    Wait,
    read_progress,
    write_progress,
)

DAY_S = 86_400.0
SEGMENT = 100
MIB = 1024 * 1024


@dataclass
class Played:
    """A log of `segments` segments of 100 records and 64 MiB each, read in no time."""

    plan: ScrubPlan
    segments: int = 10
    now_s: float = 1000.0
    activity: int = 0
    busy: bool = False
    reads: list[tuple[float, Read]] = field(default_factory=list[tuple[float, Read]])
    left: int = 64 * MIB

    @property
    def wall_s(self) -> float:
        return 1_700_000_000.0 + self.now_s

    def turn(self) -> None:
        self.activity += self.busy
        durable = self.segments * SEGMENT
        act = self.plan.next(self.now_s, self.wall_s, durable=durable, activity=self.activity)
        if isinstance(act, Wait):
            assert act.seconds > 0
            self.now_s += act.seconds
            return
        self.reads.append((self.now_s, act))
        size = min(act.bytes, self.left)
        self.left -= size
        self.plan.read(self.now_s, size)
        if not self.left:
            self.left = 64 * MIB
            first = (act.following - 1) // SEGMENT * SEGMENT + 1
            self.plan.segment_done(act.depth, first + SEGMENT - 1)

    def until(self, seconds: float) -> "Played":
        end = self.now_s + seconds
        while self.now_s < end:
            self.turn()
        return self


def played(**settings: float) -> Played:
    plan = ScrubPlan(ScrubSettings(**settings), Progress(1_700_001_000.0))  # type: ignore[arg-type]  # all numbers
    return Played(plan)


def test_a_light_pass_a_day_and_a_deep_one_a_week_each_reads_every_segment() -> None:
    node = played().until(15 * DAY_S)
    begun = {depth: {act.following for _, act in node.reads if act.depth is depth} for depth in Depth}
    assert begun[Depth.LIGHT] == begun[Depth.DEEP] == {first * SEGMENT + 1 for first in range(10)}
    passes = {
        depth: sum(1 for (_, a), (_, b) in _pairs(node.reads, depth) if b.following < a.following) + 1
        for depth in Depth
    }
    assert passes == {Depth.LIGHT: 15, Depth.DEEP: 3}
    assert node.plan.age_s(Depth.LIGHT, node.wall_s) <= DAY_S + 3600


def _pairs(reads: list[tuple[float, Read]], depth: Depth) -> Iterator[tuple[tuple[float, Read], tuple[float, Read]]]:
    own = [read for read in reads if read[1].depth is depth]
    return zip(own, own[1:], strict=False)


def test_it_reads_no_faster_than_it_may() -> None:
    node = played(light_every_s=0, bytes_per_s=20 * MIB)
    node.until(600)
    (began, _), (ended, _) = node.reads[0], node.reads[-1]
    assert ended - began >= 0.95 * 640 / 20
    assert ended - began <= 1.2 * 640 / 20
    assert max(act.bytes for _, act in node.reads) <= 20 * MIB * 0.2 + 1


def test_without_a_limit_it_does_not_wait() -> None:
    node = played(light_every_s=0, bytes_per_s=0)
    node.until(60)
    assert {at for at, _ in node.reads} == {1000.0}


def test_it_waits_while_somebody_stores_and_goes_on_when_it_is_quiet() -> None:
    node = played()
    node.turn()
    node.busy = True
    node.until(3600)
    assert len(node.reads) <= 1, "it began before it knew"
    node.busy = False
    node.until(QUIET_S + 1)
    assert len(node.reads) > 1


def test_what_is_overdue_goes_on_under_load_at_an_eighth_of_the_rate() -> None:
    node = played(light_every_s=0, deep_every_s=100.0, bytes_per_s=80 * MIB)
    node.busy = True
    node.until(195)
    assert len(node.reads) <= 1
    before = len(node.reads)
    node.until(205)
    read = sum(act.bytes for _, act in node.reads[before:])
    assert len(node.reads) > before
    assert read <= 205 * 10 * MIB
    node.until(120)
    assert node.plan.progress.passes[Depth.DEEP].verified_s is not None, "the pass comes to its end"


def test_a_light_pass_does_not_wait_for_a_deep_one() -> None:
    """Nor does it starve the deep one where it takes longer than its own interval."""
    node = played(deep_every_s=70.0, light_every_s=10.0, bytes_per_s=200 * MIB)
    node.until(200)
    kinds = "".join(act.depth.value[0] for _, act in node.reads)
    assert "dl" in kinds and "ld" in kinds
    assert node.plan.progress.passes[Depth.DEEP].verified_s is not None
    slow = played(deep_every_s=70.0, light_every_s=1.0, bytes_per_s=200 * MIB)
    slow.until(400)
    assert slow.plan.progress.passes[Depth.DEEP].verified_s is not None


def test_its_place_survives_a_restart_and_a_damaged_file_begins_anew(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path)
    node = played(light_every_s=0, bytes_per_s=20 * MIB).until(10)
    there = node.plan.progress.passes[Depth.DEEP].following
    assert there > 1
    write_progress(disk, node.plan.progress.encode())
    again = ScrubPlan(ScrubSettings(light_every_s=0), read_progress(disk, node.wall_s))
    act = again.next(0.0, node.wall_s, durable=1000, activity=0)
    assert isinstance(act, Read) and act.following == there and act.upto == 1000
    content = bytearray((tmp_path / "scrub").read_bytes())
    content[5] ^= 1
    (tmp_path / "scrub").write_bytes(content)
    assert read_progress(disk, 17.0) == Progress(17.0)


def test_a_clock_that_was_set_back_does_not_put_a_scrub_off(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path)
    ahead = Progress(5e9)
    ahead.passes[Depth.DEEP].verified_s = 5e9
    write_progress(disk, ahead.encode())
    plan = ScrubPlan(ScrubSettings(light_every_s=0), read_progress(disk, 1e9))
    assert isinstance(plan.next(0.0, 1e9 + 8 * DAY_S, durable=10, activity=0), Read)


def test_a_clock_that_is_set_back_while_the_node_runs_does_not_put_a_scrub_off() -> None:
    """By a year, as when a machine's battery is empty: the next deep pass comes within its interval, not in a year."""
    plan = played().until(DAY_S).plan
    wall_s = 1_700_000_000.0 + DAY_S - 365 * DAY_S
    back = Played(plan, now_s=DAY_S)
    begun = None
    while begun is None and back.now_s < 9 * DAY_S:
        act = plan.next(back.now_s, wall_s + back.now_s, durable=1000, activity=0)
        begun = back.now_s if isinstance(act, Read) else None
        back.now_s += act.seconds if isinstance(act, Wait) else 0.0
    assert begun is not None
    assert plan.age_s(Depth.DEEP, wall_s + back.now_s) > 0


def test_a_pass_that_is_asked_for_begins_at_once_and_anew() -> None:
    """Of records that a pass had read already, nobody knows how they are now."""
    node = played(light_every_s=0).until(2)
    begun = len(node.reads)
    assert node.reads[-1][1].following > 1, "a deep pass is under way"
    assert node.plan.ask(Depth.DEEP, node.wall_s, durable=1000)
    node.left = 64 * MIB
    asked_s = node.wall_s
    node.until(3600)
    assert node.reads[begun][1].following == 1
    assert node.plan.progress.passes[Depth.DEEP].verified_s == asked_s


def test_what_was_asked_for_is_joined_when_it_is_asked_for_again() -> None:
    node = played(light_every_s=0, deep_every_s=0)
    assert node.plan.ask(Depth.DEEP, node.wall_s, durable=1000)
    node.until(2)
    began, following = node.plan.progress.passes[Depth.DEEP].began_s, node.reads[-1][1].following
    assert following > 1 and not node.plan.ask(Depth.DEEP, node.wall_s, durable=1000)
    node.until(3600)
    assert node.plan.progress.passes[Depth.DEEP].verified_s == began
    assert [a.following <= b.following for (_, a), (_, b) in _pairs(node.reads, Depth.DEEP)].count(False) == 0
    assert node.plan.ask(Depth.DEEP, node.wall_s, durable=1000), "it has ended"


def test_what_was_asked_for_goes_before_what_is_due_and_on_under_load() -> None:
    node = played()
    node.turn()
    node.busy = True
    node.plan.ask(Depth.LIGHT, node.wall_s, durable=1000)
    node.until(7200)
    assert {act.depth for _, act in node.reads[1:]} == {Depth.LIGHT}
    assert node.plan.progress.passes[Depth.LIGHT].verified_s is not None
