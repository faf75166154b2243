"""Goal: each request on the HTTP port is counted under its route's template, method and code; no path becomes a label.

Method: the real server before a node that is made up, with a token, asked over sockets; what it counted.
"""

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry, generate_latest

from monitoring.http import HttpServer, application
from monitoring.requests import CODES, INSTANCE, OTHER, RequestMetrics
from replication.api import InstanceAbsent, InstanceBytes, InstanceDeleted, InstanceUnavailable
from tests.monitoring.test_http import Node, status_of

TOKEN = "let-me-in"
REASONS = {"1.4": InstanceAbsent(), "1.5": InstanceDeleted(), "1.6": InstanceUnavailable("later")}
Key = tuple[str, str, str]


class Various(Node):
    """Its status is broken."""

    async def status(self) -> dict[str, object]:
        raise RuntimeError("on purpose")

    async def read_instance(self, sop_instance_uid: str) -> InstanceBytes:
        if (reason := REASONS.get(sop_instance_uid)) is not None:
            raise reason
        return await super().read_instance(sop_instance_uid)


@asynccontextmanager
async def counting(token: str | None = None) -> AsyncGenerator[tuple[HttpServer, CollectorRegistry]]:
    registry = CollectorRegistry()
    server = HttpServer(Various(), host="127.0.0.1", port=0, token=lambda: token, requests=RequestMetrics(registry))
    await server.start()
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            break
        except ConnectionRefusedError:  # uvloop listens in its own time
            await asyncio.sleep(0.01)
    writer.close()
    try:
        yield server, registry
    finally:
        await server.close()


def counted(registry: CollectorRegistry) -> dict[Key, int]:
    """What is not 0, by route, method and code."""
    found = re.findall(
        r'^perenne_http_requests_total\{code="(\w+)",method="(\w+)",route="([^"]+)"\} (\S+)$',
        generate_latest(registry).decode(),
        re.MULTILINE,
    )
    return {(route, method, code): int(float(count)) for code, method, route, count in found if float(count)}


async def asked(server: HttpServer, method: str, path: str) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    head = await asyncio.wait_for(reader.readline(), 10)
    await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return int(head.split()[1])


def test_every_answer_has_its_route_method_and_code() -> None:
    async def run() -> None:
        async with counting() as (server, registry):
            before = generate_latest(registry).decode().count("\n")
            expected: dict[Key, int] = {}
            for method, path, route, code in [
                ("GET", "/livez", "/livez", 200),
                ("HEAD", "/readyz", "/readyz", 200),
                ("GET", "/replica?max_lag=6", "/replica", 503),
                ("GET", "/replica?lag=6", "/replica", 400),
                ("GET", "/metrics", "/metrics", 200),
                ("GET", "/status", "/status", 500),
                ("GET", "/instances?limit=1", "/instances", 200),
                ("GET", "/instances/1.4", INSTANCE, 404),
                ("GET", "/instances/1.5", INSTANCE, 410),
                ("GET", "/instances/1.6", INSTANCE, 503),
                ("GET", "/instances/patient", INSTANCE, 400),
                ("GET", "/instances/1.2.3", INSTANCE, 200),
                ("POST", "/standing", "/standing", 405),
                ("GET", "/wp-admin/1.2.3", OTHER, 404),
                ("GET", "/instances/1.2.3/frames", OTHER, 404),
            ]:
                assert await asked(server, method, path) == code, path
                expected[route, method if method != "POST" else OTHER, str(code)] = 1
            expected[OTHER, "GET", "404"] = 2
            assert counted(registry) == expected
            text = generate_latest(registry).decode()
            assert text.count("\n") == before, "every series was there from the start"
            assert 'perenne_http_request_seconds_count{route="/instances/{uid}"} 5.0' in text
            assert "1.2.3" not in text and "patient" not in text and "wp-admin" not in text

    asyncio.run(run())


def test_what_is_refused_for_want_of_a_token_counts_as_well() -> None:
    async def run() -> None:
        async with counting(TOKEN) as (server, registry):
            assert b" 401 " in await status_of(server.port, "/status")
            assert b" 401 " in await status_of(server.port, "/instances/1.2.3")
            assert counted(registry) == {("/status", "GET", "401"): 1, (INSTANCE, "GET", "401"): 1}

    asyncio.run(run())


def test_a_client_that_goes_away_counts_with_the_code_that_it_was_given() -> None:
    async def run() -> None:
        async with counting() as (server, registry):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
            writer.write(b"GET /instances/1.2.3 HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readline()
            writer.transport.abort()
            async with asyncio.timeout(10):
                while not counted(registry):
                    await asyncio.sleep(0.01)
            assert counted(registry) == {(INSTANCE, "GET", "200"): 1}

    asyncio.run(run())


def test_each_route_of_the_port_is_in_the_table() -> None:
    assert {getattr(route, "path") for route in application(Node()).routes} | {OTHER} == set(CODES)  # noqa: B009
