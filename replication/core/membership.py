"""Which replicas the in-sync set should hold (protocol, section 5), from what the leader sees of them.

Pure: the leader submits what comes out by compare-and-set, and counts additions from the moment it considers them.
"""

from collections.abc import Collection

from msgspec import Struct

from replication.core.values import TIER_MEMBER, Member, TierMode


class TierView(Struct, frozen=True):
    """The tier as the leader sees it. usable: it may enter. gone: it stalls, or is not configured here."""

    mode: TierMode
    usable: bool
    gone: bool


NO_TIER = TierView(TierMode.OFF, usable=False, gone=True)


def desired_set(
    *,
    current: frozenset[Member],
    own: Member,
    gone: Collection[Member],
    behind: Collection[Member],
    ready: Collection[Member],
    damaged: Collection[Member],
    minimum_copies: int,
    tier: TierView = NO_TIER,
) -> frozenset[Member]:
    """Return the set to propose; equal to `current` when nothing should change.

    gone: members that stall, left or are disconnected; they are removed only while at least `minimum_copies` remain,
    since below that nothing is acknowledged and each member kept is one more that may lead.
    behind: members that hold less than the commit point; they are removed unconditionally, because the set must
    never name a replica that lacks a committed record. ready: replicas that caught up. A ready replica replaces
    any older incarnation of itself. damaged: members that know of damage in their own log, and so may not lead; they
    are in the set only where too few sound ones are left, as holders of what is stored from now on (ADR 0006).
    The tier stands in for one node: always in synchronous mode, else where too few nodes are left.
    """
    had = TIER_MEMBER in current
    counts = tier.usable or (had and not tier.gone)
    before = current - {TIER_MEMBER}
    least = max(1, minimum_copies - 1) if counts else minimum_copies
    nodes = _nodes(before, own, gone, behind, ready, damaged, least)
    needed = len(nodes) < minimum_copies
    if had:
        # Who comes takes the tier's place only by a change of its own, once it is in the set.
        keep = needed or (not tier.gone and (tier.mode is TierMode.SYNCHRONOUS or bool(nodes - before)))
    else:
        keep = tier.usable and (needed or tier.mode is TierMode.SYNCHRONOUS)
    return nodes | {TIER_MEMBER} if keep else nodes


def _nodes(
    current: frozenset[Member],
    own: Member,
    gone: Collection[Member],
    behind: Collection[Member],
    ready: Collection[Member],
    damaged: Collection[Member],
    least: int,
) -> frozenset[Member]:
    returned = {member.id for member in ready}
    replaced = {member for member in current if member.id in returned and member not in ready}
    base = (current - frozenset(behind)) | frozenset(ready) | {own}
    shrunk = base - (frozenset(gone) - {own}) - frozenset(replaced)
    sound = shrunk - (frozenset(damaged) - {own})
    for wanted in (sound, shrunk):
        if len(wanted) >= least:
            return wanted
    return base
