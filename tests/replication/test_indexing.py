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
from storage.disk import RealDisk
from storage.index import Index
from storage.indexer import Fresh, Indexer
from storage.position import LogPoint
from tests.restore.archive import Archive


def test_it_gives_way_to_a_segment_and_goes_on_in_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began: list[float] = []
    advance = Indexer.advance

    def noted(indexer: Indexer, upto: LogPoint, fresh: Mapping[int, Fresh] | None = None) -> int:
        began.append(time.monotonic())
        return advance(indexer, upto, fresh)

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
