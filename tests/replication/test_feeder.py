"""Feeding a follower from a log with damage: what is sound arrives, and the stream outlives the damage."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from replication import feeder as feeding
from replication.core.values import Identity, ReplicaId
from replication.feeder import Feeder
from replication.messages import Append, Message, Segment
from replication.peers import PeerNetwork
from replication.recent import Recent
from replication.troubles import Troubles
from storage.disk import RealDisk
from storage.errors import StorageError
from storage.index import Index
from storage.log import Log
from storage.position import GENESIS
from storage.timing import Timings
from tests.storage.compacting import append_tombstone, compact, covering
from tests.storage.log_helpers import IDENTITY, append

PEER = Identity(ReplicaId("n2"), "disk", "boot")
LINK = 1


@dataclass
class Wire:
    """In place of the network: remembers what it was given to send."""

    sent: list[Message] = field(default_factory=list[Message])

    def send(self, link: int, message: Message, payload: object = None) -> None:
        self.sent.append(message)

    def congested(self, link: int) -> bool:
        return False

    def records(self) -> list[int]:
        return [message.record.sequence for message in self.sent if isinstance(message, Append)]

    def segments(self) -> list[int]:
        return [message.end.sequence for message in self.sent if isinstance(message, Segment)]


@dataclass
class Rig:
    root: Path
    disk: RealDisk
    log: Log
    wire: Wire
    feeder: Feeder

    def damage(self, sequence: int) -> None:
        """Flip a payload byte, and again to undo it."""
        entry = self.log.entry(sequence)
        assert entry is not None
        with (self.root / f"log/{entry.segment:012d}.tar").open("r+b") as file:
            file.seek(entry.offset + entry.length - 4096)
            byte = file.read(1)[0]
            file.seek(-1, 1)
            file.write(bytes([byte ^ 1]))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
def readers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1)


def rig(root: Path, readers: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """Records 1 to 3 in a sealed segment of epoch 1, record 4 in the open one of epoch 2."""
    monkeypatch.setattr(feeding, "BLOCKED_S", 0.02)
    disk = RealDisk(root)
    log, _ = Log.open(disk, IDENTITY, host_rebooted=False, spares=0)
    for epoch in (1, 1, 1, 2):
        append(log, 5000, epoch)
    log.sync()
    recent = Recent(Index.open(disk), lambda staged: None, log.last_tombstone, budget_bytes=0)
    wire = Wire()
    feeder = Feeder(
        log,
        recent,
        cast(PeerNetwork, wire),
        readers,
        end=lambda: log.end.sequence,
        committed=lambda: log.end,
        in_sync=lambda peer: False,
        acknowledged=Timings(),
        troubles=Troubles(lambda: 0),
    )
    return Rig(root, disk, log, wire, feeder)


def test_a_stream_stands_still_at_damage_and_goes_on_when_it_is_gone(
    tmp_path: Path, readers: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        it = rig(tmp_path, readers, monkeypatch)
        it.damage(2)
        with pytest.raises(StorageError):
            it.log.read(2)
        it.feeder.start(LINK, PEER, 2, GENESIS)
        await until(lambda: it.feeder.blocked_at(PEER.id) == 2)
        assert (it.wire.segments(), it.wire.records()) == ([], [1]), "known damage does not leave with its segment"
        it.damage(2)
        await until(lambda: it.wire.records() == [1, 2, 3, 4])
        assert it.feeder.blocked_at(PEER.id) == 0

    asyncio.run(scenario())


def test_a_segment_that_was_refused_goes_record_by_record(
    tmp_path: Path, readers: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        it = rig(tmp_path, readers, monkeypatch)
        it.damage(2)
        it.feeder.start(LINK, PEER, 2, GENESIS)
        await until(lambda: it.wire.segments() == [3])
        it.feeder.stop(LINK)  # as the core does when the follower rejects it
        it.feeder.start(LINK, PEER, 2, GENESIS)
        await until(lambda: it.feeder.blocked_at(PEER.id) == 2)
        assert it.wire.records() == [1]
        assert it.log.damaged() == (2,), "now this node knows, and can act on it"
        assert it.wire.segments() == [3]

    asyncio.run(scenario())


def test_what_is_left_of_a_deleted_instance_travels_without_a_payload(
    tmp_path: Path, readers: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        it = rig(tmp_path, readers, monkeypatch)
        at = append_tombstone(it.log, covering(it.log, [2]), 2)
        compact(it.log, [2], at)
        it.damage(3)
        with pytest.raises(StorageError):
            it.log.read(3)
        it.feeder.start(LINK, PEER, 2, GENESIS)
        await until(lambda: it.wire.records() == [1, 2])
        first, second = (message for message in it.wire.sent if isinstance(message, Append))
        assert (first.record.tombstone, second.record.tombstone) == (0, at)
        assert second.record.header() == it.log.cover(2)[0].header and second.previous.sequence == 1
        it.damage(3)
        await until(lambda: it.wire.records() == [1, 2, 3, 4, at])

    asyncio.run(scenario())


def test_a_segment_goes_out_as_it_was_when_it_is_compacted_meanwhile(
    tmp_path: Path, readers: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = rig(tmp_path, readers, monkeypatch)
    at = append_tombstone(it.log, covering(it.log, [2]), 2)
    before = (tmp_path / "log/000000000001.tar").read_bytes()
    payload = feeding._SegmentFile(it.log.lend_segment(1))  # pyright: ignore[reportPrivateUsage]
    parts = payload.parts()
    begun = bytes(next(parts))
    compact(it.log, [2], at)
    assert begun + b"".join(map(bytes, parts)) == before and payload.size == len(before)
    assert len((tmp_path / "log/000000000001.tar").read_bytes()) < len(before)
