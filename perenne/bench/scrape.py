"""What watching costs: a scrape of a node that has indexed many instances, and ingest with a scrape each second."""

import asyncio
import http.client
import itertools
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import uvloop

from perenne.bench.healing import append_instances
from perenne.bench.load import EXPLICIT_LE, SIZES, instances
from perenne.bench.results import Results, say
from perenne.dimse.sender import Sender
from perenne.local.cluster import AE_TITLE, LocalNode
from perenne.local.processes import DidNotStart, Running, free_ports, start, wait_until
from storage.disk import RealDisk
from storage.log import Log, LogIdentity
from storage.metadata import read_identity

SCRAPES: Final = 300
PAUSE_S: Final = 0.01
"""Between two of them: each begins on a node that has gone back to its own work."""
SIZE: Final = 1000
"""Payload bytes of what is indexed: of larger ones no more is known."""


def scrape(count: int, windows: int) -> Results:
    """count: instances that are indexed first. windows: seconds with a scrape, and as many without."""
    with tempfile.TemporaryDirectory(prefix="perenne-bench-") as name, _filled(Path(name), count) as node:
        before = _processor_s(node)
        quiet = _times(node)
        used = _processor_s(node) - before
        found = {
            "instances indexed": float(node.status()["instances"]),
            "median, ms": round(statistics.median(quiet) * 1000, 2),
            "p99, ms": round(statistics.quantiles(quiet, n=100)[98] * 1000, 2),
            "processor time, ms": round(used / SCRAPES * 1000, 2),
            "KiB of text": round(len(node.get("/metrics")[1]) / 1024, 1),
        }
        say(f"scrape: {found}")
        ratios = _ingest(node, windows)
    return {"scrape": found, "ingest with a scrape a second / without": ratios}


def _ingest(node: LocalNode, windows: int) -> dict[str, float]:
    """Windows with a scrape and without follow each other in one stream of stores: what else slows this machine slows
    both.
    """
    found: dict[str, float] = {}
    for label, (sop_class, size) in SIZES.items():
        for associations in (1, 4):
            scraped, left = uvloop.run(_windows(node, sop_class, size, associations, windows))
            found[f"{label} x{associations}"] = round(sum(scraped) / sum(left), 3)
            say(f"{label} x{associations}: {sum(scraped)} stores beside {windows} scrapes, {sum(left)} without")
    return found


async def _windows(
    node: LocalNode, sop_class: str, size: int, associations: int, windows: int
) -> tuple[list[int], list[int]]:
    """Stores in each window of a second with one scrape, and without one; which comes first in a pair is drawn."""
    counts: dict[bool, list[int]] = {True: [], False: []}
    # Over one connection and in this loop, so that it costs the sender next to nothing.
    reader, writer = await asyncio.open_connection(node.host, node.http_port)
    done = itertools.count()
    work = [asyncio.create_task(_stores(node, sop_class, size, done)) for _ in range(associations)]
    await asyncio.sleep(1.0)
    try:
        for _ in range(windows):
            first = bool(secrets.randbelow(2))
            for scraped in (first, not first):
                before, ends = next(done), time.monotonic() + 1.0
                if scraped:
                    writer.write(b"GET /metrics HTTP/1.1\r\nHost: perenne\r\n\r\n")
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = next(line for line in head.lower().splitlines() if line.startswith(b"content-length:"))
                    await reader.readexactly(int(length.partition(b":")[2]))
                await asyncio.sleep(ends - time.monotonic())
                counts[scraped].append(next(done) - before - 1)
    finally:
        writer.close()
        for task in work:
            task.cancel()
        ended = await asyncio.gather(*work, return_exceptions=True)
    if broken := [one for one in ended if not isinstance(one, asyncio.CancelledError)]:
        raise RuntimeError(f"stores ended: {broken}")
    return counts[True], counts[False]


async def _stores(node: LocalNode, sop_class: str, size: int, done: Iterator[int]) -> None:
    """Without end. Raises RuntimeError when one is refused."""
    contexts = [(sop_class, [EXPLICIT_LE])]
    async with await Sender.associate("127.0.0.1", node.dicom_port, contexts, called_ae=AE_TITLE) as to:
        for uid, pieces in instances(sop_class, size):
            answer = await to.store(sop_class, uid, EXPLICIT_LE, pieces)
            if answer.status != 0:
                raise RuntimeError(f"status {answer.status:04X}: {answer.comment}")
            next(done)


def _processor_s(node: LocalNode) -> float:
    """What the node has used since its start, also beside scrapes: its own clockwork is in it."""
    text = node.get("/metrics")[1].decode()
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith("process_cpu_seconds_total "))


def _times(node: LocalNode) -> list[float]:
    """Seconds of each scrape, over one connection, as Prometheus keeps it."""
    connection = http.client.HTTPConnection(node.host, node.http_port, timeout=10)
    found: list[float] = []
    for _ in range(SCRAPES):
        began = time.perf_counter()
        connection.request("GET", "/metrics")
        connection.getresponse().read()
        found.append(time.perf_counter() - began)
        time.sleep(PAUSE_S)
    connection.close()
    return found


@contextmanager
def _filled(directory: Path, count: int) -> Generator[LocalNode]:
    """A standalone node that runs on a log of so many instances, and has indexed them all."""
    dicom, port, peer = free_ports(3)
    node = LocalNode("n1", directory, dicom, port, peer)
    node.config.write_text(
        f'[node]\nid = "n1"\ndata_dir = "{node.data_dir}"\n[cluster]\nallow_solo = true\n'
        f"[peer]\nport = {peer}\n[dimse]\nport = {dicom}\n[http]\nport = {port}\n"
    )
    _started(node).stop()  # it made its directory; what is added now is its own, as it is alone in the in-sync set
    disk = RealDisk(node.data_dir)
    identity = read_identity(disk)
    assert identity is not None, "the node formatted its directory"
    log = Log.open(disk, LogIdentity(identity.cluster_id), host_rebooted=False, spares=0)[0]
    append_instances(log, SIZES["MR 11 KB"][0], SIZE, count)
    log.close()
    running = _started(node)
    try:
        wait_until(lambda: node.status()["instances"] == count, [running], "everything is indexed", 120)
        yield node
    finally:
        running.kill()


def _started(node: LocalNode) -> Running:
    command = [sys.executable, "-m", "perenne.cli", "node", "--config", str(node.config)]
    running = start(command, node.directory / "node.log", node.directory)
    try:
        wait_until(node.ready, [running], "the node takes stores")
    except DidNotStart:
        running.kill()
        raise
    return running
