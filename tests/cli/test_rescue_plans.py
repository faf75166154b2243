"""Goal: the verbs of a rescue write nothing by what another cluster's tier or ZooKeeper shows, and say what goes.

Method: what a survey found, put together by hand; the tier is a directory.
"""

import asyncio
from dataclasses import replace
from pathlib import Path

from perenne.cli import rescuing
from perenne.config_reading import load_config
from perenne.rescue import Seen, plan_failover, plan_rebuild
from perenne.survey import Answer
from replication.coordination.port import ClusterRecord, LiveNode, NodeRegistration
from replication.coordination.surgery import Found
from replication.core.rescue import Bucket, Plan, Refused
from replication.core.values import Identity, VersionedState
from replication.tier.manifest import claim_for
from storage.position import GENESIS, LogPosition
from tests.core.test_rescue import N1, N2, N3, point, standing, state
from tests.tier.rig import directory_reached

OURS, THEIRS = ClusterRecord("ours", 1, 4096), ClusterRecord("theirs", 1, 4096)
FOUND = Found(
    cluster=OURS,
    state=VersionedState(state(N1, N2, counter=7), 3),
    tier_floor=None,
    leader=None,
    registrations={m.id: NodeRegistration(m.id, m.incarnation, GENESIS) for m in (N1, N2, N3)},
    live={},
    versions={},
)
N3_LEFT = Answer(address="n3", cluster=OURS, standing=standing(N3, (4, 1, 9), told=point(4, 5)))
SEEN = Seen(found=FOUND, answers=[N3_LEFT])
LOST = {"n1", "n2"}


def test_the_tier_of_another_cluster_is_not_taken_for_ours(tmp_path: Path) -> None:
    """By names alone it holds more than any node, and so nothing seems to be lost."""
    more = Bucket(LogPosition(6, 5000), 0, 6)
    assert isinstance(plan_failover(SEEN, LOST, more, tier_of="ours"), Plan)
    for plan in (
        plan_failover(SEEN, LOST, more, tier_of="theirs"),
        plan_rebuild(SEEN, LOST, more, accept_loss=True, tier_of="theirs"),
    ):
        assert isinstance(plan, Refused)
        assert "the tier belongs to cluster theirs" in plan.reasons[0]

    reached = directory_reached(tmp_path / "san")
    file = tmp_path / "node.toml"
    file.write_text(f'[tier]\nkind = "directory"\ndirectory = "{tmp_path}/san"\n')
    assert rescuing.bucket(load_config(file, {}))[1] is None
    asyncio.run(claim_for(reached.store, THEIRS))
    assert rescuing.bucket(load_config(file, {}))[1] == "theirs"


def test_the_state_of_another_cluster_is_not_given_to_our_nodes() -> None:
    strange = replace(SEEN, found=replace(FOUND, cluster=THEIRS))
    plan = plan_failover(strange, LOST, None)
    assert isinstance(plan, Refused)
    assert "ZooKeeper holds cluster theirs, and the nodes are of ours" in plan.reasons[0]


def test_a_rebuild_says_whose_state_it_overwrites() -> None:
    """Nodes with empty disks began a cluster of their own while ZooKeeper was empty, and may have taken stores."""
    begun = replace(FOUND, cluster=THEIRS, state=VersionedState(state(N1, counter=3), 1))
    plan = plan_rebuild(replace(SEEN, found=begun), LOST, None, accept_loss=True)
    assert isinstance(plan, Plan)
    assert any("another cluster, theirs" in note and "keep their disks" in note for note in plan.notes)
    ours = plan_rebuild(replace(SEEN, found=replace(begun, cluster=OURS)), LOST, None, accept_loss=True)
    assert isinstance(ours, Plan)
    assert not any("theirs" in note for note in ours.notes)


def test_who_keeps_a_session_is_not_given_up_because_he_cannot_be_reached() -> None:
    """A firewall, or a token that is not the nodes', and not a lost disk."""
    who = Identity(N1.id, N1.incarnation, "b")
    live = {N1.id: LiveNode(who, "10.0.0.1", 1, 2, 8080, "PERENNE", "0", GENESIS)}
    there = replace(SEEN, found=replace(FOUND, live=live))
    for plan in (plan_failover(there, LOST, None), plan_rebuild(there, LOST, None, accept_loss=True)):
        assert isinstance(plan, Refused)
        assert "n1 keeps its session at ZooKeeper" in plan.reasons[0]
