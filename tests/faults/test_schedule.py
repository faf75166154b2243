"""What the torture plays next follows from what it played: an interrupted run goes on as if it had not been."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from tests.faults.catalogue import CATALOGUE
from tests.faults.schedule import Batch, Schedule

FAULTS = list(CATALOGUE.values())


def outcomes_of(batch: Batch) -> list[dict[str, Any]]:
    return [{"fault": fault.name, "tier": "standby" if batch.tier else ""} for fault in batch.faults]


def played(rounds: int, share: str = "half", after: Sequence[dict[str, Any]] = ()) -> list[dict[str, Any]]:
    outcomes = list(after)
    schedule = Schedule(FAULTS, rounds, share)
    while (batch := schedule.following(outcomes)) is not None:
        assert all(fault.namespaces == batch.namespaces for fault in batch.faults)
        assert not any(fault.fatal for fault in batch.faults[:-1]), "nothing survives a fatal fault"
        assert all(batch.tier or not fault.tier for fault in batch.faults)
        assert not (batch.tier and batch.namespaces)
        outcomes += outcomes_of(batch)
    return outcomes


def test_every_fault_is_played_and_half_of_the_rounds_have_a_tier() -> None:
    outcomes = played(300)
    assert len(outcomes) == 300
    assert {one["fault"] for one in outcomes} == set(CATALOGUE)
    kinds = Counter(one["tier"] for one in outcomes)
    assert abs(kinds["standby"] - kinds[""]) <= 24, "by whole clusters"
    beside = [one["fault"] for one in outcomes if one["tier"] and not CATALOGUE[one["fault"]].tier]
    assert len(beside) >= 45, "the other faults meet a tier as well"


def test_a_run_that_was_interrupted_goes_on_where_it_was() -> None:
    whole = played(120)
    for at in (0, 12, 24, 54):
        batch = Schedule(FAULTS, 120).following(whole[:at])
        assert batch is not None
        assert outcomes_of(batch) == whole[at : at + len(batch.faults)]
    cut = played(
        120, after=whole[:5]
    )  # in the middle of a cluster: another follows, and none of its faults is left out
    for tier in ("standby", ""):
        before, after = ([one for one in outcomes if one["tier"] == tier] for outcomes in (whole, cut))
        least = min(len(before), len(after))
        assert least > 40
        assert before[:least] == after[:least]


def test_a_tier_can_be_had_always_or_never() -> None:
    assert {one["tier"] for one in played(60, "always")} == {"standby"}
    assert {one["tier"] for one in played(60, "never")} == {""}
    only = Schedule([CATALOGUE["leader killed"]], 5, "always").following([])
    assert only is not None
    assert only.tier
    assert len(only.faults) == 5
