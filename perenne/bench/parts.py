"""What one store cannot do without, measured alone on this machine: the floor under every figure of `stores`."""

import mmap
import multiprocessing
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path

from blake3 import blake3

from perenne.bench.load import EXPLICIT_LE, SIZES, instances
from perenne.bench.results import Results
from storage.dataset import scan
from storage.disk import RealDisk

ROUNDS = 400
FILE_BYTES = 256 * 1024 * 1024


def parts() -> Results:
    """Medians in microseconds."""
    results: Results = {}
    with tempfile.TemporaryDirectory(prefix="perenne-bench-") as name:
        for label, (sop_class, size) in SIZES.items():
            _, pieces = next(instances(sop_class, size))
            content = b"".join(pieces)
            results[f"{label}, us"] = {
                "digest": _median(partial(_digest, content)),
                "header scan": _median(partial(scan, content[:65536], EXPLICIT_LE, complete=len(content) <= 65536)),
                "to another process and back": _across(len(content)),
                "synced write, alone": _synced(Path(name), len(content), beside=False),
                "synced write, two at once": _synced(Path(name), len(content), beside=True),
            }
    results["one byte, us"] = {"to another process and back": _across(1)}
    return results


def _digest(content: bytes) -> bytes:
    return blake3(content).digest()


def _median(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    taken: list[float] = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        taken.append((time.perf_counter() - began) * 1e6)
    return round(statistics.median(taken), 1)


def _across(size: int) -> float:
    """So many bytes over loopback TCP, and one byte back: two wake-ups and the copies."""
    here = socket.create_server(("127.0.0.1", 0))
    child = multiprocessing.Process(target=_answer, args=(here, size), daemon=True)
    child.start()
    with here, socket.create_connection(here.getsockname()) as there:
        there.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        content = bytes(size)

        def once() -> None:
            there.sendall(content)
            there.recv(1)

        found = _median(once)
    child.join()
    return found


def _answer(server: socket.socket, size: int) -> None:
    connection, _ = server.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    buffer = memoryview(bytearray(256 * 1024))
    got = 0
    while taken := connection.recv_into(buffer):
        got += taken
        if got >= size:
            got = 0
            connection.sendall(b"\0")


def _synced(directory: Path, size: int, *, beside: bool) -> float:
    """As the log writes a group: payload, group mark and a page of entries, then fdatasync."""
    stop = multiprocessing.Event()
    other = multiprocessing.Process(target=_write_until, args=(directory, size, stop), daemon=True)
    if beside:
        other.start()
    found = _median(_writer(directory, "here", size))
    stop.set()
    if beside:
        other.join()
    return found


def _write_until(directory: Path, size: int, stop: Event) -> None:
    write = _writer(directory, "there", size)
    while not stop.is_set():
        write()


def _writer(directory: Path, name: str, size: int) -> Callable[[], None]:
    disk = RealDisk(directory)
    disk.preallocate(name, FILE_BYTES)
    file = disk.open(name, direct=True)
    whole = -(-size // 4096) * 4096
    content = memoryview(mmap.mmap(-1, whole))
    page = os.urandom(4096)
    at = 1 << 20

    def once() -> None:
        nonlocal at
        file.pwrite([page], 4096)
        file.pwrite([content], at)
        file.pwrite([page], 16384)
        file.sync()
        at = at + whole if at + 2 * whole < FILE_BYTES else 1 << 20

    return once
