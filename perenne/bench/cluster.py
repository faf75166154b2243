"""A local cluster for the length of a measurement."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from perenne.local.cluster import LocalCluster


@contextmanager
def cluster_of(directory: Path, nodes: int, session_timeout_ms: int = 6000) -> Generator[LocalCluster]:
    cluster = LocalCluster(directory)
    cluster.session_timeout_ms = session_timeout_ms
    try:
        cluster.start(nodes, lambda _: None)
        yield cluster
    finally:
        cluster.kill()
