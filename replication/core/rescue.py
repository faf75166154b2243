"""What an operator's verbs decide when the cluster cannot go on by itself: who goes on, and what that may cost.

Pure. Two cases: nobody is eligible (`after_a_loss`), or the coordination service lost its history (`rebuilt`, in
`replication.core.rebuild`). Neither is ever tried while the cluster could elect somebody by its own rules.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from replication.core.eligibility import why_not_eligible
from replication.core.values import (
    TIER,
    TIER_MEMBER,
    AcceptedLoss,
    Change,
    ClusterState,
    Identity,
    Member,
    Phase,
    ReplicaId,
    TierFloor,
)
from storage.position import GENESIS, EpochSpan, LogPoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What one node says of itself when an operator asks. end: of what is durable. told: the highest commit point it
    knows. floor, promise, counter: as on its disk. epochs: which records of its log are of which epoch, oldest first.
    fenced: why it stopped writing. leader: whom it hears as such, or itself. tiered: whether it could take over from
    the tier. remembered: `state` as it read it last, also in an earlier life.
    """

    member: Member
    end: LogPoint
    told: LogPoint
    floor: LogPoint
    promise: int
    counter: int
    epochs: Sequence[EpochSpan]
    intact: bool = True
    fenced: str | None = None
    tiered: bool = False
    remembered: ClusterState | None = None
    leader: ReplicaId | None = None

    def holds(self, point: LogPoint) -> bool:
        """Whether its log has this prefix. One epoch has one leader, so the epoch of a record proves it as the chain
        does; the end is compared by its chain.
        """
        if point.sequence == self.end.sequence:
            return point == self.end
        return point == GENESIS or any(
            span.epoch == point.epoch and span.first <= point.sequence <= span.last for span in self.epochs
        )

    @property
    def unfit(self) -> str | None:
        """Why it cannot go on, whatever is accepted."""
        if self.fenced:
            return f"it stopped writing: {self.fenced}"
        if not self.intact:
            return "its log has damaged or unsettled records"
        if not self.holds(self.floor):
            return f"its log lacks record {self.floor.sequence}, which it knew itself: its disk was rolled back"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """first, last: records known to have been committed that nobody has any more; none when first > last. unsure: more
    may have been acknowledged after `last`, by those who are gone.
    """

    first: int
    last: int
    unsure: bool

    @property
    def records(self) -> int:
        return max(0, self.last - self.first + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """chosen: who goes on; None when it is whoever takes over from the tier. state: to be written. left_out: members
    that are not to come back with the disk they had. notes: what a person should know before saying yes.
    """

    chosen: Standing | None
    state: ClusterState
    left_out: tuple[Member, ...]
    loss: Loss
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """Why nothing is done, and what to do instead."""

    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the coordination service says beside `state`. registered: incarnation by node; without those retired.
    floors: what is known to be committed. leader: the ephemeral, if somebody leads.
    """

    registered: Mapping[ReplicaId, str]
    floors: Sequence[LogPoint] = ()
    tier_floor: LogPoint | None = None
    leader: Identity | None = None


@dataclass(frozen=True, slots=True)
class Approval:
    """Who said yes to what may be lost, and when, in Unix microseconds. change: id of the new change of `state`."""

    by: str
    at_us: int
    change: str


def newest(points: Iterable[LogPoint]) -> LogPoint:
    return max(points, key=lambda point: point.position, default=GENESIS)


def best(nodes: Collection[Standing]) -> Standing | None:
    """The longest verified log along the highest epoch."""
    fit = [node for node in nodes if node.unfit is None]
    return max(fit, key=lambda node: (node.end.position, node.member), default=None)


def led(nodes: Iterable[Standing]) -> tuple[str, ...]:
    """Who still has a leader: what that one commits from now on would not be in the plan."""
    return tuple(
        f"{node.leader} still leads, as {node.member.id} says: wait until it has noticed, a session time-out or two"
        for node in nodes
        if node.leader is not None
    )


def why_unfit(nodes: Collection[Standing]) -> tuple[str, ...]:
    return tuple(f"{node.member.id}: {node.unfit}" for node in nodes if node.unfit is not None)


def unaccounted(
    expected: Collection[ReplicaId], nodes: Collection[Standing], without: Collection[str]
) -> tuple[str, ...]:
    """Everybody who may hold something must be asked, or be given up by name; who answers is not given up."""
    answering = {node.member.id: node for node in nodes}
    found = [
        f"{name} does not answer: start it, or give it up for good with --without {name}"
        for name in sorted(set(expected) - answering.keys() - set(without) - {TIER})
    ]
    for name in sorted(set(without) - {TIER}):
        node = answering.get(ReplicaId(name))
        if node is not None and node.fenced is None:
            found.append(f"{name} answers and is not lost: leave out --without {name}, or stop it first")
        elif node is None and name not in expected:
            found.append(f"--without {name}: no such node is known")
    return tuple(found)


def contradicted(chosen: Standing, nodes: Iterable[Standing]) -> tuple[str, ...]:
    """Who knows of commits that the chosen log lacks: it would freeze a leader that lacks them (section 7)."""
    return tuple(
        f"{node.member.id} knows that record {node.told.sequence} of epoch {node.told.epoch} was committed, and the log"
        f" of {chosen.member.id} lacks it: stop {node.member.id}, keep its disk, and give it up with"
        f" --without {node.member.id}"
        for node in nodes
        if not chosen.holds(node.told)
    )


def loss_of(chosen: Standing, known: LogPoint, *, unsure: bool) -> Loss:
    """What goes when `chosen` goes on, of what is known to have been committed up to `known`."""
    if chosen.holds(known):
        return Loss(first=known.sequence + 1, last=known.sequence, unsure=unsure)
    # A tail of its own epoch is no branch of what was committed later: then only what it was told is sure.
    shorter = chosen.end.sequence < known.sequence and chosen.end.epoch <= known.epoch
    first = (chosen.end.sequence if shorter else chosen.told.sequence) + 1
    return Loss(first=first, last=max(known.sequence, first), unsure=unsure)


def state_for(
    chosen: Standing, *, counter: int, epoch: int, known: LogPoint, loss: Loss, approval: Approval
) -> ClusterState:
    """The state in which the chosen node alone is in sync, so that the ordinary election goes on from there."""
    accepted = None
    if loss.records or loss.unsure:
        accepted = AcceptedLoss(chosen.end, loss.last, approval.by, approval.at_us)
    return ClusterState(
        change=Change(counter, approval.change),
        epoch=epoch,
        leader=None,
        phase=Phase.RECOVERING,
        in_sync=frozenset({chosen.member}),
        floor=known if chosen.holds(known) else chosen.told,
        accepted_loss=accepted,
    )


def given_up(
    members: Iterable[Member], around: Surroundings, nodes: Collection[Standing], without: Collection[str]
) -> tuple[Member, ...]:
    """The incarnations that must not come back with what they hold: named, or seen to have another disk now."""
    answering = {node.member for node in nodes if node.fenced is None or node.member.id not in without}
    known = {member for member in members if member != TIER_MEMBER}
    known |= {Member(name, incarnation) for name, incarnation in around.registered.items()}
    ids = {member.id for member in answering}
    return tuple(sorted(m for m in known - answering if m.id in without or m.id in ids))


def after_a_loss(
    state: ClusterState,
    around: Surroundings,
    nodes: Sequence[Standing],
    *,
    without: Collection[str],
    approval: Approval,
) -> Plan | Refused:
    """Nobody is eligible: choose the survivor that holds most, and say what is lost."""
    names = {member.id for member in state.in_sync} | around.registered.keys()
    reasons = _not_to_be_touched(state, around, nodes, without) or unaccounted(names, nodes, without) or led(nodes)
    if reasons:
        return Refused(reasons)
    survivors = [node for node in nodes if node.member.id not in without]
    chosen = best(survivors)
    if chosen is None:
        return Refused(("no survivor can go on", *why_unfit(survivors)))
    if contradictions := contradicted(chosen, survivors):
        return Refused(contradictions)
    known = newest([state.floor, *around.floors, *(node.told for node in survivors), *_counted(state, around)])
    loss = loss_of(chosen, known, unsure=True)
    epoch = 1 + max(state.epoch, *(node.promise for node in survivors))
    left_out = given_up(state.in_sync, around, nodes, without)
    new = state_for(chosen, counter=state.change.counter + 1, epoch=epoch, known=known, loss=loss, approval=approval)
    return Plan(chosen=chosen, state=new, left_out=left_out, loss=loss)


def _counted(state: ClusterState, around: Surroundings) -> list[LogPoint]:
    floor = around.tier_floor
    return [floor] if floor is not None and TIER_MEMBER in state.in_sync else []


def _not_to_be_touched(
    state: ClusterState, around: Surroundings, nodes: Sequence[Standing], without: Collection[str]
) -> tuple[str, ...]:
    """Why the cluster is to be left alone: it can go on, or would by another verb."""
    if around.leader is not None:
        return (f"{around.leader.id} leads: see `perenne status`",)
    remembers = [node.member.id for node in nodes if node.counter > state.change.counter]
    if remembers:
        return (f"{', '.join(remembers)} remembers a later cluster state: use `perenne coordination rebuild`",)
    if TIER_MEMBER in state.in_sync and TIER not in without:
        able = [node.member.id for node in nodes if node.tiered]
        who = f"{', '.join(able)} takes over from it by itself" if able else "a node with its [tier] section takes over"
        return (f"the tier is in sync: {who}; if its contents are gone for good, say so with --without tier",)
    found: list[str] = []
    for node in nodes:
        why = why_not_eligible(
            state,
            node.member,
            node,
            counter=node.counter,
            own_floor=node.floor,
            tier_floor=TierFloor(around.tier_floor, 0) if around.tier_floor is not None else None,
        )
        if why is None and node.fenced is None:
            found.append(f"{node.member.id} is in sync and holds everything: it leads by itself, wait for it")
        elif why is None and node.member.id not in without:
            found.append(f"{node.member.id} is in sync and holds everything, but {node.fenced}: mend and restart it")
    return tuple(found)
