"""Goal: nothing is evicted that is not elsewhere, proved and kept; what is evicted is served as before, or not at all.

Method: a real log, a tier in a directory, and a replicator of which only what eviction asks is there.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from replication.core.values import ClusterState, Identity, ReplicaId
from replication.evicting import BLOCK, Eviction, Evictor, read_record
from replication.lookup import StoredInstance
from replication.packing import Packer
from replication.tier.keys import run_name
from replication.tier.measured import MeasuredStore
from storage.disk import RealDisk
from storage.errors import RecordCorrupt, RecordsElsewhere
from storage.log import Log
from storage.position import EpochSpan
from storage.staging import StagingArea
from tests.core.puppets import identity, state_of
from tests.replication.test_leaving import rot, taken
from tests.storage.log_helpers import IDENTITY, append
from tests.tier.rig import Reached, directory_reached

T = TypeVar("T")


class FullDisk(RealDisk):
    """Never more room than `free`."""

    free = 0

    def free_bytes(self) -> int:
        return self.free


@dataclass
class Node:
    """What eviction needs of a replicator: the log thread is the caller's."""

    disk: FullDisk
    log: Log
    staging: StagingArea
    packer: Packer
    readers: ThreadPoolExecutor
    distant: ThreadPoolExecutor
    me: Identity
    live: dict[ReplicaId, Any]
    state: ClusterState
    floor: int = 0
    closed: bool = False
    compactor: Any = None
    spawned: list[Any] = field(default_factory=list[Any])

    @property
    def core(self) -> Any:
        floor = SimpleNamespace(sequence=1 << 40)  # not on the disk yet: nothing may be evicted by it
        settings = SimpleNamespace(copies_required=2)
        return SimpleNamespace(situation=SimpleNamespace(cluster=self.state, floor=floor, settings=settings))

    @property
    def promises(self) -> Any:
        return SimpleNamespace(floor=SimpleNamespace(sequence=self.floor))

    @property
    def tiering(self) -> Packer:
        return self.packer

    @property
    def group(self) -> Any:
        return SimpleNamespace(call=self._call)

    def _call(self, work: Callable[[], T]) -> "Future[T]":
        done: Future[T] = Future()
        try:
            done.set_result(work())
        except Exception as error:  # noqa: BLE001 - as the log thread does
            done.set_exception(error)
        return done


@dataclass
class Waiting:
    """Says which segments hold payloads that are to go."""

    waiting: set[int]
    letting_go: int = 0
    asked: list[int] = field(default_factory=list[int])

    async def waits(self, span: EpochSpan) -> bool:
        assert self.letting_go == span.first, "it counts as evicted from before it is asked for"
        self.asked.append(span.first)
        return span.first in self.waiting


@dataclass
class Rig:
    node: Node
    evictor: Evictor
    reached: Reached

    async def packed(self, span: EpochSpan) -> str:
        end = self.node.log.point_at(span.last)
        assert end is not None
        key = run_name(span.first, end).key
        await self.reached.store.put(key, b"".join(self.node.log.sealed_records(span.first).pieces()))
        return key

    def sealed(self) -> list[EpochSpan]:
        found = [self.node.log.sealed_at(segment.first) for segment in self.node.log.segments()]
        return [span for span in found if span is not None]


def played(
    directory: Path, scene: Callable[[Rig], Coroutine[Any, Any, None]], settings: Eviction | None = None, large: int = 0
) -> None:
    """A node with a log of 40 records, beside node b, which keeps everything. large: bytes of the first record."""
    reached = directory_reached(directory / "tier")
    disk = FullDisk(directory / "node")
    log, _ = Log.open(disk, IDENTITY, host_rebooted=False, spares=0)
    for number in range(40):
        append(log, large if large and not number else 3000 + number)
    log.sync()
    readers, distant = ThreadPoolExecutor(1, "near"), ThreadPoolExecutor(1, "far")

    async def run() -> None:
        store: MeasuredStore = reached.store
        node = Node(
            disk,
            log,
            StagingArea(disk, memory_instance_bytes=100_000, pool_bytes=1 << 22),
            Packer(log, disk, store, distant, urgent=lambda: False),
            readers,
            distant,
            identity("a"),
            {ReplicaId("b"): SimpleNamespace(evicts=False)},
            state_of("ab", 1),
            floor=40,
        )
        replicator: Any = node
        await scene(Rig(node, Evictor(replicator, settings or Eviction(below_free_bytes=1000), store), reached))

    try:
        asyncio.run(run())
    finally:
        readers.shutdown()
        distant.shutdown()
        log.close()
        reached.end()


