"""One fault that is a story: an acknowledged instance rots on one disk, is read there, and is sent there again.

Success must rest on copies that can be read, once the node that says it knows of the damage (ADR 0006).
"""

import contextlib
from collections.abc import Iterable

from replication.api import ConflictRefused, InstanceAbsent, InstanceUnavailable, NotPromised
from storage.errors import StorageError
from storage.position import LogPoint
from tests.simulation.cluster import Cluster
from tests.simulation.deletes import Deed
from tests.simulation.history import History
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
    machine.bits_flipped("rotten record", cluster.world.now_us)
    process.loop.create_task(_notice_and_send_again(cluster, process, uid, dataset))
    return True


async def _notice_and_send_again(cluster: Cluster, process: Process, uid: str, dataset: bytes) -> None:
    with contextlib.suppress(InstanceAbsent, InstanceUnavailable, StorageError):
        await process.replicator.lookups.read(uid)
    if not process.log.damaged() or process.replicator.refusal() is not None:
        return
    deed = Deed(cluster.world.now_us)
    cluster.checks.fates.of(uid, dataset).stores.append(deed)
    try:
        await process.replicator.commit(process.draft(uid, dataset))
    except (NotPromised, ConflictRefused, StorageError, OSError):
        return
    finally:
        deed.end_us = cluster.world.now_us
    holders = [
        machine.name
        for machine in cluster.machines.values()
        if _holds_for_all_it_knows(cluster, machine, dataset) or machine.harm_us >= deed.start_us
    ]
    history = cluster.checks.history
    if cluster.bucket.holds_dataset(dataset) or any(
        history.content.get(history.headers[chain].dataset) == dataset for chain in cluster.bucket.lost
    ):
        holders.append("T")
    if len(holders) < cluster.shape.copies_required:
        said = f"{process.name} answers Success for {uid} again, with readable copies at {holders} only"
        raise cluster.world.found(Violation(said))


def _holds_for_all_it_knows(cluster: Cluster, machine: Machine, dataset: bytes) -> bool:
    """Whether a copy can be read there, or lies there in a record of whose damage nobody can know yet.

    The new copy may rot as well before Success is told: what nobody has read, no answer can heed (ADR 0006).
    """
    history = cluster.checks.history
    if machine.medium.holds(dataset) or any(gone.medium.holds(dataset) for gone in machine.lost):
        return True
    harmed = [gone.durable for gone in machine.lost if gone.harmed]  # nobody can tell any more what of it could be read
    if any(
        history.branch_holds(end, p) for p in _records_of(history, history.committed[1:], dataset) for end in harmed
    ):
        return True
    process = machine.running
    if process is None:
        return False
    damaged = set(process.log.damaged())
    points = _records_of(history, machine.kept, dataset)
    return any(p.sequence not in damaged and process.core.situation.ledger.holds(p) for p in points)


def _records_of(history: History, chains: Iterable[bytes], dataset: bytes) -> list[LogPoint]:
    """Those of these records that have this data set."""
    headers = ((history.headers[chain], chain) for chain in chains)
    return [
        LogPoint(header.position, chain) for header, chain in headers if history.content.get(header.dataset) == dataset
    ]
