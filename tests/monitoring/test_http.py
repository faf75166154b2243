"""Goal: slow, idle and greedy HTTP clients cost little, and health checks always answer.

Method: the real server with a node made up for it, and plain sockets that do not behave.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncGenerator, Iterator

import pytest

from monitoring.connections import CONNECTIONS, READS, Patience
from monitoring.http import HttpServer
from replication.api import InstanceBytes
from storage.index import Selection

SIZE = 15 * 1024 * 1024
PIECE = 256 * 1024
QUICK = Patience(request=1.0, stalled=1.0, look=0.1)


class Large:
    """An instance that counts the pieces that were taken of it."""

    size = SIZE

    def __init__(self) -> None:
        self.taken = 0

    def parts(self) -> Iterator[memoryview]:
        for _ in range(SIZE // PIECE):
            self.taken += 1
            yield memoryview(bytes(PIECE))


class Node:
    """A node that is well."""

    def __init__(self) -> None:
        self.reads: list[Large] = []

    def metrics(self) -> bytes:
        return b""

    def why_not_live(self) -> str | None:
        return None

    def why_not_ready(self) -> str | None:
        return None

    def is_leader(self) -> bool:
        return True

    def why_not_replica(self, most: int | None) -> str | None:
        return f"7 behind, more than {most}" if most is not None and most < 7 else None

    async def status(self) -> dict[str, object]:
        return {}

    async def list_instances(self, where: Selection) -> dict[str, object]:
        return {"limit": where.limit}

    async def standing(self) -> dict[str, object]:
        return {}

    async def read_instance(self, sop_instance_uid: str) -> InstanceBytes:
        self.reads.append(Large())
        return self.reads[-1]


@contextlib.asynccontextmanager
async def serving(node: Node, patience: Patience | None = None) -> AsyncGenerator[HttpServer]:
    server = HttpServer(node, host="127.0.0.1", port=0, patience=patience)
    await server.start()
    await asyncio.sleep(0.2)
    try:
        yield server
    finally:
        await server.close()


def connected(port: int) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", port))
    made.setblocking(False)
    return made


async def status_of(port: int, path: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return answer


@pytest.mark.parametrize("count", [205, CONNECTIONS + 50])
def test_health_answers_beside_any_number_of_idle_connections(count: int) -> None:
    async def run() -> None:
        async with serving(Node()) as server:
            idle: list[socket.socket] = []
            for number in range(count):
                idle.append(connected(server.port))
                if number % 50 == 0:
                    await asyncio.sleep(0.05)
            await asyncio.sleep(0.3)
            for path in ("/livez", "/readyz", "/leader", "/replica"):
                assert b" 200 OK" in await status_of(server.port, path)
            for one in idle:
                one.close()

    asyncio.run(run())


@pytest.mark.parametrize("begin", [b"", b"GET /livez HT", b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\nGET /li"])
def test_a_request_that_does_not_come_whole_is_given_up(begin: bytes) -> None:
    async def run() -> None:
        async with serving(Node(), QUICK) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(begin)
            with contextlib.suppress(ConnectionError):
                await asyncio.wait_for(reader.read(), 5)
            writer.close()

    asyncio.run(run())


def test_readers_that_do_not_read_are_few_and_are_cut_off() -> None:
    async def run() -> None:
        node = Node()
        async with serving(node, QUICK) as server:
            readers = [connected(server.port) for _ in range(120)]
            for one in readers:
                one.sendall(b"GET /instances/1.2.3 HTTP/1.1\r\nHost: x\r\n\r\n")
            await asyncio.sleep(0.8)
            assert len(node.reads) == READS
            refused = await status_of(server.port, "/instances/1.2.3")
            assert b" 503 " in refused and b"retry-after: 2" in refused.lower()
            assert b" 200 OK" in await status_of(server.port, "/livez")
            assert max(read.taken for read in node.reads) < SIZE // PIECE
            deadline = time.monotonic() + 10
            while b" 503 " in await status_of(server.port, "/instances/1.2.3"):
                assert time.monotonic() < deadline, "those who take nothing are cut off"
                await asyncio.sleep(0.2)
            for one in readers:
                one.close()

    asyncio.run(run())


def test_a_slow_reader_that_does_read_is_served_whole() -> None:
    async def run() -> None:
        async with serving(Node(), QUICK) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=64 * 1024)
            writer.write(b"GET /instances/1.2.3 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            got = 0
            while piece := await reader.read(4 * PIECE):
                got += len(piece)
                await asyncio.sleep(0.01)
            assert got > SIZE
            writer.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("query", "code"),
    [("", 200), ("?max_lag=7", 200), ("?max_lag=6", 503), ("?max_lag=0", 503)]
    + [(f"?{bad}", 400) for bad in ("max_lag=", "max_lag=-1", "max_lag=1s", "max_lag=1&max_lag=9", "lag=5", "max_lag")],
)
def test_a_replica_is_asked_with_a_limit_in_records(query: str, code: int) -> None:
    async def run() -> None:
        async with serving(Node()) as server:
            answer = await status_of(server.port, f"/replica{query}")
            assert f" {code} ".encode() in answer.splitlines()[0]
            body = answer.partition(b"\r\n\r\n")[2]
            said = {200: b"ok\n", 503: b"behind, more than", 400: b"max_lag=N"}
            assert said[code] in body

    asyncio.run(run())


def test_it_listens_on_ipv6_and_names_the_address_that_is_taken() -> None:
    async def run() -> None:
        server = HttpServer(Node(), host="::1", port=0)
        await server.start()
        await asyncio.sleep(0.2)
        reader, writer = await asyncio.open_connection("::1", server.port)
        writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b" 200 OK" in await asyncio.wait_for(reader.read(), 10)
        writer.close()
        with pytest.raises(OSError, match=f"::1 port {server.port}: "):
            await HttpServer(Node(), host="::1", port=server.port).start()
        await server.close()

    asyncio.run(run())