def test_the_oldest_segments_go_once_they_are_proved_and_come_back_as_they_were(tmp_path: Path) -> None:
    async def scene(rig: Rig) -> None:
        log, first, second = rig.node.log, *rig.sealed()[:2]
        before = {sequence: log.read_raw(sequence) for sequence in range(1, 41)}
        assert not await rig.evictor.evict_one()
        assert "no such object" in str(rig.evictor.why_not), "nothing goes that the tier does not hold"
        for span in (first, second):
            await rig.packed(span)
            assert await rig.evictor.evict_one()
        assert not await rig.evictor.evict_one()
        assert [s.first for s in log.segments() if s.evicted] == [first.first, second.first]
        for sequence in (1, second.last, 40):
            replicator: Any = rig.node
            stored = await read_record(replicator, sequence, whole_limit=1 << 20)
            assert b"".join(stored.payload.parts()) in before[sequence]
        rig.node.disk.free = 2000
        assert not await rig.evictor.evict_one()
        assert rig.evictor.why_not is None

    played(tmp_path, scene)


def test_an_object_that_is_altered_evicts_nothing(tmp_path: Path) -> None:
    async def scene(rig: Rig) -> None:
        key = await rig.packed(rig.sealed()[0])
        rig.reached.alter(key)
        assert not await rig.evictor.evict_one()
        assert not any(segment.evicted for segment in rig.node.log.segments())

    played(tmp_path, scene)


@pytest.mark.parametrize("change", ["it evicts too", "it is gone", "it is not in sync", "the tier may be alone"])
def test_another_member_must_keep_what_goes(tmp_path: Path, change: str) -> None:
    async def scene(rig: Rig) -> None:
        await rig.packed(rig.sealed()[0])
        node = rig.node
        match change:
            case "it evicts too":
                node.live = {ReplicaId("b"): SimpleNamespace(evicts=True)}
            case "it is gone":
                node.live = {}
            case "it is not in sync":
                node.state = state_of("a", 1)
            case _:
                node.live = {}
        assert await rig.evictor.evict_one() == (change == "the tier may be alone")
        if rig.evictor.why_not is not None:
            assert "only 0 of 1 other members keep all" in rig.evictor.why_not

    played(tmp_path, scene, Eviction(below_free_bytes=1000, tier_alone=change == "the tier may be alone"))


def test_what_holds_payloads_that_are_to_go_stays_and_is_looked_at_again(tmp_path: Path) -> None:
    """The next one goes in the meantime."""

    async def scene(rig: Rig) -> None:
        first, second = rig.sealed()[:2]
        for span in (first, second):
            await rig.packed(span)
        relearning = Waiting({first.first})
        rig.node.compactor = SimpleNamespace(relearning=relearning)
        rounds = [await rig.evictor.evict_one() for _ in range(3)]
        assert rounds == [True, True, False], "passed over, gone, and the third is in no object"
        assert [s.first for s in rig.node.log.segments() if s.evicted] == [second.first]
        assert relearning.asked[:2] == [first.first, second.first] and not relearning.letting_go
        relearning.waiting.clear()
        rig.node.floor = second.last + 1  # none behind it may go
        assert not await rig.evictor.evict_one()
        assert str(rig.evictor.why_not).startswith("what is left is being compacted")
        assert await rig.evictor.evict_one(), "it is looked at again in the next round"
        assert [s.first for s in rig.node.log.segments() if s.evicted] == [first.first, second.first]

    played(tmp_path, scene)


