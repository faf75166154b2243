"""Goal: each operation on the tier is timed, failures are counted and answers are none, and what hangs shows.

Method: the stores of the conformance suite, which all go through the stopwatch; a mount that is taken away and one that
hangs.
"""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from replication.tier.directory import DirectoryStore
from replication.tier.measured import OPERATIONS, MeasuredStore
from replication.tier.port import AlreadyThere, NotThere, Unreachable
from tests.tier.rig import QUICK, Reached, directory_reached, reached_through, run

KEY = "log/000000000001/a-b.tar"


def counted(store: MeasuredStore) -> dict[str, tuple[int, int]]:
    """By operation, how often it was asked for and how often it failed."""
    return {name: (sum(timing.counts), errors) for name, (timing, errors) in store.report().items()}


def test_every_operation_is_counted_and_an_answer_is_no_error(reached: Reached) -> None:
    store = reached.store

    async def work() -> None:
        assert counted(store) == dict.fromkeys(OPERATIONS, (0, 0))
        await store.put(KEY, b"bytes")
        with pytest.raises(AlreadyThere):
            await store.put(KEY, b"other bytes")
        await store.get(KEY)
        await store.get_range(KEY, 1, 2)
        with pytest.raises(NotThere):
            await store.get(f"{KEY}.not")
        await store.head(KEY)
        assert [key async for key in store.list("log/")] == [KEY]
        await store.delete(KEY)
        assert counted(store) == {"put": (2, 0), "get": (3, 0), "head": (1, 0), "list": (1, 0), "delete": (1, 0)}
        assert all(timing.total > 0 for timing, _ in store.report().values())

    run(work())


def test_a_store_that_went_away_is_an_error_of_each_operation(tmp_path: Path) -> None:
    found = directory_reached(tmp_path / "mount", QUICK)
    store = found.store
    (tmp_path / "mount").rename(tmp_path / "away")

    async def listed() -> None:
        assert [key async for key in store.list("")] == []

    async def work() -> None:
        asked: list[Any] = [store.put(KEY, b"x"), store.get(KEY), store.head(KEY), store.delete(KEY), listed()]
        failed = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(one, Unreachable) for one in failed), failed
        assert counted(store) == dict.fromkeys(OPERATIONS, (1, 1))

    run(work())
    found.end()


def test_a_store_that_hangs_counts_with_the_time_that_it_was_given(tmp_path: Path) -> None:
    """Its thread never comes back, as in a dead mount."""
    turns_again = threading.Event()

    class Hanging(DirectoryStore):
        def get(self, key: str) -> bytes:
            turns_again.wait()
            return super().get(key)

    found = reached_through(Hanging(tmp_path), lambda _: None, QUICK)

    async def work() -> None:
        with pytest.raises(Unreachable):
            await found.store.get(KEY)
        timing, errors = found.store.report()["get"]
        assert errors == 1 and timing.total >= QUICK.give_up_s

    try:
        run(work())
    finally:
        turns_again.set()
        found.end()
