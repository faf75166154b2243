"""What is judged of compaction where nodes evict (ADR 0014, 11): nobody loses what he reads, and in the end it is gone
from the bucket as well.
"""

from typing import TYPE_CHECKING

from replication.core.packing import Packing
from replication.tier.contents import read_run
from replication.tier.keys import Run, form_of, run_name
from storage.relearning import Relearned
from tests.simulation.process import Process
from tests.simulation.world import Violation

if TYPE_CHECKING:
    from tests.simulation.checks import Checks
    from tests.simulation.cluster import Cluster


def read_by(process: Process) -> dict[int, str]:
    """By their first records, the names of the objects that a node reads its evicted segments from."""
    log, found = process.log, dict[int, str]()
    for segment in log.segments():
        end = log.point_at(segment.last) if segment.evicted and segment.last is not None else None
        if end is not None:
            found[segment.first] = run_name(segment.first, end, form_of(log.stubs_of(segment.first))).key
    return found


def nobody_reads(checks: "Checks", key: str) -> None:
    """An object is deleted. Whoever comes back from a snapshot learns where its records are. Raises Violation."""
    for machine in checks.machines.values():
        process = machine.running
        if process is None or machine.harm or checks.forgotten:
            continue
        if key in read_by(process).values():
            raise Violation(f"{key} is deleted, and {machine.name} reads it")


def relearned(checks: "Checks", process: Process, what: Relearned) -> None:
    """A node has new places for an evicted segment. Nothing is held back from it that may not be gone, and what was
    there and is on hold is no less there than before. Raises Violation.
    """
    history, machine = checks.history, checks.machines[process.number]
    for sequence in what.stubs:
        chain = history.ancestor(machine.durable.chain, machine.durable.sequence, sequence)
        if not checks.reclaimed.may_be_gone(chain, sequence):
            raise Violation(f"{process.name} learns of record {sequence} as a stub, which nothing permits")


def missing(cluster: "Cluster", process: Process) -> list[str]:
    """Objects that a node would read from, and that are not there."""
    if cluster.bucket.harm:
        return []
    names = read_by(process).items()
    return [
        f"reads segment {first} from {key}, which is gone" for first, key in names if key not in cluster.bucket.objects
    ]


def left_in_bucket(cluster: "Cluster") -> list[str]:
    """Payloads in the objects of whole segments that the leader knows. What a former leader put late nobody knows of
    before the next one lists it.
    """
    leader, checks = cluster.leader(), cluster.checks
    process = leader.running if leader is not None else None
    leadership = process.core.leadership if process is not None else None
    packing = leadership.tier.packing if leadership is not None else None
    if process is None or packing is None or cluster.bucket.harm:
        return []
    if checks.reclaimed.held(process.log.durable.sequence):
        return []
    gone, found = checks.reclaimed.gone, list[str]()
    for run in _known(packing):
        if not any(run.first <= sequence <= run.last for sequence in gone):
            continue
        for link in (
            read_run(run, cluster.bucket.objects.get(run.key, b"")) if run.key in cluster.bucket.objects else ()
        ):
            if link.sequence in gone and not link.tombstone:
                found.append(f"the bucket has the payload of record {link.sequence} in {run.key}")
    return found


def _known(packing: Packing) -> list[Run]:
    objects: dict[int, tuple[Run, ...]] = getattr(packing, "_objects")  # noqa: B009 - the core's own account
    return [run for runs in objects.values() for run in runs]
