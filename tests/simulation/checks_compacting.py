"""What is judged of compaction (ADR 0014): nothing goes that may not, what is left is whole, and in the end it is gone.

Numbers are those of protocol section 14, or of the ADR where it says so.
"""

from typing import TYPE_CHECKING

from replication.core.values import TierMode
from storage.position import LogPoint, RecordKind
from storage.rewriting import Compacted
from storage.segment import SegmentInfo
from tests.simulation.checks_relearning import missing
from tests.simulation.disk import Medium
from tests.simulation.machine import Machine
from tests.simulation.process import Process
from tests.simulation.world import Violation

if TYPE_CHECKING:
    from tests.simulation.checks import Checks
    from tests.simulation.cluster import Cluster


def may_go(checks: "Checks", process: Process, upto: int) -> None:
    """ADR, 5: a leader lets a tombstone be acted upon. It is committed, and nobody can come back without it: whoever is
    registered holds it, and so does the bucket. Raises Violation.
    """
    history = checks.history
    if not upto or upto <= checks.reclaimed.permitted:
        return
    if upto >= len(history.committed):
        raise Violation(f"{process.name} permits tombstone {upto}, which is not committed")
    chain = history.committed[upto]
    point = LogPoint(history.headers[chain].position, chain)
    for registered in checks.registered().values():
        machine = checks.by_name[registered.id]
        present = machine.incarnation == registered.incarnation and not machine.harm
        if present and not registered.retired and not history.branch_holds(machine.durable, point):
            raise Violation(f"{process.name} permits tombstone {upto}, which {machine.name} does not hold")
    tiered = process.core.situation.settings.tier_mode is not TierMode.OFF
    if tiered and not checks.bucket.harm:
        lacking = [at for at in range(1, upto + 1) if not checks.bucket.holds(history.committed[at])]
        if lacking:
            raise Violation(f"{process.name} permits tombstone {upto}, and the bucket lacks record {lacking[0]}")


def rewritten(checks: "Checks", process: Process, compacted: Compacted) -> None:
    """1 and 7: a segment has its new form, and its name, on the medium. Every payload that may not be gone is there, as
    it was, and in its place. Raises Violation.
    """
    history, machine, segment = checks.history, checks.machines[process.number], compacted.segment
    gone, floor = checks.reclaimed.gone, process.promise.value.floor.sequence
    needed = max([segment.last + 1, *(gone.get(sequence, 0) for sequence in compacted.stubs)])
    if needed > floor:  # ADR, 6
        raise Violation(f"{machine.name} compacts {segment.name}, which rests on record {needed}; its floor is {floor}")
    medium, at = machine.medium.files[segment.name].medium, 0
    stubs = frozenset(compacted.stubs)
    for sequence in range(segment.first, segment.last + 1):
        chain = history.ancestor(machine.durable.chain, machine.durable.sequence, sequence)
        if sequence in stubs and not checks.reclaimed.may_be_gone(chain, sequence):
            raise Violation(f"{machine.name} takes the payload of record {sequence} away, which nothing permits")
        header = history.headers[chain]
        if header.kind is not RecordKind.INSTANCE or checks.reclaimed.may_be_gone(chain, sequence):
            continue
        found = medium.find(history.content[header.dataset], at)
        if found < 0 and not machine.harm:
            raise Violation(f"{machine.name} loses record {sequence} when it compacts {segment.name}")
        at = max(at, found)
    held = checks.reclaimed.held(process.compactor.began_at if process.compactor is not None else 0)
    if held and stubs:
        raise Violation(f"{machine.name} compacts what the note {held}, durable there before, keeps")


def unbelieved(checks: "Checks", process: Process) -> list[int]:
    """ADR, 2: stubs in a log that does not hold their tombstones."""
    log, end, gone = process.log, process.log.durable.sequence, checks.reclaimed
    if end >= gone.permitted:
        return []
    waits = [sequence for sequence, by in gone.gone.items() if sequence <= end < by]
    return [sequence for sequence in waits if log.is_stub(sequence)]


def leads_with_all(checks: "Checks", machine: Machine) -> None:
    """ADR, 3: nobody leads who holds stubs without their tombstones. Raises Violation."""
    process = machine.process
    if process is not None and (without := unbelieved(checks, process)):
        raise Violation(f"{machine.name} leads, and holds no tombstone for the stubs {without[:3]}")


