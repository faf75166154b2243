"""What a node swears is known to be on its disk once it is, and not before."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from replication.core import events as ev
from replication.core.effects import Persist
from replication.promises import Promises
from storage.disk import RealDisk
from storage.metadata import NodeIdentity, PromiseFile, write_identity
from storage.position import LogPoint, LogPosition


def test_a_floor_counts_once_it_is_on_the_disk(tmp_path: Path) -> None:
    """Eviction and compaction go by it: the disk may be slow, and the power fail meanwhile."""
    (tmp_path / "log").mkdir()
    disk = RealDisk(tmp_path)
    write_identity(disk, NodeIdentity("cluster", "n1", "disk-1"))
    thread, busy = ThreadPoolExecutor(1), threading.Event()

    def handed(name: str, threads: int) -> ThreadPoolExecutor:
        return thread

    async def scene() -> None:
        stored: asyncio.Queue[ev.Event] = asyncio.Queue()
        runtime: Any = SimpleNamespace(executor=handed)
        promises = Promises(PromiseFile(disk), runtime, stored.put_nowait)
        before, floor = promises.floor, LogPoint(LogPosition(3, 40), bytes(32))
        thread.submit(busy.wait)
        promises.persist(Persist(3, floor, 0))
        assert promises.floor == before
        busy.set()
        assert await stored.get() == ev.PromiseStored(3)
        assert promises.floor == floor
        assert PromiseFile(disk).value.floor == floor

    try:
        asyncio.run(scene())
    finally:
        busy.set()
        thread.shutdown()
