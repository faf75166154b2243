"""When a leader may let payloads be taken away: each condition, and that one which waits keeps all behind it."""

import pytest
from msgspec.structs import replace

from replication.core.compaction import (
    NAMED,
    Permission,
    Reads,
    Standing,
    Tombstones,
    permitted,
    readers,
    reads,
    why_kept,
)
from replication.core.values import ReplicaId

DAY = 86_400_000_000
NOW = 100 * DAY
OLD = Tombstones(((10, 60 * DAY), (20, 61 * DAY), (30, 62 * DAY)))
A, B, C = ReplicaId("a"), ReplicaId("b"), ReplicaId("c")
SOUND = Standing(committed=50, nodes={A: 50, B: 40})


def asked(standing: Standing = SOUND, tombstones: Tombstones = OLD, days: int = 30) -> Permission:
    return permitted(tombstones, standing, now_us=NOW, undo_us=days * DAY)


def test_what_everybody_holds_and_nobody_can_undo_may_go() -> None:
    assert asked() == Permission(30)
    assert asked(tombstones=Tombstones(())) == Permission(0)
    assert asked(replace(SOUND, tier=30)) == Permission(30)


@pytest.mark.parametrize(
    ("standing", "upto", "says"),
    [
        (replace(SOUND, committed=29), 20, "30 is not committed"),
        (replace(SOUND, nodes={A: 50, B: 19}), 10, "tombstone 20: b"),
        (replace(SOUND, nodes={A: 50, B: 0, C: 9}), 0, "tombstone 10: b c"),
        (replace(SOUND, tier=29), 20, "complete up to 29"),
        (replace(SOUND, tier=0), 0, "complete up to 0"),
    ],
)
def test_a_tombstone_waits_for_whoever_lacks_it(standing: Standing, upto: int, says: str) -> None:
    found = asked(standing)
    assert found.upto == upto and says in found.why_not


def test_a_tombstone_waits_until_it_cannot_be_undone_and_keeps_those_behind_it() -> None:
    assert asked(days=39) == replace(asked(days=39), upto=20), "the third one is 38 days old"
    assert asked(days=38).upto == 30 and asked(days=41).upto == 0
    early = Tombstones(((10, 60 * DAY), (20, 99 * DAY), (30, 62 * DAY)))
    assert asked(tombstones=early).upto == 10, "a clock that jumped lets nothing overtake"
    future = Tombstones(((10, 101 * DAY),))
    assert "younger" in asked(tombstones=future).why_not
    assert asked(tombstones=future, days=0).upto == 0, "one from the future waits, whatever the period"


def test_objects_stay_as_they_are_while_a_node_is_away_that_may_read_them() -> None:
    assert why_kept([A, B], {A: Reads(), B: Reads(), C: Reads()}) == ""
    assert "not known whether they read from the tier what they evicted: b c" in why_kept([A, C, B], {A: Reads()})


def test_an_object_stays_while_somebody_may_read_from_it_what_he_evicted() -> None:
    said = {A: Reads(30), B: Reads(40, (7,))}
    assert readers([1, 7, 9], said, 30) == {7: [B]}
    assert readers([1, 7], said, 31) == {1: [A], 7: [A, B]}, "a promises nothing of tombstone 31"
    assert readers([1, 7], {A: Reads()}, 1) == {1: [A], 7: [A]}, "one that does not know of it, or has said nothing"
    assert readers([1, 7, 9], {A: Reads(30, (1,), 9)}, 30) == {1: [A], 9: [A]}


def test_a_node_names_as_many_segments_as_a_znode_holds_and_promises_nothing_of_the_others() -> None:
    assert reads(30, [9, 4]) == Reads(30, (4, 9))
    many = reads(30, range(1, 3001))
    assert (len(many.behind), many.behind_from) == (NAMED, NAMED + 1)
    assert all(many.may_read(first, 30) for first in range(1, 4000)) and not many.may_read(0, 30)
