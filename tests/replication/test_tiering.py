"""Goal: what goes up to the tier is not let go of by whoever else held it, and whatever becomes of it is answered.

Method: a real tier in a directory, a real staging area, and a replicator of which only what a put asks is there.
"""

import asyncio
import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from replication import tiering
from replication.core import effects as fx
from replication.core import events as ev
from replication.recent import RecentRecord
from replication.tier.keys import Run, run_name
from replication.tier.port import ObjectStore
from replication.tier.probe import Trust
from replication.tiering import Tiering
from storage.disk import RealDisk, RealFile
from storage.position import GENESIS, LogPosition, RecordHeader, RecordKind, chain_after
from storage.rawrecord import WholeRecord
from storage.staging import PIECE, Receiving, Staged, StagingArea
from storage.timing import Timings
from tests.tier.rig import directory_reached

SIZE = 3 * PIECE + 77
PATIENCE_S = 10.0


async def trusting(_: ObjectStore) -> Trust:
    return Trust()


class Rig:
    """One record that is in a file, is not on the disk yet, and goes up."""

    def __init__(self, directory: Path, readers: ThreadPoolExecutor) -> None:
        self.reached = directory_reached(directory / "tier")
        self.disk = RealDisk(directory / "node")
        self.spool = directory / "spool"
        self.spool.mkdir()
        self.staging = StagingArea(self.disk, memory_instance_bytes=PIECE // 4, pool_bytes=PIECE)
        receiving = self.staging.begin_raw()
        receiving.write(memoryview(b"x" * SIZE))
        self.staged: Staged | None = receiving.finish()
        digests = self.staged.dataset_digest, self.staged.digest
        header = RecordHeader(LogPosition(1, 1), RecordKind.INSTANCE, *digests, 1, "1/2/3.dcm", SIZE)
        self.record = RecentRecord(header, chain_after(GENESIS.chain, header), self.staged)
        self.readers = readers
        self.answers: list[ev.Event] = []
        self.closed = False

    def release(self) -> None:
        """As a leader does once it is committed."""
        staged, self.staged, self.record.payload = self.staged, None, None
        if staged is not None:
            staged.release()

    def record_at(self, sequence: int) -> RecentRecord:
        assert sequence == 1, "there is no other"
        return self.record

    def executor(self, name: str, threads: int) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(threads, name)

    def driver(self) -> Tiering:
        log = SimpleNamespace(durable=GENESIS)
        runtime = SimpleNamespace(executor=self.executor, wall_us=lambda: 0)
        replicator: Any = SimpleNamespace(
            log=log,
            disk=self.disk,
            runtime=runtime,
            readers=self.readers,
            staging=self.staging,
            recent=SimpleNamespace(get=self.record_at),
            closed=False,
            feed=self.answers.append,
            stages=SimpleNamespace(tier_put=Timings()),
            drop=Staged.release,
        )
        return Tiering(replicator, self.reached.store, trusting, self.spool)

    async def put(self) -> None:
        await self.driver()._put(fx.PutRun(7, 1, 1))  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_large_record_that_is_committed_while_it_is_written_for_the_tier_goes_up_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Let go of around the read of its second piece."""
    monkeypatch.setattr(tiering, "SPOOLED_BYTES", PIECE)
    pread = RealFile.pread

    with ThreadPoolExecutor(1) as readers:
        rig = Rig(tmp_path, readers)

        def reading(file: RealFile, size: int, offset: int) -> bytes:
            second = offset == PIECE
            if second and when == "before":
                rig.release()
            found = pread(file, size, offset)
            if second and when == "after":
                rig.release()
            return found

        monkeypatch.setattr(RealFile, "pread", reading)
        asyncio.run(rig.put())
    assert [answer.reason for answer in rig.answers if isinstance(answer, ev.TierStored)] == [""]
    key = run_name(1, rig.record.point).key
    assert b"x" * SIZE in (tmp_path / "tier" / key).read_bytes()
    assert rig.disk.list("staging") == [] == list(rig.spool.iterdir()), "and is gone afterwards"
    rig.reached.end()


def test_what_is_fetched_is_let_go_of_only_once_no_thread_writes_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node stops in the middle: memory and files are others' as soon as they are given back."""
    done: list[str] = []
    writing, cancelled = threading.Event(), threading.Event()
    write, abandon = Receiving.write, Receiving.abandon

    def slowly(receiving: Receiving, data: memoryview) -> None:
        writing.set()
        assert cancelled.wait(PATIENCE_S)
        write(receiving, data)
        done.append("written")

    def abandoned(receiving: Receiving) -> None:
        abandon(receiving)
        done.append("abandoned")

    async def stopped(rig: Rig, raw: bytes, run: Run) -> None:
        await rig.reached.store.put(run.key, raw)
        driver = rig.driver()
        monkeypatch.setattr(Receiving, "write", slowly)
        monkeypatch.setattr(Receiving, "abandon", abandoned)
        fetch = asyncio.get_running_loop().create_task(driver._fetch(fx.FetchRun(7, run, 1, 1)))  # pyright: ignore[reportPrivateUsage]
        while not writing.is_set():
            await asyncio.sleep(0.001)
        fetch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await fetch
        cancelled.set()
        while "abandoned" not in done or "written" not in done:
            await asyncio.sleep(0.001)

    with ThreadPoolExecutor(1) as readers:
        rig = Rig(tmp_path, readers)
        assert rig.staged is not None
        raw = b"".join(bytes(part) for part in WholeRecord(rig.record.header, rig.record.chain, rig.staged).parts())
        asyncio.run(asyncio.wait_for(stopped(rig, raw, run_name(1, rig.record.point)), PATIENCE_S))
        rig.release()
    assert done[-1] == "abandoned"
    rig.reached.end()
