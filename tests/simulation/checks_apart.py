"""What is judged beside the protocol's own rules: an operator's plan, and what a node lets go of.

Numbers are those of protocol section 14.
"""

from typing import TYPE_CHECKING

from replication.core.rescue import Plan
from replication.core.values import ClusterState
from storage.position import LogPoint, RecordKind
from tests.simulation.process import Process
from tests.simulation.world import Violation

if TYPE_CHECKING:
    from tests.simulation.checks import Checks


def rescued(checks: "Checks", plan: Plan, tip: LogPoint) -> int:
    """What the operator wrote is lost, and no more. Returns how many records. Raises Violation."""
    history, loss = checks.history, plan.loss
    kept, last = history.common(tip), len(history.committed) - 1
    if plan.state.epoch <= checks.highest_epoch:  # 3
        raise Violation(f"a plan with epoch {plan.state.epoch} after {checks.highest_epoch}")
    if kept < last and not loss.records and not loss.unsure:
        raise Violation(f"a plan says that nothing is lost, and records {kept + 1} to {last} are")
    if kept < min(last, loss.first - 1):
        raise Violation(f"a plan says that what is lost begins at {loss.first}, and record {kept + 1} is lost")
    if kept < last and loss.last < last and not loss.unsure:
        raise Violation(f"a plan says that what is lost ends at {loss.last}, and record {last} is lost")
    if loss.records and loss.last > last:
        raise Violation(f"a plan says that record {loss.last} was committed, and {last} was the last")
    checks.reclaimed.begin_anew()
    for header in history.forget_after(kept):
        if header.kind is RecordKind.INSTANCE:
            checks.fates.lost(history.content[header.dataset])
        elif header.kind is not RecordKind.EPOCH:
            checks.fates.undeleted()
    checks.restored = checks.bereft = False
    checks.forgotten += last - kept
    return last - kept


def elected(checks: "Checks", before: ClusterState, state: ClusterState) -> None:
    """13: what an election wrote shows by itself that the winner had a right to it: the set and the claim that it was
    judged by, as they stood, and a promise that was on its disk first. Raises Violation.
    """
    assert state.leader is not None, "somebody won"
    who = f"{state.leader.id} won epoch {state.epoch}"
    if (state.in_sync, state.tier, state.floor) != (before.in_sync, before.tier, before.floor):
        raise Violation(f"{who} and changed the set, the claim or the floor that it was judged by")
    if state.change.counter != before.change.counter + 1:
        raise Violation(f"{who} with change {state.change.counter} after {before.change.counter}")
    if state.leader.member not in before.in_sync and before.tier is None:
        raise Violation(f"{who}, and is in no set")
    machine = checks.by_name[state.leader.id]
    if machine.incarnation == state.leader.member.incarnation and not machine.harm and machine.promised < state.epoch:
        raise Violation(f"{who}, and its disk has promised {machine.promised} only")


def gone_with_reason(checks: "Checks", process: Process) -> None:
    """What was evicted last is committed, in the bucket, and kept by enough others. Raises Violation."""
    history = checks.history
    gone = [segment for segment in process.log.segments() if segment.evicted][-1]  # the oldest goes first
    for sequence in range(gone.first, (gone.last or 0) + 1):
        if sequence >= len(history.committed):
            raise Violation(f"{process.name} evicts record {sequence}, which is not committed")
        chain = history.committed[sequence]
        if not checks.bucket.had(chain):
            raise Violation(f"{process.name} evicts record {sequence}, which is not in the bucket")
        header = history.headers[chain]
        if header.kind is RecordKind.INSTANCE and not checks.reclaimed.may_be_gone(chain, sequence):
            _kept(checks, process, LogPoint(header.position, chain), history.content[header.dataset])


def _kept(checks: "Checks", process: Process, point: LogPoint, content: bytes) -> None:
    """2: an evicted record counts at the bucket, and no more at the node. A disk that is harmed, or was lost while
    the segment was proved, is what the others are for.
    """
    sequence = point.sequence
    kept = [
        m
        for m in checks.machines.values()
        if m.holds(content, sequence)
        or m.held(content, sequence)
        or m.harm
        or any(gone.harmed and checks.history.branch_holds(gone.durable, point) for gone in m.lost)
    ]
    if 1 + len(kept) < checks.copies_required:
        names = [machine.name for machine in kept]
        raise Violation(f"{process.name} evicts record {sequence}, which is at {names} and in the bucket only")
