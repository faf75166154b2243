"""What an operator's verbs decide when the cluster cannot go on by itself: who goes on, and what that may cost.

Pure. What both cases share: nobody is eligible (`replication.core.loss`), or the coordination service lost its history
(`replication.core.rebuild`). Neither is ever tried while the cluster could elect somebody by its own rules.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

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
    TierClaim,
)
from storage.position import GENESIS, EpochSpan, LogPoint, LogPosition


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What one node says of itself when an operator asks. end: of what is durable. told: the highest commit point it
    knows. floor, promise, counter: as on its disk. epochs: which records of its log are of which epoch, oldest first.
    fenced: why it stopped writing. leader: whom it hears as such, or itself. tiered: whether it could take over from
    the tier. remembered: `state` as it read it last, also in an earlier life. copies: the smallest set that may
    acknowledge.
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
    copies: int = 2

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
class Bucket:
    """What the tier shows: the tip of what it holds, the highest change counter it was marked with, and the highest
    epoch of any object, dead branches included. whole_from: the first record from which on nothing is missing.
    """

    tip: LogPosition
    counter: int
    epoch: int
    whole_from: int = 1


FROM_THE_TIER = "the bucket holds more than any node: a node with its [tier] section takes over from it"
NO_BUCKET = Bucket(LogPosition(0, 0), 0, 0)


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


def informed(node: Standing, committed: Iterable[LogPoint]) -> Standing:
    """The node with what others know of its log: the newest point that was committed and that it holds is `told`.

    A node outside of the set may hold what nobody told it was committed before the tier took its place.
    """
    return replace(node, told=newest([node.told, *(point for point in committed if node.holds(point))]))


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
            found.append(f"--without {name}: no such node is known; leave it out")
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


def loss_of(chosen: Standing, bucket: Bucket | None, known: LogPoint, *, unsure: bool) -> Loss:
    """What goes when `chosen` goes on, or the bucket where it holds more, of what was committed up to `known`."""
    if bucket is not None and holds_more(bucket, chosen):
        sure = _surely_committed(bucket.tip, known, chosen.told)
        if bucket.tip.epoch > known.epoch:  # its leader held everything that was committed before
            sure = min(bucket.tip.sequence, known.sequence)
        return Loss(first=sure + 1, last=max(known.sequence, sure), unsure=unsure)
    if chosen.holds(known):
        return Loss(first=known.sequence + 1, last=known.sequence, unsure=unsure)
    sure = _surely_committed(chosen.end.position, known, chosen.told)
    return Loss(first=sure + 1, last=max(known.sequence, sure + 1), unsure=unsure)


def _surely_committed(end: LogPosition, known: LogPoint, told: LogPoint) -> int:
    """The last record of a log without `known` of which its end alone says that it is on the committed branch.

    One epoch has one leader, so a log that ends in the epoch of `known` is a part of that branch. The tail of another
    epoch may be what its leader wrote and nobody confirmed, with others committed in those places later: then only
    what its node was told is sure.
    """
    return min(end.sequence, known.sequence) if end.epoch == known.epoch else told.sequence


def holds_more(bucket: Bucket, chosen: Standing) -> bool:
    """Whether the bucket can go on from what the node was told, and reaches further than its log."""
    return reaches_further(bucket, chosen) and bucket.whole_from <= chosen.told.sequence + 1


def reaches_further(bucket: Bucket, chosen: Standing) -> bool:
    """Whether the bucket ends behind the log, though perhaps nobody has what lies between."""
    return bucket.tip > chosen.end.position


def passed_over(bucket: Bucket, chosen: Standing) -> tuple[str, ...]:
    """What a person should know of a bucket that ends behind the log and cannot go on: what lies between is nowhere."""
    if not reaches_further(bucket, chosen) or holds_more(bucket, chosen):
        return ()
    return (
        f"the bucket ends with record {bucket.tip.sequence} of epoch {bucket.tip.epoch}, but is whole only from record"
        f" {bucket.whole_from} on, and nobody who answers is known to hold what was committed up to there: what it has"
        f" beyond record {chosen.end.sequence} does not go on",
    )


def state_for(
    chosen: Standing,
    bucket: Bucket | None,
    before: ClusterState | None,
    *,
    counter: int,
    epoch: int,
    known: LogPoint,
    loss: Loss,
    approval: Approval,
) -> ClusterState:
    """The state in which the chosen node alone is in sync, so that the ordinary election goes on from there.

    Where the bucket holds more, it alone is: claimed from what the chosen node knows to be committed, so that whoever
    is elected takes over from it by the ordinary rules, or not at all. before: the newest state that is known; what it
    says of earlier losses and restores stays. chosen: `informed`.
    """
    end = bucket.tip if bucket is not None and holds_more(bucket, chosen) else chosen.end.position
    accepted = before.accepted_loss if before is not None else None
    if loss.records or loss.unsure:
        accepted = AcceptedLoss(end, loss.last, approval.by, approval.at_us)
    state = ClusterState(
        change=Change(counter, approval.change),
        epoch=epoch,
        leader=None,
        phase=Phase.RECOVERING,
        in_sync=frozenset({chosen.member}),
        floor=chosen.told,
        accepted_loss=accepted,
        restored=before.restored if before is not None else None,
    )
    if end == chosen.end.position:
        return state
    # What the plan saw in the bucket, a takeover has to find there; of what is lost already it cannot be asked.
    upto = GENESIS if loss.records else known
    claim = TierClaim(chosen.told.sequence + 1, chosen.told.chain, upto)
    return replace(state, in_sync=frozenset({TIER_MEMBER}), tier=claim, floor=chosen.told)


def given_up(
    members: Iterable[Member], around: Surroundings, nodes: Collection[Standing], without: Collection[str]
) -> tuple[Member, ...]:
    """The incarnations that must not come back with what they hold: named, or seen to have another disk now."""
    answering = {node.member for node in nodes if node.fenced is None or node.member.id not in without}
    known = {member for member in members if member != TIER_MEMBER}
    known |= {Member(name, incarnation) for name, incarnation in around.registered.items()}
    ids = {member.id for member in answering}
    return tuple(sorted(m for m in known - answering if m.id in without or m.id in ids))
