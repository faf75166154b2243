"""Goal: whatever becomes of disks, what a standalone node with a tier acknowledged is what a restore brings back.

Method: many machines over one bucket at random (`many_disks.py`), as the simulator does not play a standalone node.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from replication.coordination import standalone
from tests.tier.many_disks import play

SEEDS = 25


async def at_once(work: Callable[..., Any], *arguments: Any) -> Any:
    """In place of a thread: the same seed gives the same run."""
    await asyncio.sleep(0)
    return work(*arguments)


@pytest.fixture(autouse=True)
def no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio, "to_thread", at_once)
    monkeypatch.setattr(standalone, "RETRY_S", 0.0)


@pytest.mark.parametrize("first", [1, 1000])
def test_copies_clones_and_restores_take_nothing_from_what_was_acknowledged(first: int) -> None:
    done = Counter[str]()
    for seed in range(first, first + SEEDS):
        world = asyncio.run(play(seed))
        done += world.done + Counter(promised=len(world.promised))
    assert all(done[name] >= SEEDS // 2 for name in ("promised", "retired", "takeovers", "copies", "restores")), done
