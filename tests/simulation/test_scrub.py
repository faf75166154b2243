"""The scrub on whole simulated clusters: bits that flipped on one disk are found, and made good from the others."""

import pytest

from replication.core.values import TierMode
from storage.table import ENTRIES_OFFSET, MARK_OFFSETS
from tests.simulation.cluster import Shape
from tests.simulation.machine import Machine
from tests.simulation.stage import Stage, process_of
from tests.simulation.tier_stage import alone_with_tier


def staged(nodes: int = 3, tier: TierMode = TierMode.OFF, *, operator: bool = True) -> Stage:
    stage = Stage(operator=operator, shape=Shape(nodes=nodes, scrubs=True, strict=True, tier=tier))
    for number in range(12):
        stage.stored(stage.leader, f"1.{number}", size=9000)
    stage.until(stage.cluster.redundant)
    return stage


def segments(machine: Machine) -> list[str]:
    return sorted(name for name in machine.medium.files if name.startswith("log/0"))


def flip(stage: Stage, machine: Machine, name: str, at: int, *, cached: bool = True) -> None:
    content = machine.medium.files[name]
    content.medium[at] ^= 4
    if cached:
        content.cached[at] ^= 4
    machine.bits_flipped("flipped bits", stage.world.now_us)


def payload_of(stage: Stage, machine: Machine, uid: str) -> tuple[str, int]:
    """Where an instance lies."""
    dataset = stage.workload.versions[uid][0]
    found = ((name, machine.medium.files[name].medium.find(dataset)) for name in segments(machine))
    return next((name, at + 100) for name, at in found if at >= 0)


def mended(stage: Stage, machine: Machine) -> bool:
    """By a scrub and the mender; a new disk is no repair."""
    before = machine.incarnation
    stage.reckon()
    return machine.incarnation == before and not machine.harm and stage.cluster.checks.mended > 0


@pytest.mark.parametrize("who", ["leader", "follower"])
@pytest.mark.parametrize("cached", [True, False])
def test_a_payload_that_rotted_is_found_and_mended(who: str, cached: bool) -> None:
    """cached: also what is in memory. Otherwise a reader that asks the system alone would not notice."""
    with staged() as stage:
        machine = stage.leader if who == "leader" else stage.followers[0]
        flip(stage, machine, *payload_of(stage, machine, "1.2"), cached=cached)
        stage.until(lambda: not process_of(machine).log.damaged() and process_of(machine).replicator.mender.repaired)
        assert mended(stage, machine)


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("where", ["header", "marks", "table"])
def test_what_lies_around_the_records_is_written_anew(where: str, cached: bool) -> None:
    """Also where memory still has what the medium has not: as after a write that the disk dropped."""
    with staged() as stage:
        machine = stage.followers[0]
        at = {"header": 20, "marks": MARK_OFFSETS[0] + 20, "table": ENTRIES_OFFSET + 20}[where]
        flip(stage, machine, segments(machine)[0], at, cached=cached)
        assert mended(stage, machine)


def test_the_last_node_is_mended_from_the_bucket() -> None:
    with staged(2, TierMode.STANDBY, operator=False) as stage:
        machine = stage.leader
        uid = "1.2"
        stage.until(lambda: stage.cluster.bucket.holds_dataset(stage.workload.versions[uid][0]), 60_000)
        follower = alone_with_tier(stage)
        flip(stage, machine, *payload_of(stage, machine, uid))
        stage.until(lambda: process_of(machine).replicator.mender.repaired)
        follower.stops = ""
        assert mended(stage, machine)
