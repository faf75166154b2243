"""Goal: what leaves is what was handed over, however slowly the peer takes it, and whatever ends the connection."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvloop

from replication.evicting import Spooled
from replication.messages import LookupAnswer
from replication.outbox import Outbox
from storage.digest import digests_of
from storage.disk import RealDisk
from storage.position import LogPosition, RecordHeader, RecordKind
from storage.staging import Staged, StagingArea

MIB = 1024 * 1024
SIZE = 5 * MIB
"""Less than a connection takes without waiting (`HIGH_WATER`), more than a socket does."""


class Rig:
    """A connection whose other end reads nothing before it is told to."""

    def __init__(self, directory: Path, readers: ThreadPoolExecutor) -> None:
        self.staging = StagingArea(RealDisk(directory), memory_instance_bytes=8 * MIB, pool_bytes=64 * MIB)
        self._readers = readers
        self._here, self._there = socket.socketpair()
        self._there.setblocking(False)

    async def opened(self) -> Outbox:
        loop = asyncio.get_running_loop()
        self.transport, _ = await loop.create_connection(asyncio.Protocol, sock=self._here)
        return Outbox(self.transport, self._readers, lambda: None, lambda _: None)

    def staged(self, of: bytes, size: int = SIZE) -> Staged:
        receiving = self.staging.begin_raw()
        receiving.write(memoryview(of * size))
        return receiving.finish()

    async def received(self) -> bytes:
        got = bytearray()
        while self.transport.get_write_buffer_size():
            got += await asyncio.get_running_loop().sock_recv(self._there, MIB)
        return bytes(got)

    def end(self) -> None:
        self.transport.abort()
        self._there.close()


def played(directory: Path, scene: Callable[[Rig, Outbox], Awaitable[None]]) -> None:
    """On the event loop of a node: it keeps what it is given, where that of the standard library copies it."""

    async def run() -> None:
        with ThreadPoolExecutor(1) as readers:
            rig = Rig(directory, readers)
            outbox = await rig.opened()
            try:
                await asyncio.wait_for(scene(rig, outbox), 10)
            finally:
                rig.end()
                await asyncio.sleep(0)

    uvloop.run(run())


def test_a_connection_that_ends_as_a_large_payload_is_to_leave_keeps_nothing_of_it(tmp_path: Path) -> None:
    async def scene(rig: Rig, outbox: Outbox) -> None:
        large = rig.staged(b"A", 9 * MIB)
        outbox.send(answer(), large)
        large.release()
        outbox.close()
        while rig.staging.statistics().files:
            await asyncio.sleep(0.01)

    played(tmp_path, scene)


def answer() -> LookupAnswer:
    return LookupAnswer(1, "present", bytes(32), 0)


def test_an_evicted_record_leaves_as_it_is_though_its_memory_is_used_again(tmp_path: Path) -> None:
    async def scene(rig: Rig, outbox: Outbox) -> None:
        digests = digests_of(RecordKind.INSTANCE, [b"A" * SIZE])
        position = LogPosition(1, 1)
        header = RecordHeader(position, RecordKind.INSTANCE, digests.dataset, digests.digest, 1, "1/2/3.dcm", SIZE)
        outbox.send(answer(), Spooled(header, rig.staged(b"A")))
        while outbox.congested:
            await asyncio.sleep(0.01)
        assert rig.transport.get_write_buffer_size() > SIZE // 2, "the peer takes nothing yet"
        other = rig.staged(b"B")
        altered = (await rig.received()).count(b"B" * 1024)
        assert not altered
        other.release()

    played(tmp_path, scene)
