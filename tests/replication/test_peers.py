"""Two nodes and strangers on real sockets."""

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from replication import connection
from replication.arriving import ArrivingSegment
from replication.connection import GREETING_BYTES
from replication.core.values import Identity, ReplicaId
from replication.doorman import Door
from replication.incoming import Payload
from replication.messages import (
    Append,
    FetchEnd,
    Goodbye,
    Heartbeat,
    Hello,
    Message,
    Propose,
    Record,
    Survey,
    to_point,
    to_record,
)
from replication.peers import PeerNetwork
from replication.wire import encode
from storage.digest import digests_of
from storage.disk import RealDisk
from storage.position import GENESIS, LogPosition, RecordHeader, RecordKind, chain_after
from storage.reader import BytesPayload
from storage.staging import Receiving, Staged, StagingArea

CLUSTER = "00000000deadbeef"
MIB = 1024 * 1024


def no_segment(name: str, size: int) -> ArrivingSegment:
    raise AssertionError(f"{name} of {size} bytes: none is sent here")


class Side:
    """One node's network, and everything it was told."""

    def __init__(
        self, directory: Path, name: str, *, cluster: str = CLUSTER, door: Door | None = None, port: int = 0
    ) -> None:
        self.me = Identity(ReplicaId(name), f"{name}-incarnation", f"{name}-boot")
        disk = RealDisk(directory / name)
        self.staging = StagingArea(disk, memory_instance_bytes=4 * MIB, pool_bytes=64 * MIB)
        self.readers = ThreadPoolExecutor(1)
        self.network = PeerNetwork(
            self.me,
            cluster,
            self.staging,
            no_segment,
            self,
            self.readers,
            host="127.0.0.1",
            port=port,
            chance=random.random,
            door=door,
        )
        self.up: dict[int, tuple[Identity, bool]] = {}
        self.down: list[tuple[int, str]] = []
        self.got: list[tuple[Message, bytes]] = []
        self.changed = asyncio.Event()

    def link_up(self, link: int, peer: Identity, dialled: bool) -> None:
        self.up[link] = peer, dialled
        self.changed.set()

    def link_down(self, link: int, reason: str) -> None:
        del self.up[link]
        self.down.append((link, reason))
        self.changed.set()

    def message(self, link: int, peer: Identity, message: Message, payload: Payload) -> None:
        content = b""
        if isinstance(payload, Staged):
            content = b"".join(payload.parts())
            payload.release()
        self.got.append((message, content))
        self.changed.set()

    def writable(self, link: int) -> None:
        self.changed.set()

    def dial(self, *others: "Side") -> None:
        """And they know of it."""
        for other in others:
            other.network.admit([self.me.id])
        self.network.set_members({other.me.id: ("127.0.0.1", other.network.port) for other in others})

    def dialled(self) -> int:
        return next(link for link, (_, dialled) in self.up.items() if dialled)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


def running(
    directory: Path, test: Callable[[Side, Side], Awaitable[None]], *, name: str = "b", cluster: str = CLUSTER
) -> None:
    """Run a test between two listening sides, `a` and `b`."""

    async def main() -> None:
        sides = Side(directory, "a"), Side(directory, name, cluster=cluster)
        try:
            for side in sides:
                await side.network.start()
            await test(*sides)
        finally:
            for side in sides:
                await side.network.close()
                side.readers.shutdown()

    asyncio.run(main())


def proposal(content: bytes, *, digest: bytes | None = None) -> Propose:
    found = digests_of(RecordKind.INSTANCE, [content])
    return Propose(1, "1.2", "1.2.3", "1.4", "1.5", "1.2.4", 0, found.dataset, digest or found.digest)


