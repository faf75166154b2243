"""Goal: a repair writes the bytes that were proved, whatever becomes of whoever asked for it."""

import asyncio
import contextlib
import threading
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from replication.core.values import ReplicaId
from replication.mender import Mender
from storage.disk import Buffer, RealDisk
from storage.log import Log
from storage.lostfound import LostAndFound
from storage.segment import segment_name
from storage.staging import Staged, StagingArea
from storage.writer import GroupCommit
from tests.storage.log_helpers import IDENTITY, append

SIZE = 20_000
PATIENCE_S = 10.0


def staged(area: StagingArea, content: bytes) -> Staged:
    receiving = area.begin_raw()
    receiving.write(memoryview(content))
    return receiving.finish()


def test_a_repair_that_nobody_waits_for_any_more_writes_what_was_proved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node stops, while its peers still send: that takes the memory of whatever is let go of."""
    disk = RealDisk(tmp_path)
    log = Log.open(disk, IDENTITY, host_rebooted=False, spares=0)[0]
    for _ in range(2):
        append(log, SIZE)
    log.sync()
    sound, entry = log.read(1), log.entry(1)
    content = b"".join(bytes(part) for part in sound.payload.parts())
    assert entry is not None
    with (tmp_path / segment_name(1)).open("r+b") as file:
        file.seek(entry.offset + SIZE // 2)
        file.write(b"rot")
    assert log.judge(1), "the medium has it damaged"

    area = StagingArea(disk, memory_instance_bytes=1 << 20, pool_bytes=4 << 20)
    group = GroupCommit(log, lambda point: None, lambda error: None)
    replicator: Any = SimpleNamespace(log=log, group=group)
    proved, cancelled = threading.Event(), threading.Event()
    save = LostAndFound.save_damaged

    def saved(kept: LostAndFound, sequence: int, parts: Iterable[Buffer]) -> str:
        """Between the proof of what is offered and its writing, in the log thread."""
        proved.set()
        assert cancelled.wait(PATIENCE_S)
        return save(kept, sequence, parts)

    monkeypatch.setattr(LostAndFound, "save_damaged", saved)

    async def stopped() -> None:
        mender = Mender(replicator)
        work = mender._put_back(1, sound.header, sound.chain, staged(area, content), ReplicaId("b"))  # pyright: ignore[reportPrivateUsage]
        repair = asyncio.get_running_loop().create_task(work)
        while not proved.is_set():
            await asyncio.sleep(0.001)
        repair.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await repair
        staged(area, bytes(SIZE))
        cancelled.set()

    asyncio.run(stopped())
    group.close()
    assert not log.judge(1), "it is mended"
    assert area.statistics().pooled_bytes_in_use == 64 * 1024, "what came last is held, and the repair's is not"
    log.close()
