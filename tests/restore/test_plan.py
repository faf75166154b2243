"""Which objects a restore takes: from names alone, with a header or a chain where names do not say enough."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from replication.restore.plan import AskHead, Hole, Plan, Planner, below
from replication.tier.contents import Link, read_run
from replication.tier.keys import Run
from storage.position import LogPosition
from tests.tier.paper_bucket import Log, PaperBucket, appended, grouped


def planned(
    bucket: PaperBucket, base: int = 0, bad: dict[Run, str] | None = None, hidden: LogPosition | None = None
) -> Plan:
    """Answer from the paper bucket; what is damaged there cannot be read. hidden: a record that nobody can read."""
    planner = Planner(bucket.objects, base, bad)
    while (asked := planner.wanted) is not None:
        links: dict[int, Link] = {}
        if asked.run not in bucket.damaged:
            links = {link.sequence: link for link in read_run(asked.run, bucket.objects[asked.run])}
        if isinstance(asked, AskHead):
            planner.head(links.get(asked.run.first))
        elif not links:
            planner.unreadable("damaged")
        elif hidden == LogPosition(asked.run.epoch, asked.sequence):
            planner.chain(None)
        else:
            planner.chain(links[asked.sequence].chain)
    assert planner.plan is not None
    return planner.plan


def spans(plan: Plan) -> list[tuple[int, int, int]]:
    return [(piece.run.epoch, piece.first, piece.last) for piece in plan.pieces]


def filled(*logs: Log, cuts: tuple[int, ...] = ()) -> PaperBucket:
    bucket = PaperBucket()
    for log in logs:
        for group in grouped(log, cuts):
            bucket.put(group)
    return bucket


LOG = appended(appended((), 1, range(9)), 3, range(4))
"""Records 1 to 10 of epoch 1, 11 to 15 of epoch 3."""


def test_an_empty_tier_has_an_empty_plan() -> None:
    plan = planned(PaperBucket())
    assert (plan.tip.sequence, plan.pieces, plan.hole) == (0, (), None)


def test_groups_of_two_epochs_make_the_log() -> None:
    plan = planned(filled(LOG, cuts=(4, 8)))
    assert spans(plan) == [(1, 1, 4), (1, 5, 8), (1, 9, 10), (3, 11, 15)]
    assert plan.hole is None and plan.unused == ()


def test_the_widest_object_is_taken_and_the_small_ones_are_left() -> None:
    bucket = filled(LOG, cuts=(2, 4, 6, 8))
    wide = bucket.put(LOG[2:8])
    plan = planned(bucket)
    assert spans(plan) == [(1, 1, 2), (1, 3, 8), (1, 9, 10), (3, 11, 15)]
    assert len(plan.unused) == 3 and wide not in plan.unused


def test_a_base_is_not_read_again() -> None:
    assert spans(planned(filled(LOG, cuts=(4, 8)), base=6)) == [(1, 7, 8), (1, 9, 10), (3, 11, 15)]
    assert planned(filled(LOG), base=15).pieces == ()


def test_a_lost_object_is_a_hole_and_what_lies_beyond_is_known() -> None:
    bucket = filled(LOG, cuts=(4, 8))
    del bucket.objects[next(run for run in bucket.objects if run.first == 5)]
    plan = planned(bucket)
    assert spans(plan) == [(1, 1, 4)]
    assert plan.hole == Hole(5, 8)
    assert [(piece.first, piece.last) for piece in plan.beyond] == [(9, 10), (11, 15)]


def test_a_damaged_tip_is_a_hole_not_a_lower_tip() -> None:
    bucket = filled(LOG, cuts=(4, 8))
    tip = max(bucket.objects, key=lambda run: run.end)
    plan = planned(bucket, bad={tip: "altered"})
    assert plan.hole == Hole(11, 15, (f"{tip.key}: altered",))
    assert plan.tip.sequence == 15 and plan.reaches == 10


def test_the_chain_decides_between_two_older_epochs() -> None:
    """Epoch 2 died; epoch 3 goes on from epoch 1, in the same numbers (protocol, section 15, trap 5)."""
    dead = appended(LOG[:8], 2, range(5))
    plan = planned(filled(LOG, dead[8:]))
    assert spans(plan) == [(1, 1, 10), (3, 11, 15)]
    assert [run.epoch for run in plan.unused] == [2]


def test_records_that_a_dead_branch_has_in_common_serve() -> None:
    """The only object with record 10 of epoch 1 ends behind it, where the branch is dead."""
    dead = appended(LOG[:10], 1, ())[:10]
    longer = appended((), 1, range(11))
    assert dead == LOG[:10] == longer[:10]
    plan = planned(filled(longer, LOG[10:]))
    assert spans(plan) == [(1, 1, 10), (3, 11, 15)]


def test_an_orphan_does_not_fill_a_hole() -> None:
    """Within epoch 3 records are lost, and an orphan of epoch 2 occupies their numbers."""
    bucket = filled(LOG, cuts=(12, 13))
    lost = next(run for run in bucket.objects if run.first == 13)
    del bucket.objects[lost]
    bucket.put(appended(LOG[:8], 2, range(8))[8:])
    plan = planned(bucket)
    assert plan.hole == Hole(13, 13)
    assert plan.reaches == 12


def test_no_rival_that_fits_is_a_hole_that_nothing_proves() -> None:
    bucket = filled(appended(LOG[:8], 2, range(5))[8:], LOG[10:])
    bucket.put(LOG[:8])
    bucket.put(appended(LOG[:7], 1, (90, 91, 92))[7:])
    plan = planned(bucket)
    assert plan.hole is not None and not plan.hole.certain


DEAD = appended(LOG[:8], 2, range(5))[8:]
"""Records 9 to 14 of epoch 2, in the place of 9 and 10 of epoch 1."""


def test_a_damaged_object_at_a_seam_shows_which_branch_the_log_took() -> None:
    """Its records up to 6 are restored already; the dead branch offers 9 and 10, and gets nothing to say."""
    bucket = filled(LOG, DEAD)
    damaged = next(run for run in bucket.objects if run.first == 1)
    plan = planned(bucket, base=6, bad={damaged: "altered"})
    assert plan.hole == Hole(7, 10, (f"{damaged.key}: altered",))
    assert plan.pieces == () and spans(plan) == []
    assert [(piece.first, piece.last) for piece in plan.beyond] == [(11, 15)]


def test_below_a_damaged_object_its_epoch_goes_on() -> None:
    bucket = filled(LOG, DEAD, cuts=(3, 6))
    damaged = next(run for run in bucket.objects if run.first == 7)
    plan = planned(bucket, bad={damaged: "altered"})
    assert spans(plan) == [(1, 1, 3), (1, 4, 6)] and plan.hole is not None
    assert (plan.hole.first, plan.hole.last, plan.hole.certain) == (7, 10, True)


def test_older_epochs_do_not_supply_what_a_damaged_object_held() -> None:
    """Epoch 1 died at record 3, and two of its objects reach into the place of epoch 2, whose one object is damaged."""
    old = appended((), 1, range(8))
    log = appended(appended(old[:3], 2, range(4)), 3, range(2))
    bucket = filled(old, log[3:], cuts=(3,))
    damaged = next(run for run in bucket.objects if run.epoch == 2)
    plan = planned(bucket, bad={damaged: "altered"})
    assert plan.hole is not None and (plan.hole.first, plan.hole.last, plan.hole.certain) == (4, 8, True)
    assert spans(plan) == [(1, 1, 3)]


def test_where_the_last_record_before_a_seam_cannot_be_read_the_others_are_taken() -> None:
    bucket = filled(LOG, DEAD)
    run = next(run for run in bucket.objects if run.first == 1)
    plan = planned(bucket, hidden=LogPosition(1, 10))
    assert spans(plan) == [(1, 1, 9)]
    assert plan.hole == Hole(10, 10, (f"{run.key}: record 10 in it cannot be read",), certain=False)


def test_two_chains_at_the_tip_are_no_log() -> None:
    bucket = filled(LOG, appended(LOG[:10], 3, (7, 7, 7, 7))[10:])
    plan = planned(bucket)
    assert plan.hole is not None and plan.reaches == 10


def test_below_a_position_nothing_above_matters() -> None:
    bucket = filled(LOG, cuts=(4, 8))
    del bucket.objects[next(run for run in bucket.objects if run.first == 9)]
    plan = below(planned(bucket), 6)
    assert spans(plan) == [(1, 1, 4), (1, 5, 6)]
    assert plan.hole is None and plan.beyond == ()


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_whatever_is_lost_the_plan_says_exactly_what_is_left(seed: int) -> None:
    """Groups at random, some lost or damaged: pieces, holes and pieces beyond are the log, and orphans in none."""
    chance = random.Random(seed)
    log: Log = ()
    bucket = PaperBucket()
    for epoch in sorted(chance.sample(range(1, 12), 3)):
        if log and chance.random() < 0.6:
            cut = chance.randrange(max(1, len(log) - 4), len(log) + 1)
            for group in grouped(log[cut:], ()):
                bucket.put(group)
            log = log[:cut]
        log = appended(log, epoch, range(chance.randrange(6)))
    cuts = chance.sample(range(1, len(log) + 1), min(4, len(log)))
    own = [bucket.put(group) for group in grouped(log, cuts)]
    assert planned(bucket).hole is None
    assert [n for _, a, b in spans(planned(bucket)) for n in range(a, b + 1)] == list(range(1, len(log) + 1))

    lost = [run for run in own[:-1] if chance.random() < 0.3]
    damaged = {run: "altered" for run in own[:-1] if run not in lost and chance.random() < 0.3}
    for run in lost:
        del bucket.objects[run]
    plan = planned(bucket, bad=damaged)
    holes = [plan.hole, *plan.holes] if plan.hole is not None else []
    told = [range(piece.first, piece.last + 1) for piece in (*plan.pieces, *plan.beyond)]
    told += [range(hole.first, hole.last + 1) for hole in holes]
    assert sorted(number for span in told for number in span) == list(range(1, len(log) + 1))
    gone = {n for run in (*lost, *damaged) for n in range(run.first, run.last + 1)}
    sound = bucket.objects.keys() - damaged.keys()
    gone -= {n for run in sound for n in range(run.first, run.last + 1) if _holds(bucket, run, log, n)}
    assert bool(holes) == bool(gone) or any(not hole.certain for hole in holes)


def _holds(bucket: PaperBucket, run: Run, log: Log, number: int) -> bool:
    link = next(link for link in read_run(run, bucket.objects[run]) if link.sequence == number)
    return number <= len(log) and link.chain == log[number - 1].point.chain
