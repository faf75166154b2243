"""The proxy before the bucket: what it is told to do to a request happens to it, to that node's alone, and ends."""

import http.client
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from perenne.local.processes import free_ports
from tests.faults.store_lines import SLOW_DOWN, Manner, StoreLines


class Store(ThreadingHTTPServer):
    """Says 200 to everything, and remembers it. came: set with each request."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[tuple[str, str, bytes]] = []
        self.came = threading.Event()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        assert isinstance(self.server, Store)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append((self.command, self.headers.get("Authorization", ""), body))
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"done")
        self.server.came.set()

    do_GET = do_PUT

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


Way = tuple[StoreLines, Store, dict[str, int]]


@pytest.fixture
def way() -> Generator[Way]:
    store, lines = Store(), StoreLines()
    threading.Thread(target=store.serve_forever, args=(0.02,), daemon=True).start()
    lines.port = int(store.server_address[1])
    one, other = free_ports(2)
    ports = {"n1": one, "n2": other}
    for node, port in ports.items():
        lines.listen(("127.0.0.1", port), node)
    try:
        yield lines, store, ports
    finally:
        lines.close()
        store.shutdown()
        store.server_close()


def ask(port: int, method: str = "PUT", body: bytes = b"whole", timeout: float = 20.0) -> tuple[int, bytes]:
    """Status 0: the connection ended without an answer, or nothing was said in time."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, "/key", body, {"Authorization": "AWS4 Signature=0123456789abcdef"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def test_what_is_not_treated_passes_whole(way: Way) -> None:
    lines, store, ports = way
    body = bytes(range(256)) * 40_000
    assert ask(ports["n1"], body=body) == (200, b"done")
    assert store.requests == [("PUT", "AWS4 Signature=0123456789abcdef", body)]
    assert (lines.struck("n1", "n2"), lines.seen("n1", "PUT"), lines.seen("n2", "PUT")) == (0, 1, 0)


def test_one_node_is_answered_by_the_proxy_and_the_other_by_the_store(way: Way) -> None:
    lines, store, ports = way
    lines.treat(Manner(answer=SLOW_DOWN, writes_alone=True), "n1")
    assert ask(ports["n1"])[0] == 503
    assert store.requests == []
    assert ask(ports["n1"], "GET")[0] == 200
    assert ask(ports["n2"])[0] == 200
    assert lines.struck("n1", "n2") == 1
    lines.release()
    assert ask(ports["n1"])[0] == 200


def test_the_store_does_it_and_the_node_hears_nothing(way: Way) -> None:
    lines, store, ports = way
    lines.treat(Manner(mute=True), "n1")
    assert ask(ports["n1"]) == (0, b"")
    assert len(store.requests) == 1


def test_a_signature_that_was_altered_reaches_the_store(way: Way) -> None:
    lines, store, ports = way
    lines.treat(Manner(garbled=True), "n1")
    ask(ports["n1"])
    assert store.requests[0][1] == "AWS4 Signature=0000000089abcdef"


def test_what_is_held_comes_late_although_nobody_listens(way: Way) -> None:
    lines, store, ports = way
    lines.treat(Manner(held=True), "n1")
    assert ask(ports["n1"], timeout=0.2) == (0, b"")
    assert (store.requests, lines.holding) == ([], 1)
    assert lines.release() == 1
    assert store.came.wait(20)
    assert [body for _, _, body in store.requests] == [b"whole"]


def test_what_is_small_passes_where_only_what_is_large_is_held(way: Way) -> None:
    lines, store, ports = way
    lines.treat(Manner(held=True, least_bytes=6), "n1")
    assert ask(ports["n1"]) == (200, b"done")
    assert ask(ports["n1"], body=b"larger", timeout=0.2) == (0, b"")
    assert (len(store.requests), lines.struck("n1"), lines.release()) == (1, 1, 1)


def test_a_line_that_is_cut_ends_without_an_answer_and_the_store_sees_nothing(way: Way) -> None:
    lines, store, ports = way
    lines.treat(Manner(cut=True), "n1")
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, ports["n1"])
        while not lines.struck("n1"):
            assert not asked.done()
        lines.release()
        assert asked.result(20) == (0, b"")
    assert store.requests == []