def knows_its_stubs(checks: "Checks", machine: Machine, process: Process) -> None:
    """ADR, 3: once it is there, and after a start, a stub without its tombstone is known damage. Raises Violation."""
    unknown = set(unbelieved(checks, process)) - set(process.log.damaged())
    if unknown:
        raise Violation(f"{machine.name} takes the stubs {sorted(unknown)} for sound ones")


def leftovers(cluster: "Cluster") -> list[str]:
    """What is still to be compacted although nothing speaks against it, or is wrong with what was."""
    found: list[str] = []
    leader = cluster.leader()
    process = leader.running if leader is not None else None
    if process is None:
        return ["nobody leads"]
    checks, wanted = cluster.checks, _permissible(cluster, process)
    if checks.reclaimed.permitted < wanted:
        found.append(f"tombstone {wanted} could be acted upon, and only {checks.reclaimed.permitted} may")
    for machine in cluster.machines.values():
        if machine.running is None:
            found.append(f"{machine.name} does not run")
        else:
            found += [f"{machine.name} {said}" for said in _left(cluster, machine, machine.running)]
            found += [f"{machine.name} {said}" for said in missing(cluster, machine.running)]
    return found


def _permissible(cluster: "Cluster", leader: Process) -> int:
    """By this leader's clock: the tombstones in their order, up to the first that is too young."""
    checks, history = cluster.checks, cluster.checks.history
    if cluster.bucket.harm:
        return 0  # the tier may never be complete again
    oldest = leader.wall_us() - (cluster.shape.undo_us or 0)
    upto = 0
    for sequence in checks.reclaimed.tombstones:
        if history.headers[history.committed[sequence]].time_us > oldest:
            break
        upto = sequence
    return upto


def _left(cluster: "Cluster", machine: Machine, process: Process) -> list[str]:
    checks, log = cluster.checks, process.log
    if checks.reclaimed.held(machine.durable.sequence):
        return []
    found = [f"counts the stub {sequence} as damaged" for sequence in log.damaged() if log.is_stub(sequence)]
    found += [f"waits for the tombstone {by} of the stub {s}" for s, by in log.waiting.items()]
    gone = checks.reclaimed.gone
    for segment in log.segments():
        last = segment.last
        if last is None or not segment.sealed or segment.evicted or last > log.end.sequence:
            continue
        here = [sequence for sequence in gone if segment.first <= sequence <= last]
        whole = [sequence for sequence in here if not log.is_stub(sequence)]
        if whole:
            found.append(f"still has the payload of record {whole[0]}, by its own word")
        found += _bytes_left(checks, machine.medium, segment, here)
    found += [f"has {name}" for name in machine.medium.files if name.startswith("log/rewritten")]
    return found


def _bytes_left(checks: "Checks", medium: Medium, segment: SegmentInfo, gone: list[int]) -> list[str]:
    """Payloads on the medium that should be gone, unless the same bytes were stored again in this segment."""
    history, content = checks.history, medium.files[segment.name].medium
    committed = history.committed
    kept = {
        history.headers[committed[sequence]].dataset
        for sequence in range(segment.first, (segment.last or 0) + 1)
        if sequence not in gone and sequence < len(committed)
    }
    digests = {history.headers[committed[sequence]].dataset: sequence for sequence in gone}
    return [
        f"has the bytes of record {sequence} on its medium"
        for digest, sequence in digests.items()
        if digest not in kept and history.content[digest] in content
    ]


def chains_equal(cluster: "Cluster") -> None:
    """4 and 5: compaction changed no chain. Raises Violation."""
    committed = cluster.checks.history.committed
    for machine in cluster.machines.values():
        process = machine.running
        member = cluster.state is not None and machine.member in cluster.state.in_sync
        if process is None or machine.harm or not member:
            continue
        log = process.log
        for sequence in range(1, min(len(committed), log.end.sequence + 1)):  # the newest may be on its way
            point = log.point_at(sequence)
            if point is None or point.chain != committed[sequence]:
                raise Violation(f"{machine.name} has another chain at record {sequence}: {point}")
