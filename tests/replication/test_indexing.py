"""The index follows what is committed; where whole segments come in, the copy comes first."""

import asyncio
import time
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from replication.indexing import GIVE_WAY_S, SLICE, Indexing
from replication.recent import Recent
from storage import indexer
from storage.disk import RealDisk
from storage.index import Index
from storage.indexer import Fresh, Indexer
from storage.log import Log
from storage.position import LogPoint
from tests.restore.archive import Archive


def test_it_gives_way_to_a_segment_and_goes_on_in_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began: list[float] = []
    advance = Indexer.advance

    def noted(follower: Indexer, upto: LogPoint, fresh: Mapping[int, Fresh] | None = None) -> int:
        began.append(time.monotonic())
        return advance(follower, upto, fresh)

    monkeypatch.setattr(Indexer, "advance", noted)
    made = Archive.begin(tmp_path)
    made.epoch(1)
    made.instances(2 * SLICE + 10)
    made.log.sync()
    index = Index.open(RealDisk(tmp_path))

    async def followed() -> float:
        tasks: list[asyncio.Task[None]] = []

        def spawn(work: Coroutine[Any, Any, None]) -> None:
            tasks.append(asyncio.get_running_loop().create_task(work))

        recent = Recent(index, lambda staged: None, made.log.last_tombstone, budget_bytes=0, unseen=made.end.sequence)
        follower = Indexing(made.log, index, recent, spawn, ThreadPoolExecutor(1))
        began_at = time.monotonic()
        follower.give_way()
        follower.follow(made.end)
        await asyncio.gather(*tasks)
        follower.close()
        return began_at

    free = asyncio.run(followed()) + GIVE_WAY_S
    assert len(began) == 3 and min(began) >= free
    assert index.applied == made.end
    index.close()
    made.sealed()


@pytest.mark.parametrize("unreadable", [False, True], ids=["another log's", "the log cannot tell"])
def test_an_index_is_not_complete_from_before_it_forgets_until_it_knows_as_much_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unreadable: bool
) -> None:
    """What it knew alone nobody knows meanwhile."""
    made = Archive.begin(tmp_path)
    made.epoch(1)
    made.instances(20)
    made.log.sync()
    known = made.log.point_at(10)
    assert known is not None
    index = Index.open(RealDisk(tmp_path))
    said: list[tuple[int, bool]] = []
    recent = Recent(index, lambda staged: None, made.log.last_tombstone, budget_bytes=0)
    if unreadable:
        Indexer(made.log, index).advance(known)
        point_at = Log.point_at

        def unable(log: Log, sequence: int) -> LogPoint | None:
            return None if sequence == 10 else point_at(log, sequence)  # its entry and the one before are damaged

        monkeypatch.setattr(Log, "point_at", unable)
    else:
        index.apply([], LogPoint(known.position, bytes(32)))
    clear, apply = Index.clear, Index.apply

    def cleared(index: Index) -> None:
        said.append((index.applied.sequence, recent.complete))
        clear(index)
        said.append((index.applied.sequence, recent.complete))

    def applied(index: Index, *what: Any) -> None:
        said.append((index.applied.sequence, recent.complete))
        apply(index, *what)

    monkeypatch.setattr(Index, "clear", cleared)
    monkeypatch.setattr(Index, "apply", applied)
    monkeypatch.setattr(indexer, "BATCH", 4)

    async def followed() -> None:
        tasks: list[asyncio.Task[None]] = []

        def spawn(work: Coroutine[Any, Any, None]) -> None:
            tasks.append(asyncio.get_running_loop().create_task(work))

        follower = Indexing(made.log, index, recent, spawn, ThreadPoolExecutor(1))
        follower.follow(made.end)
        await asyncio.gather(*tasks)
        follower.close()

    asyncio.run(followed())
    assert said[0] == (10, False) and said[1] == (0, False)
    assert not any(complete for at, complete in said if at < 10)
    assert index.applied == made.end and recent.complete
    index.close()
    made.sealed()