def test_what_the_log_may_be_cut_back_to_stays(tmp_path: Path) -> None:
    """The segment's last record is the last that is known to be committed."""

    async def scene(rig: Rig) -> None:
        span = rig.sealed()[0]
        await rig.packed(span)
        rig.node.floor = span.last
        assert not await rig.evictor.evict_one()
        rig.node.floor = span.last + 1
        assert await rig.evictor.evict_one()

    played(tmp_path, scene)


def test_a_tier_that_is_away_or_lies_keeps_nobody_waiting_and_damages_nothing(tmp_path: Path) -> None:
    async def scene(rig: Rig) -> None:
        log, replicator = rig.node.log, rig.node
        key = await rig.packed(rig.sealed()[0])
        assert await rig.evictor.evict_one()
        far: Any = replicator
        (tmp_path / "tier" / ".perenne-tier").rename(tmp_path / "sentinel")
        held = asyncio.get_running_loop().create_task(read_record(far, 1, whole_limit=1 << 20))
        near = await read_record(far, 40, whole_limit=1 << 20)
        assert near.header.position.sequence == 40
        with pytest.raises(RecordsElsewhere):
            await held
        (tmp_path / "sentinel").rename(tmp_path / "tier" / ".perenne-tier")
        whole = (tmp_path / "tier" / key).read_bytes()
        rig.reached.alter(key)
        with pytest.raises(RecordCorrupt):
            await read_record(far, 1, whole_limit=1 << 20)
        assert log.intact
        (tmp_path / "tier" / key).write_bytes(whole)
        assert (await read_record(far, 1, whole_limit=1 << 20)).header.position.sequence == 1

    played(tmp_path, scene)


def test_a_large_record_is_whole_here_before_it_is_handed_out(tmp_path: Path) -> None:
    async def scene(rig: Rig) -> None:
        log, far = rig.node.log, rig.node
        first = rig.sealed()[0]
        raw = log.read_raw(1)
        await rig.packed(first)
        assert await rig.evictor.evict_one()
        replicator: Any = far
        stored = await read_record(replicator, 1, whole_limit=16 << 20)
        assert rig.evictor.source is not None
        asked = rig.evictor.source.ranges
        assert asked == -(-len(raw) // BLOCK), "blocks are kept: it was read twice, and came once"
        (tmp_path / "tier" / ".perenne-tier").unlink()
        assert b"".join(stored.payload.parts()) in raw
        assert threading.active_count() < 20

    played(tmp_path, scene, large=3 * BLOCK + 77)


def test_a_member_that_was_to_keep_what_goes_must_still_be_there_once_it_is_proved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That takes as long as the segment takes to come back from the tier."""

    async def scene(rig: Rig) -> None:
        await rig.packed(rig.sealed()[0])
        prove = Packer.prove

        async def meanwhile(packer: Packer, span: EpochSpan) -> str | None:
            rig.node.live = {}
            return await prove(packer, span)

        monkeypatch.setattr(Packer, "prove", meanwhile)
        assert not await rig.evictor.evict_one()
        assert not any(segment.evicted for segment in rig.node.log.segments())
        assert "only 0 of 1 other members keep all" in str(rig.evictor.why_not)

    played(tmp_path, scene)


def test_a_large_record_that_rots_on_its_way_out_is_cut_short_and_is_no_damage_of_this_node(tmp_path: Path) -> None:
    async def scene(rig: Rig) -> None:
        log = rig.node.log
        await rig.packed(rig.sealed()[0])
        assert await rig.evictor.evict_one()
        replicator: Any = rig.node
        stored = await read_record(replicator, 1, whole_limit=1 << 20)
        leaving = StoredInstance(stored, log)
        assert sum(map(len, leaving.parts())) == leaving.size
        (spooled,) = (tmp_path / "node/staging").iterdir()
        rot(spooled, 2 * BLOCK)
        assert len(taken(leaving.parts(), RecordsElsewhere)) < leaving.size
        assert log.damaged() == (), "what was fetched is damaged, not the log"

    played(tmp_path, scene, large=3 * BLOCK + 77)
