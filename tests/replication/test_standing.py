"""The copy of `state` that a node keeps for a person's verbs: read back as written, and never believed when damaged."""

from dataclasses import replace
from pathlib import Path

from replication.core.values import Change, ClusterState, Member, Phase, ReplicaId
from replication.standing import FILE, newest, recall, remember
from storage.disk import RealDisk

STATE = ClusterState(Change(7, "a"), 4, None, Phase.ACTIVE, frozenset({Member(ReplicaId("n1"), "disk-1")}))


def test_an_older_state_does_not_take_the_place_of_a_newer_one() -> None:
    older = replace(STATE, change=Change(6, "b"))
    assert newest(STATE, older) == newest(older, STATE) == newest(None, STATE) == newest(STATE, None) == STATE
    assert newest(None, None) is None


def test_what_was_written_down_is_recalled_and_what_is_damaged_is_not(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path)
    assert recall(disk) is None
    remember(disk, STATE)
    assert recall(disk) == STATE
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:-20])
    assert recall(disk) is None
    disk.close()
