"""Which replicas the in-sync set should hold (protocol, section 5), from what the leader sees of them.

Pure: the leader submits what comes out by compare-and-set, and counts additions from the moment it submits them.
"""

from collections.abc import Collection

from replication.core.values import Member


def desired_set(
    *,
    current: frozenset[Member],
    own: Member,
    gone: Collection[Member],
    behind: Collection[Member],
    ready: Collection[Member],
    damaged: Collection[Member],
    minimum_copies: int,
) -> frozenset[Member]:
    """Return the set to propose; equal to `current` when nothing should change.

    gone: members that stall, left or are disconnected; they are removed only while at least `minimum_copies` remain,
    since below that nothing is acknowledged and each member kept is one more that may lead.
    behind: members that hold less than the commit point; they are removed unconditionally, because the set must
    never name a replica that lacks a committed record. ready: replicas that caught up. A ready replica replaces
    any older incarnation of itself. damaged: members that know of damage in their own log, and so may not lead; they
    are in the set only where too few sound ones are left, as holders of what is stored from now on (ADR 0006).
    """
    returned = {member.id for member in ready}
    replaced = {member for member in current if member.id in returned and member not in ready}
    base = (current - frozenset(behind)) | frozenset(ready) | {own}
    shrunk = base - (frozenset(gone) - {own}) - frozenset(replaced)
    sound = shrunk - (frozenset(damaged) - {own})
    for wanted in (sound, shrunk):
        if len(wanted) >= minimum_copies:
            return wanted
    return base
