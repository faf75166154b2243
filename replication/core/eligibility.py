"""Who may lead: judged against the very state that the candidate's CAS replaces (protocol, section 6)."""

from typing import Protocol

from replication.core.ledger import Ledger
from replication.core.values import TIER_MEMBER, ClusterState, Member, TierClaim, TierFloor, TierMode
from storage.position import GENESIS, LogPoint


class Held(Protocol):
    """What a log holds: this node's `Ledger`, or what another node said of its own."""

    @property
    def intact(self) -> bool: ...

    @property
    def end(self) -> LogPoint: ...

    def holds(self, point: LogPoint) -> bool: ...


def through_tier(state: ClusterState, own: Member, ledger: Held) -> bool:
    """Whether a node would lead on the strength of what the tier holds: it is in no set, or its log lacks what the
    bucket held when the tier was claimed, of which the claim alone says that it may be committed. A log that goes on
    in a later epoch may lack it, and holds all that was committed before (ADR 0017, 4).
    """
    return own not in state.in_sync or (state.tier is not None and _lacks(ledger, state.tier.upto))


def _lacks(ledger: Held, upto: LogPoint) -> bool:
    return not ledger.holds(upto) and ledger.end.position.epoch <= upto.position.epoch


def why_not_eligible(
    state: ClusterState,
    own: Member,
    ledger: Held,
    *,
    counter: int,
    own_floor: LogPoint,
    tier_mode: TierMode = TierMode.OFF,
    tier_floor: TierFloor | None = None,
) -> str | None:
    """Return why the node may not lead, or None when it may.

    counter: the highest change counter that this node has ever read from `state`; a lower one in `state` means that
    the coordination service has lost history, and nobody leads until an operator rebuilds it.
    own_floor: what this node once knew to be committed; a log without it was rolled back.
    tier_floor: up to where the tier was counted, and so what was committed, while it is in the set.
    """
    if state.change.counter < counter:
        return f"the cluster state went back from change {counter} to {state.change.counter}"
    if not ledger.intact:
        return "the log has damaged or unsettled records"
    if through_tier(state, own, ledger):
        return _why_not_through_tier(state, own, tier_mode)
    if not ledger.holds(state.floor):
        return f"the log lacks the floor at {state.floor.sequence}"
    if not ledger.holds(own_floor):
        return f"the log lacks its own floor at {own_floor.sequence}: its disk was rolled back"
    if TIER_MEMBER in state.in_sync and tier_floor is not None and not ledger.holds(tier_floor.point):
        return f"the log lacks record {tier_floor.point.sequence}, which the tier was counted for"
    return None


def _why_not_through_tier(state: ClusterState, own: Member, tier_mode: TierMode) -> str | None:
    """What this log lacks of the claim's beginning must be in the bucket: the takeover finds out (`takeover_base`)."""
    if state.tier is None:
        return "not in the in-sync set"
    if tier_mode is TierMode.OFF:
        lacking = (
            f"the log lacks record {state.tier.upto.sequence}" if own in state.in_sync else "not in the in-sync set"
        )
        return f"{lacking}, and this node has no tier"
    return None


def takeover_base(claim: TierClaim, ledger: Ledger, told: LogPoint) -> LogPoint:
    """Return the point of this log that a takeover through the tier builds on; it is on the committed branch.

    That is the beginning of the tier's claim where this log has it, proved by its chain: from there on the tier has
    everything. Else what this node was told to be committed: then the bucket must be complete from there on.
    """
    before = ledger.point_at(claim.first - 1)
    if before is not None and before.chain == claim.chain_before:
        return before
    return told if ledger.holds(told) else GENESIS
