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


class Reads(Struct, frozen=True):
    """What a node says of the objects that it reads evicted segments from, for as long as its log lasts.

    upto: no payload that a tombstone up to this one covers is in any of them, nor will be, but for the segments of
    `behind`, by their first records, and for all from `behind_from` on, where that is not 0.
    """

    upto: int = 0
    behind: tuple[int, ...] = ()
    behind_from: int = 0

    def may_read(self, first: int, upto: int) -> bool:
        """Whether the segment that begins with `first` may be read from an object that holds a payload which a
        tombstone up to `upto` covers.
        """
        return self.upto < upto or first in self.behind or 0 < self.behind_from <= first


NAMED: Final = 1000
"""So many segments are named: `live` is a znode, and those are small."""


def reads(upto: int, behind: Iterable[int]) -> Reads:
    """behind: first records of the segments that are read from an object that has such payloads, or may be."""
    firsts = sorted(behind)
    return Reads(upto, tuple(firsts[:NAMED]), firsts[NAMED] if len(firsts) > NAMED else 0)


def why_kept(registered: Iterable[ReplicaId], said: Mapping[ReplicaId, Reads]) -> str:
    """What keeps the objects of the tier as they are that hold payloads of deleted instances; empty when nothing does.
    A node that lets go of segments reads them by their places in these objects, and one that is away may be such a
    node.

    registered: who is not retired. said: by those that are there.
    """
    away = sorted(node for node in registered if node not in said)
    if not away:
        return ""
    return f"not known whether they read from the tier what they evicted: {' '.join(away)}"


def readers(firsts: Iterable[int], said: Mapping[ReplicaId, Reads], upto: int) -> Mapping[int, Sequence[ReplicaId]]:
    """Of these segments, by their first records, those that somebody may still read from an object that holds a payload
    which a tombstone up to `upto` covers; and who. What they learn the places of is put beside it meanwhile.
    """
    found = {first: sorted(node for node, its in said.items() if its.may_read(first, upto)) for first in firsts}
    return {first: nodes for first, nodes in found.items() if nodes}
