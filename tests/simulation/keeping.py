"""What an operator does beside deletes: puts the study on hold for a while, and has what was deleted stored anew.

Both are orders that production carries out: a note, and the order `restore` of `perenne delete undo`.
"""

import json
import struct
from typing import TYPE_CHECKING

from replication.api import NotPromised, OnHold
from replication.coordination.port import Operation
from replication.pages import DELETE_VERB
from storage.buried import HOLD, RELEASE
from storage.deletion import Note
from storage.errors import StorageError
from tests.simulation.deletes import SERIES, STUDY, Deed
from tests.simulation.process import Process

if TYPE_CHECKING:
    from tests.simulation.workload import Workload

HOLD_US = (100_000, 3_000_000)
LOOK_US = 50_000
LOOKS = 100


def dataset_of(uid: str, filler: bytes) -> bytes:
    """A data set that says of which study it is: an index that is made anew reads it there. Implicit little endian."""
    named = ((0x0008, 0x0018, uid), (0x0020, 0x000D, STUDY), (0x0020, 0x000E, SERIES))
    found = b""
    for group, element, text in named:
        value = text.encode() + b"\0" * (len(text) % 2)
        found += struct.pack("<HHI", group, element, len(value)) + value
    return found + struct.pack("<HHI", 0x7FE0, 0x0010, len(filler)) + filler


async def note(process: Process, what: str) -> None:
    """Each is another one: two that say the same would be one."""
    facts = {"by": "simulated", "at": f"{process.name} {process.world.now_us}"}
    try:
        await process.replicator.deleting.commit(Note(what, STUDY, facts))
    except (NotPromised, OnHold, StorageError, OSError):
        return  # it may take effect yet


def hold_for_a_while(workload: "Workload") -> None:
    """Somebody puts the study on hold, and somebody lets it go again."""
    world = workload.cluster.world

    def say(what: str) -> None:
        process = workload.chance.choice(list(workload.cluster.machines.values())).running
        if process is not None:
            process.loop.create_task(note(process, what))

    say(HOLD)
    world.after(workload.chance.randrange(*HOLD_US), None, say, RELEASE)


def undo_something(workload: "Workload") -> None:
    """Somebody wants a deleted instance back, whether or not its payload is still there."""
    cluster, checks = workload.cluster, workload.cluster.checks
    covered = list(checks.reclaimed.covered)
    if not covered:
        return
    sequence = workload.chance.choice(covered)
    dataset = checks.history.content[checks.history.headers[checks.history.committed[sequence]].dataset]
    uid = next(uid for uid, versions in workload.versions.items() if dataset in versions)
    deed, stores = Deed(cluster.world.now_us), workload.fates.of(uid, dataset).stores
    stores.append(deed)
    order = f"undo-{cluster.world.now_us}"
    arguments = {"do": "restore", "body": json.dumps({"sequences": [sequence]})}
    cluster.service.request(Operation(DELETE_VERB, order, arguments))

    def look(left: int) -> None:
        found = cluster.service.operations[DELETE_VERB]
        if found.id != order or not left:
            return  # nobody will know: it may take effect at any time
        if found.result is None:
            cluster.world.after(LOOK_US, None, look, left - 1)
            return
        said = json.loads(found.result).get("restored", {}).get(str(sequence), "")
        if said and not said.startswith("failed"):  # another leader may have begun before this one failed
            deed.end_us, deed.done = cluster.world.now_us, True
            checks.undone += 1

    cluster.world.after(LOOK_US, None, look, LOOKS)
