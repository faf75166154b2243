"""The data directories of two nodes that hold the same, for verbs of stopped nodes."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from storage.disk import RealDisk
from storage.log import Log
from storage.metadata import NodeIdentity, PromiseFile, write_identity
from tests.storage.log_helpers import IDENTITY, append


def two_nodes(parent: Path, sizes: Iterable[int]) -> tuple[Path, Path]:
    """Three segments, each of records of these sizes, in epochs 1 to 3; everything is known to be committed."""
    one, other = parent / "one", parent / "other"
    disk = RealDisk(one)
    write_identity(disk, NodeIdentity(IDENTITY.cluster_id, "n1", "incarnation"))
    log = Log.open(disk, IDENTITY, host_rebooted=False, spares=0)[0]
    wanted = tuple(sizes)
    for epoch in (1, 2, 3):
        for size in wanted:
            append(log, size, epoch)
        log.sync()
    promise = PromiseFile(disk)
    promise.store(floor=log.end)
    promise.close()
    log.close()
    shutil.copytree(one, other)
    return one, other
