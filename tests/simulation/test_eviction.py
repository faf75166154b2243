"""Eviction on whole simulated clusters: what a node let go of is read back, or honestly refused, and never lost."""

import pytest

from replication.core.values import TierMode
from storage.errors import RecordsElsewhere
from tests.simulation.cluster import Shape
from tests.simulation.machine import Machine
from tests.simulation.stage import Stage, process_of
from tests.simulation.tier_stage import bring_back, lose


def staged(*evicting: int, nodes: int = 2) -> Stage:
    return Stage(shape=Shape(nodes=nodes, tier=TierMode.STANDBY, evicting=frozenset(evicting)))


def evicted(machine: Machine) -> list[int]:
    """First records of the segments that it let go of."""
    return [segment.first for segment in process_of(machine).log.segments() if segment.evicted]


def fill(stage: Stage, segments: int = 3) -> list[str]:
    """Store until so many segments are sealed."""
    uids: list[str] = []
    while len(process_of(stage.leader).log.segments()) <= segments:
        uids.append(f"7.{len(uids)}")
        stage.stored(stage.leader, uids[-1], size=9000)
    return uids


def named(stage: Stage) -> set[str]:
    """Who is in the in-sync set, by whatever disk."""
    state = stage.cluster.state
    return {member.id for member in state.in_sync} if state is not None else set()


def reads(stage: Stage, machine: Machine, uids: list[str]) -> int:
    """How many of them a node serves. Other bytes than those that were sent are a violation."""
    answers: list[bool] = []

    async def read(uid: str) -> None:
        answers.append(await stage.workload.read(process_of(machine), uid))

    for uid in uids:
        process_of(machine).loop.create_task(read(uid))
    stage.until(lambda: len(answers) == len(uids), 120_000)
    return sum(answers)


def test_what_was_evicted_is_read_back_also_after_a_restart() -> None:
    with staged(1) as stage:
        (lean,) = (m for m in stage.cluster.machines.values() if m.number == 1)
        uids = fill(stage)
        stage.until(lambda: len(evicted(lean)) >= 2)
        ranges = stage.cluster.bucket.ranges
        assert reads(stage, lean, uids) == len(uids)
        assert stage.cluster.bucket.ranges > ranges, "it was read from another node"
        lose(stage, lean)
        bring_back(stage, lean)
        reads(stage, lean, uids)  # it has no link yet, and no index: it may refuse them
        assert not stage.workload.absent
        stage.until(stage.cluster.redundant)
        stage.run(200)  # until its index has come by them
        assert len(evicted(lean)) >= 2
        assert reads(stage, lean, uids) == len(uids)
        stage.reckon()
        assert stage.cluster.checks.evictions >= 2


def test_while_the_bucket_is_away_what_was_evicted_is_refused_or_read_from_who_keeps_it() -> None:
    with staged(1) as stage:
        (lean,) = (m for m in stage.cluster.machines.values() if m.number == 1)
        keeper = next(m for m in stage.cluster.machines.values() if m is not lean)
        uids = fill(stage)
        stage.until(lambda: len(evicted(lean)) >= 2)
        stage.cluster.bucket.up = False
        assert reads(stage, lean, uids) == len(uids), "the other node keeps everything"
        stage.cut(keeper)
        stage.run(500)
        first = reads(stage, lean, uids[:3])
        assert first == 0, "nobody who has them can be reached"
        assert not process_of(lean).log.damaged(), "what cannot be had is no damage"
        stage.reckon()
        assert reads(stage, lean, uids) == len(uids)


def test_a_node_with_an_empty_disk_is_filled_by_one_that_evicted() -> None:
    """The keeper loses its disk: what its peer let go of comes from the bucket."""
    with staged(1) as stage:
        (lean,) = (m for m in stage.cluster.machines.values() if m.number == 1)
        keeper = next(m for m in stage.cluster.machines.values() if m is not lean)
        uids = fill(stage)
        stage.until(lambda: len(evicted(lean)) >= 2)
        lose(stage, keeper, disk=True)
        bring_back(stage, keeper)
        stage.until(stage.cluster.redundant, 60_000)
        stage.until(lambda: process_of(keeper).replicator.recent.complete)  # its index has come by them
        stage.cluster.bucket.up = False
        assert reads(stage, keeper, uids) == len(uids), "it has them itself"
        stage.reckon()


def test_where_every_node_would_evict_none_does() -> None:
    with staged(1, 2) as stage:
        fill(stage)
        stage.run(5000)
        assert not any(evicted(machine) for machine in stage.cluster.machines.values())
        whys = [process_of(machine).evictor.why_not for machine in stage.cluster.machines.values()]
        assert all(why is not None and "the tier would be alone" in why for why in whys)
        stage.reckon()


def test_nothing_is_evicted_while_only_a_node_outside_the_set_would_keep_it() -> None:
    """The keeper has lost its disk, and hears of nothing: it keeps all, of what it has."""
    with staged(1, 2, nodes=3) as stage:
        keeper = stage.cluster.machines[3]
        lose(stage, keeper, disk=True)
        stage.until(lambda: stage.cluster.leader() is not None and keeper.name not in named(stage))
        stage.cut(keeper)
        bring_back(stage, keeper)
        fill(stage)
        stage.run(5000)
        assert not any(evicted(stage.cluster.machines[number]) for number in (1, 2))
        stage.cluster.net.heal()
        stage.until(lambda: all(evicted(stage.cluster.machines[number]) for number in (1, 2)))
        stage.reckon()


def test_the_event_loop_does_not_wait_for_the_bucket() -> None:
    with staged(1) as stage:
        (lean,) = (m for m in stage.cluster.machines.values() if m.number == 1)
        fill(stage)
        stage.until(lambda: bool(evicted(lean)))
        process = process_of(lean)
        with pytest.raises(RecordsElsewhere, match="event loop"):
            process.loop.enter(lambda: process.log.read(evicted(lean)[0]))
        stage.reckon()


def test_a_leader_numbers_although_the_bucket_lost_what_its_index_would_have_to_read() -> None:
    """It evicted, an object is lost, and its index is made anew: what cannot be read is a hole, no reason to wait."""
    with staged(1, nodes=3) as stage:
        lean = stage.cluster.machines[1]
        uids = fill(stage)
        stage.until(lambda: len(evicted(lean)) >= 2)
        key = next(key for key in sorted(stage.cluster.bucket.objects) if key.startswith("log/"))
        stage.cluster.bucket.lose(key)
        lose(stage, lean)
        bring_back(stage, lean)  # the simulated index lives in memory
        stage.until(stage.cluster.redundant)
        while stage.leader is not lean:
            stage.strike("kill", stage.leader)
            stage.until(lambda: stage.cluster.leader() is not None and stage.cluster.redundant())
        stage.stored(lean, "8.1")
        assert reads(stage, lean, uids) == len(uids), "the others have what is lost"
        stage.reckon()
