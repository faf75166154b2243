"""Invariant 2: which durable images hold a record, as it is committed and as its Success leaves."""

from typing import TYPE_CHECKING

from replication.core.values import Identity
from storage.position import LogPoint
from tests.simulation.machine import Machine
from tests.simulation.process import Process
from tests.simulation.world import Violation

if TYPE_CHECKING:
    from tests.simulation.checks import Checks


def count_at_commit(checks: "Checks", point: LogPoint, who: str, leader: Process | None) -> frozenset[str]:
    """Who holds what is committed now. leader: the process that says so, where that is known.

    Positions alone: the bytes are counted at the answer. Raises Violation where they are too few.
    """
    machines = checks.machines.values()
    holders = {m.name for m in machines if checks.holds(m, point) or _gone_unseen(checks, m, point, leader)}
    if checks.bucket.had(point.chain):
        holders.add("T")
    if len(holders) < checks.copies_required:
        raise Violation(f"{who} commits {point.sequence} with {len(holders)} copies")
    return frozenset(holders)


def _gone_unseen(checks: "Checks", machine: Machine, point: LogPoint, leader: Process | None) -> bool:
    """Whether a disk that is gone held it, and the leader cannot know that it is: it is connected to that process.

    Nobody saw which of them were open when a count of the tier began that takes effect now.
    """
    peers = {link.peer for link in leader.core.situation.links.values()} if leader is not None else set[Identity]()
    return any(
        (leader is None or gone.by in peers) and checks.history.branch_holds(gone.durable, point)
        for gone in machine.lost
    )


def count_at_answer(checks: "Checks", who: str, uid: str, digest: bytes, sequence: int) -> None:
    """The bytes are on the media of enough: now, or when the record was committed, on a disk that was lost since.

    Raises Violation.
    """
    history = checks.history
    content = history.content.get(digest)
    if content is None:  # 10
        raise Violation(f"{who} answers Success for {uid} with bytes that nobody sent")
    chain = history.committed[sequence]
    if digest in history.acknowledged or checks.reclaimed.may_be_gone(chain, sequence):
        return  # a duplicate, or deleted: what may have happened to copies since is for the end to say
    point = LogPoint(history.headers[chain].position, chain)
    counted = checks.held_by[sequence]
    holders = [
        m.name
        for m in checks.machines.values()
        if m.holds(content, sequence, history.head(chain))
        or (m.harm and checks.holds(m, point))
        or (m.name in counted and _held(checks, m, content, point))
    ]
    if checks.bucket.had(chain):
        holders.append("T")
    if len(holders) < checks.copies_required:  # 2 and 12
        state = checks.state()
        names = "".join(sorted(member.id for member in state.in_sync)) if state is not None else "?"
        raise Violation(
            f"{who} answers Success for {uid} (record {sequence}, set {names}) with copies at {holders} only"
        )
    if checks.acknowledgements < 3 or checks.acknowledgements % 16 == 0:
        checks.world.say(who, f"answers Success for {uid}: record {sequence}, copies at {''.join(holders)}")


def _held(checks: "Checks", machine: Machine, content: bytes, point: LogPoint) -> bool:
    harmed = (gone.durable for gone in machine.lost if gone.harmed)
    return machine.held(content, point.sequence) or any(checks.history.branch_holds(end, point) for end in harmed)
