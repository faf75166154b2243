"""The checks themselves: each here must notice a bug that is played for it."""

# pyright: reportPrivateUsage=false

from collections.abc import Callable
from dataclasses import replace

import pytest

from replication.core.election import Candidacy
from replication.core.election import Stage as Candidate
from replication.core.statewriter import StateWriter
from replication.core.streams import Streams
from replication.core.values import Phase
from replication.tier.bodies import Body
from replication.tier.keys import parse_run
from replication.tier.port import Stored
from tests.simulation.bucket import BucketClient
from tests.simulation.stage import Stage, process_of
from tests.simulation.tier_stage import alone_with_tier, staged
from tests.simulation.world import Violation


@pytest.mark.parametrize("lost", [False, True], ids=["a whole bucket", "an object was lost"])
def test_what_was_never_put_is_no_copy(monkeypatch: pytest.MonkeyPatch, lost: bool) -> None:
    """A loss excuses the records that were in the lost object, and nothing that comes after it."""
    with staged() as stage:
        stage.stored(stage.leader, "1.1")
        bucket = stage.cluster.bucket
        stage.until(lambda: bucket.holds_dataset(stage.workload.versions["1.1"][0]))
        alone_with_tier(stage)
        stage.stored(stage.leader, "1.2")
        if lost:
            bucket.lose(next(key for key in bucket.objects if key.startswith("log/")))
        put = BucketClient.put

        async def forgetful(
            self: BucketClient,
            key: str,
            body: Body,
            *,
            crc32: int | None = None,
            only_if_absent: bool = True,
            lock: bool = False,
        ) -> Stored:
            if parse_run(key) is None:
                return await put(self, key, body, crc32=crc32, only_if_absent=only_if_absent, lock=lock)
            return Stored.CREATED

        monkeypatch.setattr(BucketClient, "put", forgetful)
        with pytest.raises(Violation, match="the tier is in the in-sync set without|commits .* with 1 copies"):
            stage.stored(stage.leader, "1.3")


def test_a_payload_without_its_header_is_no_copy() -> None:
    """The cache may have what the medium lacks: so every read succeeds."""
    with Stage(2) as stage:
        stage.stored(stage.leader, "1.1")
        (follower,) = stage.followers
        history = stage.cluster.checks.history
        head = history.head(history.committed_point.chain)
        (content,) = (c for name, c in follower.medium.files.items() if name.startswith("log/0"))
        at = content.medium.index(head)
        content.medium[at : at + len(head)] = bytes(len(head))
        with pytest.raises(Violation, match="acknowledged as record 2, is on"):
            stage.reckon()


def _shrinks(candidacy: Candidacy) -> None:
    """A winner that throws the others out while it is at it."""
    assert candidacy.writer is not None, "TAKING has a writer"
    me, state = candidacy._situation.me, candidacy.base.state
    alone = frozenset({me.member})
    state = replace(state, epoch=candidacy.epoch, leader=me, phase=Phase.RECOVERING, in_sync=alone)
    candidacy.writer.write(state, take_lead=True)


def _takes_at_once(candidacy: Candidacy) -> None:
    """A winner whose promise is on its way to the disk still."""
    candidacy.epoch = 1 + candidacy.base.state.epoch
    candidacy.stage = Candidate.TAKING
    candidacy.writer = StateWriter(candidacy._situation, candidacy.base)
    candidacy._take()


@pytest.mark.parametrize(
    ("where", "bug", "found"),
    [("_take", _shrinks, "changed the set"), ("_promise", _takes_at_once, "its disk has promised 1 only")],
    ids=["the set it was judged by", "the promise"],
)
def test_an_election_shows_that_it_was_won_by_right(
    monkeypatch: pytest.MonkeyPatch, where: str, bug: Callable[[Candidacy], None], found: str
) -> None:
    with Stage(3) as stage:
        stage.stored(stage.leader, "1.1")
        monkeypatch.setattr(Candidacy, where, bug)
        stage.strike("kill", stage.leader)
        with pytest.raises(Violation, match=found):
            stage.run(20_000)


def _keeps_the_stream(_streams: Streams, _link: int) -> None:
    """In place of letting go of it with its connection."""


def test_a_disk_that_the_leader_saw_go_is_no_copy_of_what_it_commits_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The leader is the slower one: what a follower confirmed whose disk is gone meanwhile counts with a leader to whom
    confirmations outlive their streams.
    """
    monkeypatch.setattr(Streams, "lost", _keeps_the_stream)
    with Stage(2) as stage:
        leader, (follower,) = stage.leader, stage.followers
        stage.stored(leader, "1.1")
        before = follower.durable.sequence
        process_of(leader).hung_until_us = stage.world.now_us + 120_000
        stage.offer(leader, "1.2")
        stage.until(lambda: follower.durable.sequence > before)
        stage.run(20)  # it has confirmed it
        stage.strike("kill", follower)
        stage.run(20)  # the leader has seen it go
        stage.strike("wipe", follower)
        assert leader.durable.sequence == before
        with pytest.raises(Violation, match="commits 3 with 1 copies"):
            stage.run(20_000)
