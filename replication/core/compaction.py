"""What a leader may let every node take away: a decision, from facts that it has gathered. Pure.

A tombstone may be acted upon once nobody can come back without it and once nobody can want it undone any more. It is
said with a note in the log, so that each node acts by the same word, and by its own log.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from msgspec import Struct

from replication.core.values import ReplicaId

COMPACTION: Final = "compaction"
"""The kind of note. Its subject: the last tombstone that may be acted upon."""


class Tombstones(Struct, frozen=True):
    """Those that are committed, oldest first: sequence, and when the leader of its day numbered it, in Unix
    microseconds.
    """

    known: Sequence[tuple[int, int]]


class Standing(Struct, frozen=True):
    """What each replica is known to hold. nodes: every registered node that is not retired, with the highest record
    that it holds and that is committed. tier: the bucket is complete up to here; None without a tier.
    """

    committed: int
    nodes: Mapping[ReplicaId, int]
    tier: int | None = None


class Permission(Struct, frozen=True):
    """upto: the last tombstone that may be acted upon; 0 when none may. why_not: what keeps the next one; empty when
    there is no next one.
    """

    upto: int
    why_not: str = ""


def permitted(tombstones: Tombstones, standing: Standing, *, now_us: int, undo_us: int) -> Permission:
    """Go through the tombstones in their order, up to the first one that must wait: what is behind it waits too.

    undo_us: for so long a delete can be undone. A tombstone from the future waits.
    """
    upto = 0
    for sequence, time_us in tombstones.known:
        why_not = _why_not(sequence, standing)
        if not why_not and now_us - time_us < undo_us:
            days = undo_us / 86_400_000_000
            why_not = f"deletes can be undone for {days:g} days, and tombstone {sequence} is younger"
        if why_not:
            return Permission(upto, why_not)
        upto = sequence
    return Permission(upto)


def _why_not(tombstone: int, standing: Standing) -> str:
    if tombstone > standing.committed:
        return f"tombstone {tombstone} is not committed"
    behind = sorted(node for node, holds in standing.nodes.items() if holds < tombstone)
    if behind:
        return f"not known to hold tombstone {tombstone}: {' '.join(behind)}. Bring it back, or retire it"
    if standing.tier is not None and standing.tier < tombstone:
        return f"the tier is complete up to {standing.tier} only, and tombstone {tombstone} lies behind that"
    return ""


def why_kept(registered: Iterable[ReplicaId], evicts: Mapping[ReplicaId, bool]) -> str:
    """What keeps the objects of the tier that hold payloads of deleted instances; empty when nothing does. A node that
    lets go of segments reads them by their places in these objects, and one that is away may be such a node.

    registered: who is not retired. evicts: of those that are there, whether they may lack sealed segments.
    """
    away = sorted(node for node in registered if node not in evicts)
    if away:
        return f"not known whether they read from the tier what they evicted: {' '.join(away)}"
    readers = sorted(node for node, may in evicts.items() if may)
    return f"they read from the tier what they evicted: {' '.join(readers)}" if readers else ""
