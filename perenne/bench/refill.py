"""`script/bench refill`: an empty node that its peer fills, beside a plain copy of as many bytes over the same path.

The path is the loopback, and once more, as root, a line of one gigabit per second. The copy is two processes and one
TCP connection: sendfile here; recv, write and fsync there. The node counts from when its peer begins to fill it until
it is a member of the in-sync set again, with every record proved and on stable storage; the index is made beside that.
"""

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from shutil import rmtree
from typing import Any, Final

import uvloop

from perenne.bench.cluster import cluster_of
from perenne.bench.line import as_asked, both_ways
from perenne.bench.load import SIZES, fill
from perenne.bench.results import Results, say
from perenne.local.cluster import AE_TITLE, LocalCluster, LocalNode

_PIECE: Final = 4 * 1024 * 1024
_LIMIT_S: Final = 600.0


def refill(count: int, repeat: int) -> Results:
    """Medians of so many rounds. count: of small instances; of large ones about as many bytes."""
    return both_ways("perenne.bench.refill", measured, count, repeat)


def measured(label: str, count: int, repeat: int, over: str) -> Results:
    """over: what path this is, for people."""
    sop_class, size = SIZES[label]
    rounds: list[tuple[float, float, float]] = []
    with tempfile.TemporaryDirectory(prefix="perenne-bench-") as name, cluster_of(Path(name) / "c", 2) as cluster:
        leader = cluster.wait_ready()
        uvloop.run(fill(leader.dicom_port, AE_TITLE, sop_class, size, associations=4, count=count))
        for _ in range(repeat):
            lacking, took = _filled(cluster, leader)
            filled = lacking / took
            copied = lacking / _copied(leader.data_dir / "log", Path(name) / "copy", lacking)
            rounds.append((copied, filled, filled / copied))
            say(f"{label}{over}: copied {copied / 1e6:.0f} MB/s, filled {filled / 1e6:.0f} MB/s")
    copy, back, ratio = (statistics.median(column) for column in zip(*rounds, strict=True))
    return {
        f"an empty node, {count} x {label} from its peer{over}": {
            "plain copy, MB/s": round(copy / 1e6, 1),
            "filled, MB/s": round(back / 1e6, 1),
            "filled / plain copy": round(ratio, 3),
        }
    }


def _filled(cluster: LocalCluster, leader: LocalNode) -> tuple[int, float]:
    """Take the other node's disk away and start it; return the bytes of log that it lacked, and the seconds until it is
    in sync.
    """
    other = next(node for node in cluster.nodes if node is not leader)
    assert other.running is not None, "it was started with the cluster"
    other.running.kill()
    rmtree(other.data_dir)
    os.sync()
    cluster.start_node(other)
    cluster.wait_for(lambda: _lag(leader.status(), other) > 0, "its peer knows what it lacks")
    began = time.monotonic()
    lacking = _lag(leader.status(), other)
    cluster.wait_for(lambda: _in_sync(leader.status(), other), "the node is in sync", _LIMIT_S)
    return lacking, time.monotonic() - began


def _in_sync(status: dict[str, Any], node: LocalNode) -> bool:
    return any(one["replica"] == node.id and one["in_sync"] and not one["records"] for one in status["lags"])


def _lag(status: dict[str, Any], node: LocalNode) -> int:
    """Bytes that a connected replica lacks."""
    return next((int(one["bytes"]) for one in status["lags"] if one["replica"] == node.id and one["connected"]), 0)


def _copied(log: Path, to: Path, size: int) -> float:
    """Send so many bytes of a log's files to another process, and return the seconds until it has them on disk."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        receiver = subprocess.Popen([sys.executable, "-m", "perenne.bench.refill", str(port), str(to)])
        try:
            connection, _ = server.accept()
            with connection:
                began = time.monotonic()
                left = size
                for path in sorted(log.glob("*.tar")):
                    with path.open("rb") as file:
                        left -= connection.sendfile(file, 0, min(left, path.stat().st_size)) if left else 0
                connection.shutdown(socket.SHUT_WR)
                if connection.recv(1) != b"." or left:
                    raise RuntimeError(f"{left} bytes less than wanted were there, or the copy failed")
                return time.monotonic() - began
        finally:
            receiver.wait()
            to.unlink(missing_ok=True)
            os.sync()


def _receive(port: int, to: Path) -> None:
    buffer = memoryview(bytearray(_PIECE))
    with socket.create_connection(("127.0.0.1", port)) as connection, to.open("wb", buffering=0) as file:
        while count := connection.recv_into(buffer):
            view = buffer[:count]
            while view:
                view = view[file.write(view) :]
        os.fsync(file.fileno())
        connection.sendall(b".")


if __name__ == "__main__":
    if sys.argv[1] == "measure":
        as_asked(measured, sys.argv[1:])
    else:
        _receive(int(sys.argv[1]), Path(sys.argv[2]))