async def stranger(port: int, sent: bytes) -> bytes:
    """Send something raw, and read until the other side hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    async with asyncio.timeout(20):
        answer = await reader.read()
    writer.close()
    return answer


def hello(**changes: object) -> bytes:
    facts: dict[str, object] = {"cluster_id": CLUSTER, "node_id": "x", "incarnation": "i", "boot": "b"}
    facts |= {"version_min": 1, "version_max": 1} | changes
    return encode(Hello(**facts))  # type: ignore[arg-type]  # made of parts on purpose


def test_a_pair_greets_and_talks_both_ways(tmp_path: Path) -> None:
    async def test(a: Side, b: Side) -> None:
        a.dial(b)
        b.dial(a)
        await a.until(lambda: len(a.up) == 2)
        await b.until(lambda: len(b.up) == 2)
        assert {peer for peer, _ in a.up.values()} == {b.me}
        a.network.send(a.dialled(), Survey(1))
        content = bytes(range(256)) * 1000
        b.network.send(b.dialled(), proposal(content), BytesPayload(content))
        long = FetchEnd(1, "r" * GREETING_BYTES)
        a.network.send(a.dialled(), long)
        await b.until(lambda: b.got == [(Survey(1), b""), (long, b"")])
        await a.until(lambda: a.got == [(proposal(content), content)])

    running(tmp_path, test)


def test_a_large_payload_goes_in_pieces_and_a_heartbeat_overtakes_it(tmp_path: Path) -> None:
    """Larger than all socket and transport buffers together, so that it cannot have left before the heartbeat."""
    beat = Heartbeat(3, to_point(GENESIS))
    content = bytes(MIB) * 48

    async def test(a: Side, b: Side) -> None:
        receiving = a.staging.begin_raw()
        receiving.write(memoryview(content))
        staged = receiving.finish()
        assert not staged.in_memory
        a.dial(b)
        await a.until(lambda: bool(a.up))
        link = a.dialled()
        a.network.send(link, proposal(content), staged)
        assert a.network.congested(link)
        a.network.send(link, FetchEnd(5, ""))
        a.network.send(link, beat)
        staged.release()
        await b.until(lambda: len(b.got) == 3)
        assert [type(message) for message, _ in b.got] == [Heartbeat, Propose, FetchEnd]
        assert b.got[1][1] == content
        assert await a.network.clear(link)
        await asyncio.to_thread(a.readers.submit(lambda: None).result)
        assert a.staging.statistics().files == 0, "its file is gone once its bytes have left"

    running(tmp_path, test)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version_min": 2, "version_max": 9}, b"versions 1 to 1"),
        ({"node_id": "a"}, b"another node a"),
    ],
)
def test_a_greeting_that_does_not_fit_is_told_why_and_cut_off(
    tmp_path: Path, changes: dict[str, object], reason: bytes
) -> None:
    async def test(a: Side, _: Side) -> None:
        a.network.admit([ReplicaId("x")])
        assert reason in await stranger(a.network.port, hello(**changes))
        assert not a.up

    running(tmp_path, test)


STRANGE = [
    pytest.param(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", "does not begin like a frame", id="another protocol"),
    pytest.param(hello(cluster_id="another"), f"this is cluster {CLUSTER}, and x is of another", id="another cluster"),
    pytest.param(hello(), "no node x is registered", id="nobody that ZooKeeper knows"),
    pytest.param(hello() + hello(), "not a greeting", id="two greetings"),
    pytest.param(encode(Survey(1)), "not a greeting", id="no greeting"),
    pytest.param(encode(Goodbye("a" * 99)), "the peer said goodbye: aaa", id="goodbye"),
    pytest.param(hello(node_id="x" * GREETING_BYTES), "beyond all bounds", id="a greeting without end"),
    pytest.param(hello()[:20], "no greeting came", id="half a greeting"),
    pytest.param(b"", "no greeting came", id="silence"),
]


@pytest.mark.parametrize(("sent", "reason"), STRANGE)
def test_a_stranger_is_told_nothing_and_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, sent: bytes, reason: str
) -> None:
    """Not even which cluster, and which node, this is."""
    monkeypatch.setattr(connection, "GREETING_S", 0.2)

    async def test(a: Side, _: Side) -> None:
        assert await stranger(a.network.port, sent) == b""
        async with asyncio.timeout(20):
            while a.network.strangers < 1:
                await asyncio.sleep(0)
        assert not a.up
        (logged,) = (vars(entry) for entry in caplog.records if entry.name == "perenne.peers")
        assert reason in logged["reason"] and "127.0.0.1" in logged["from"]

    running(tmp_path, test)


def test_a_node_that_calls_before_it_is_known_waits_and_is_no_stranger(tmp_path: Path) -> None:
    """All nodes of a new cluster start at once, and one hears of the others a little later than they call."""

    async def test(a: Side, b: Side) -> None:
        b.network.set_members({a.me.id: ("127.0.0.1", a.network.port)})
        async with asyncio.timeout(20):
            while not (called := a.network.waiting()):
                await asyncio.sleep(0)
        a.network.admit([ReplicaId("c")])
        assert a.network.waiting() == called == [b.me.id]
        assert not a.up and not b.up
        a.network.admit([b.me.id])
        await a.until(lambda: bool(a.up))
        await b.until(lambda: bool(b.up))
        assert a.network.waiting() == []
        (link,) = a.up
        a.network.admit([ReplicaId("d")])
        assert list(a.up) == [link], "greeted once"
        assert a.network.strangers == 0

    running(tmp_path, test)


def test_nothing_of_a_stranger_is_staged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(a: Side, _: Side) -> None:
        content = b"an instance that a stranger offers"
        assert await stranger(a.network.port, encode(proposal(content), len(content)) + content) == b""
        assert not staged

    staged: list[RecordKind] = []
    begin = StagingArea.begin_raw

    def noted(area: StagingArea, kind: RecordKind = RecordKind.INSTANCE) -> Receiving:
        staged.append(kind)
        return begin(area, kind)

    monkeypatch.setattr(StagingArea, "begin_raw", noted)
    running(tmp_path, test)


def test_an_older_node_greets_at_once_when_it_is_called(tmp_path: Path) -> None:
    """It does not wait for the caller's greeting: that must be no reason to think ill of it."""

    async def test(a: Side, _: Side) -> None:
        came: asyncio.Queue[bytes] = asyncio.Queue()

        async def called(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(hello())
            await came.put(await reader.readexactly(len(encode(a_greeting))))
            await a.until(lambda: bool(a.up))
            writer.close()

        a_greeting = Hello(CLUSTER, "a", "a-incarnation", "a-boot", *connection.PROTOCOL_VERSIONS)
        server = await asyncio.start_server(called, "127.0.0.1", 0)
        a.network.set_members({ReplicaId("x"): ("127.0.0.1", server.sockets[0].getsockname()[1])})
        await a.until(lambda: bool(a.up))
        assert await came.get() == encode(a_greeting)
        a.network.set_members({})
        server.close()

    running(tmp_path, test)


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", encode(Survey(1)), hello() + b"\0" * 64])
def test_a_stranger_costs_nobody_else_anything(tmp_path: Path, sent: bytes) -> None:
    async def test(a: Side, b: Side) -> None:
        a.dial(b)
        await a.until(lambda: bool(a.up))
        await stranger(b.network.port, sent)
        a.network.send(a.dialled(), Survey(2))
        await b.until(lambda: (Survey(2), b"") in b.got)
        assert not a.down

    running(tmp_path, test)


def test_nodes_of_two_clusters_do_not_talk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Who was called counts it each time; who called says it once."""

    async def test(a: Side, b: Side) -> None:
        a.dial(b)
        async with asyncio.timeout(20):
            while b.network.strangers < 3:
                await asyncio.sleep(0)
        assert not a.up
        assert not b.up
        assert a.network.strangers == 0

    running(tmp_path, test, cluster="another")
    said = [entry.getMessage() for entry in caplog.records]
    assert sum("does not answer the greeting" in text for text in said) == 1


def test_a_link_that_dies_is_made_again(tmp_path: Path) -> None:
    async def test(a: Side, b: Side) -> None:
        a.dial(b)
        await a.until(lambda: bool(a.up))
        first = a.dialled()
        await b.until(lambda: bool(b.up))
        b.network.close_link(next(iter(b.up)), "for the test")
        await a.until(lambda: bool(a.up) and a.dialled() != first)
        assert "for the test" in a.down[0][1]

    running(tmp_path, test)


def test_a_payload_with_a_wrong_digest_closes_the_link_and_is_not_delivered(tmp_path: Path) -> None:
    async def test(a: Side, b: Side) -> None:
        a.dial(b)
        await a.until(lambda: bool(a.up))
        a.network.send(a.dialled(), proposal(b"what was meant"), BytesPayload(b"what was sent!"))
        await b.until(lambda: bool(b.down))
        assert not b.got
        assert "digest" in b.down[0][1]
        assert b.staging.statistics().pooled_bytes_in_use == 0

    running(tmp_path, test)


def record(content: bytes, size: int) -> Record:
    found = digests_of(RecordKind.INSTANCE, [content])
    header = RecordHeader(
        LogPosition(1, 1), RecordKind.INSTANCE, found.dataset, found.digest, 1, "studies/1/2/3.dcm", size
    )
    return to_record(header, chain_after(GENESIS.chain, header))


def test_a_record_of_another_size_than_its_payload_closes_the_link(tmp_path: Path) -> None:
    async def test(a: Side, b: Side) -> None:
        a.dial(b)
        await a.until(lambda: bool(a.up))
        point = to_point(GENESIS)
        a.network.send(a.dialled(), Append(1, point, point, record(b"12345", 6)), BytesPayload(b"12345"))
        await b.until(lambda: bool(b.down))
        assert "a record of 6 bytes came with 5" in b.down[0][1]

    running(tmp_path, test)


def test_a_connection_that_ends_within_a_payload_leaves_nothing_behind(tmp_path: Path) -> None:
    async def test(_: Side, b: Side) -> None:
        b.network.admit([ReplicaId("x")])
        _reader, writer = await asyncio.open_connection("127.0.0.1", b.network.port)
        content = bytes(6 * MIB)  # beyond memory_instance_bytes: in a file
        writer.write(hello() + encode(proposal(content), len(content)) + content[:-1])
        await writer.drain()
        await b.until(lambda: bool(b.up))
        link = next(iter(b.up))
        async with asyncio.timeout(20):
            while b.network.received_bytes(link) < len(content) - 1:
                await asyncio.sleep(0)
        assert b.staging.statistics().files == 1
        writer.close()
        await b.until(lambda: bool(b.down))
        assert b.staging.statistics().files == 0
        assert not b.got

    running(tmp_path, test)


def test_a_taken_port_is_said_at_start(tmp_path: Path) -> None:
    async def main() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            side = Side(tmp_path, "a", port=taken.getsockname()[1])
            with pytest.raises(OSError, match="in use"):
                await side.network.start()
            side.readers.shutdown()

    asyncio.run(main())
