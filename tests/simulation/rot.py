"""One fault that is a story: an acknowledged instance rots on one disk, is read there, and is sent there again.

Success must rest on copies that can be read, once the node that says it knows of the damage (ADR 0006).
"""

import contextlib

from replication.api import ConflictRefused, InstanceAbsent, InstanceUnavailable, NotPromised
from storage.errors import StorageError
from tests.simulation.cluster import Cluster
from tests.simulation.machine import Machine
from tests.simulation.process import Process
from tests.simulation.world import Violation


def rot(cluster: Cluster, machine: Machine) -> bool:
    """Flip a bit of an acknowledged instance, let the node notice, and send the instance there again."""
    process, history = machine.running, cluster.checks.history
    known = [
        (digest, uid) for digest, uid in history.acknowledged.items() if machine.medium.holds(history.content[digest])
    ]
    if process is None or not known:
        return False
    digest, uid = cluster.chance.choice(known)
    dataset = history.content[digest]
    for name, content in machine.medium.files.items():
        at = content.medium.find(dataset)
        if name.startswith("log/0") and at >= 0:
            content.medium[at] ^= 1
            content.cached[at] ^= 1
    machine.harm = "rotten record"
    process.loop.create_task(_notice_and_send_again(cluster, process, uid, dataset))
    return True


async def _notice_and_send_again(cluster: Cluster, process: Process, uid: str, dataset: bytes) -> None:
    with contextlib.suppress(InstanceAbsent, InstanceUnavailable, StorageError):
        await process.replicator.lookups.read(uid)
    if not process.log.damaged() or process.replicator.refusal() is not None:
        return
    try:
        await process.replicator.commit(process.draft(uid, dataset))
    except (NotPromised, ConflictRefused, StorageError, OSError):
        return
    machines = cluster.machines.values()
    holders = [m.name for m in machines if m.medium.holds(dataset) or any(d.holds(dataset) for d, _ in m.lost)]
    if len(holders) < cluster.shape.copies_required:
        said = f"{process.name} answers Success for {uid} again, with readable copies at {holders} only"
        raise cluster.world.found(Violation(said))
