"""Hunts find what they are sent for, and what strikes a node's request is counted by what that node does."""

import pytest

from tests.simulation.hunt import Quarry
from tests.simulation.plan import Order
from tests.simulation.run import Result, run

RUNS = 8


@pytest.mark.parametrize(
    "quarry",
    [
        ("depose", "taking the lead"),
        ("a write is lost", "after the lead"),
        ("a read is stale", "filling the tier"),
        ("a listing is stale", "no leader"),
        ("rot", "leader recovering"),
    ],
    ids="@".join,
)
def test_a_hunt_brings_together_what_chance_seldom_does(quarry: Quarry) -> None:
    hunted = [run(Order(seed, quarry)) for seed in range(RUNS)]
    assert not [result.violation for result in hunted if result.violation]
    assert _struck(hunted, quarry) >= 3 * _struck([run(seed) for seed in range(RUNS)], quarry) + 1


def _struck(results: list[Result], quarry: Quarry) -> int:
    return sum(result.struck.get(quarry, 0) for result in results)
