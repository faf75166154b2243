"""Some rounds of real faults on real processes; `script/torture` plays all of them, again and again.

Goal: nothing that was acknowledged is lost, altered or denied, whatever strikes. Method: senders with a journal, one
fault, healing, and two judges: plain tar, and every node's own answer.
"""

from collections.abc import Generator
from pathlib import Path

import pytest

from tests.faults import namespaces
from tests.faults.arena import Unavailable
from tests.faults.catalogue import CATALOGUE
from tests.faults.rounds import Rounds
from tests.faults.tiered import TieredArena

IN_CI = (
    "leader killed, started at once",
    "leader cut from everything",
    "record damaged at the leader",
    "leader's disk rolled back",
    "deletes while the leader is killed and started",
    "verify and repair at any moment, nodes killed and started",
    pytest.param("fsync fails", marks=pytest.mark.needs("fusermount3")),
)

WITH_A_BUCKET = (
    "the past restored, killed, interrupted and resumed",
    "eviction races reads, the node itself killed and started",
)


@pytest.fixture(scope="module")
def rounds(tmp_path_factory: pytest.TempPathFactory) -> Generator[Rounds]:
    playing = Rounds(Path(tmp_path_factory.mktemp("arena")), seed=1, ensemble=False)
    try:
        yield playing
    finally:
        playing.end()


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", IN_CI)
def test_nothing_acknowledged_is_lost(rounds: Rounds, name: str) -> None:
    if not rounds.alive:
        pytest.skip("an earlier round broke this cluster")
    outcome = rounds.play(rounds.played, CATALOGUE[name])
    if outcome.skipped:
        pytest.skip(outcome.skipped)
    assert outcome.violations == []
    assert outcome.acknowledged_in_round > 0


@pytest.fixture(scope="module")
def with_bucket(tmp_path_factory: pytest.TempPathFactory) -> Generator[Rounds]:
    directory = Path(tmp_path_factory.mktemp("tiered"))
    made = TieredArena(directory, seed=4, size=2, mode="standby")
    made.extra = made.extra.replace("segment_bytes = 4194304", "segment_bytes = 1048576")  # they are sealed sooner
    playing = Rounds(directory, seed=4, ensemble=False, made=made, pause_s=0.1)
    try:
        yield playing
    finally:
        playing.end()


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", WITH_A_BUCKET)
def test_nothing_is_lost_where_verbs_work_on_nodes_and_bucket(with_bucket: Rounds, name: str) -> None:
    if not with_bucket.alive:
        pytest.skip("an earlier round broke this cluster")
    outcome = with_bucket.play(with_bucket.played, CATALOGUE[name])
    assert outcome.violations == []
    assert outcome.acknowledged_in_round > 0
    assert outcome.done


@pytest.mark.needs(*namespaces.TOOLS)
def test_nothing_is_lost_where_packets_are_dropped(tmp_path: Path) -> None:
    """Every party in a network namespace of its own; the fault fails by itself when it drops nothing."""
    try:
        playing = Rounds(tmp_path, seed=2, ensemble=False, namespaces=True)
    except Unavailable as why:
        pytest.skip(str(why))
    try:
        outcome = playing.play(0, CATALOGUE["leader cut from everything: packets dropped"])
    finally:
        playing.end()
    assert outcome.violations == []
    assert outcome.acknowledged_in_round > 0


def test_nothing_is_lost_where_the_bucket_holds_the_only_other_copy(tmp_path: Path) -> None:
    """Two nodes and SeaweedFS: the follower dies, and then the bucket does what it is asked without an answer."""
    playing = Rounds(tmp_path, seed=3, ensemble=False, made=TieredArena(tmp_path, seed=3, size=2, mode="standby"))
    try:
        outcome = playing.play(0, CATALOGUE["bucket doing it without an answer while no other node is left"])
    finally:
        playing.end()
    assert outcome.violations == []
    assert outcome.acknowledged_in_round > 0
    assert outcome.struck > 0
