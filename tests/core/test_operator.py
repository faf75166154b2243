"""Goal: what an operator asks of a cluster leaves every promise standing: a node retires, a state is made anew.

Method: three nodes on paper; the state that a verb plans is put into the coordination service as the verb would.
"""

from dataclasses import replace

from replication.core import effects as fx
from replication.core import events as ev
from replication.core.loss import after_a_loss
from replication.core.rebuild import rebuilt
from replication.core.rescue import Approval, Plan, Refused, Standing, Surroundings
from replication.core.values import ClusterState, Member, ReplicaId, VersionedState
from tests.core.hands import HandCluster, HeldNode, both, met

YES = Approval("anna@pacs", 0, "by hand")


def retired(node: HeldNode) -> bool:
    return any(isinstance(effect, fx.Retired) for effect in node.effects)


def standing(node: HeldNode) -> Standing:
    situation = node.replica.situation
    ledger, beat = situation.ledger, situation.settings.heartbeat_ms
    hears = node.replica.leadership is not None or node.replica.following.hears_leader(4 * beat)
    return Standing(
        member=situation.me.member,
        end=ledger.durable,
        told=situation.told,
        floor=situation.floor,
        promise=situation.wanted_promise,
        counter=situation.counter,
        epochs=tuple(ledger.epochs()),
        intact=ledger.intact,
        fenced=situation.fenced,
        remembered=situation.cluster,
        leader=node.replica.leader if hears else None,
    )


def surroundings(cluster: HandCluster) -> Surroundings:
    registered = {ReplicaId(name): disk.incarnation for name, disk in cluster.disks.items()}
    return Surroundings(registered=registered, leader=cluster.service.leader)


def written(cluster: HandCluster, plan: Plan | Refused) -> ClusterState:
    assert isinstance(plan, Plan), plan
    cluster.service.state, cluster.service.leader = VersionedState(plan.state, 100), None
    for node in cluster.nodes.values():
        cluster.read(node)
    return plan.state


# Retiring


def test_a_follower_retires_and_the_others_hold_everything_without_it() -> None:
    cluster = met()
    leader, follower = both(cluster)
    cluster.offer(leader, "1.1")
    cluster.node(follower).feed(ev.RetireRequested())
    cluster.run_until(lambda: retired(cluster.node(follower)))
    assert follower not in cluster.in_sync()
    cluster.offer(leader, "1.2")
    cluster.run(5000)
    assert follower not in cluster.in_sync(), "it does not come back"
    assert {"1.1", "1.2"} <= cluster.promised.keys()
    assert [effect for effect in cluster.node(follower).effects if isinstance(effect, fx.Retired)] == [fx.Retired()]
    cluster.kill(leader)
    cluster.run(10_000)
    assert follower not in cluster.in_sync(), "not even where it is wanted, by a leader that never heard of it"


def test_a_leader_hands_over_before_it_retires() -> None:
    cluster = met()
    leader, _ = both(cluster)
    cluster.node(leader).feed(ev.RetireRequested())
    cluster.run_until(lambda: retired(cluster.node(leader)))
    assert cluster.leader is not None
    assert cluster.leader.name != leader
    assert len(cluster.in_sync()) == 2


def test_a_node_without_which_too_few_copies_would_be_left_stays_until_they_are_not() -> None:
    cluster = met()
    leader, follower = both(cluster)
    third = next(iter(set("abc") - {leader, follower}))
    cluster.kill(third)
    cluster.run_until(lambda: third not in cluster.in_sync())
    cluster.node(follower).feed(ev.RetireRequested())
    cluster.run(5000)
    cluster.offer(leader, "1.1")
    cluster.run(1000)
    assert not retired(cluster.node(follower))
    assert "1.1" in cluster.promised
    cluster.separate(leader, follower)
    cluster.run(20)
    cluster.heal()  # over the new connection nobody has said yet that it retires
    cluster.start(third)
    cluster.run_until(lambda: retired(cluster.node(follower)))
    assert cluster.in_sync() == {leader, third}


def test_a_node_that_retires_says_so_to_the_next_leader_as_well() -> None:
    cluster = met("abcd")
    leader, follower = both(cluster)
    cluster.separate(leader, follower)  # it cannot be told
    cluster.node(follower).feed(ev.RetireRequested())
    cluster.kill(leader)
    cluster.heal()
    cluster.run_until(lambda: retired(cluster.node(follower)))
    assert len(cluster.in_sync()) == 2


# The state is gone


def test_without_the_cluster_state_nobody_leads_and_the_rebuilt_one_loses_nothing() -> None:
    cluster = met()
    leader, follower = both(cluster)
    cluster.separate(leader, follower)
    cluster.run_until(lambda: len(cluster.in_sync()) == 2)
    cluster.offer(leader, "1.1")
    cluster.run(1000)
    assert "1.1" in cluster.promised
    cluster.heal()
    assert cluster.service.state is not None
    remembered = cluster.service.state.state
    cluster.service.state, cluster.service.leader = None, None
    for node in cluster.nodes.values():
        cluster.read(node)
    cluster.run(5000)
    assert cluster.leader is None
    nodes = [cluster.node(name) for name in "abc"]
    assert {node.replica.situation.not_standing for node in nodes} == {
        "the cluster state is gone, and this node holds data"
    }
    before = max(node.replica.situation.counter for node in nodes)
    plan = rebuilt(
        None,
        surroundings(cluster),
        [replace(standing(node), remembered=remembered) for node in nodes],
        bucket=None,
        without=(),
        accept_loss=False,
        approval=YES,
    )
    assert written(cluster, plan).change.counter > before
    cluster.run_until(lambda: cluster.in_sync() == set("abc"))
    assert cluster.lost() == []
    cluster.offer("a", "1.2")
    cluster.run(1000)
    assert "1.2" in cluster.promised


def test_while_somebody_hears_a_leader_nothing_is_planned() -> None:
    cluster = met()
    cluster.service.state, cluster.service.leader = None, None  # nobody has read it yet
    plan = rebuilt(
        None,
        surroundings(cluster),
        [standing(cluster.node(name)) for name in "abc"],
        bucket=None,
        without=(),
        accept_loss=True,
        approval=YES,
    )
    assert isinstance(plan, Refused)
    assert "still leads" in plan.reasons[0]


def test_a_survivor_goes_on_after_a_loss_was_accepted_and_fills_the_empty_disks() -> None:
    cluster = met()
    leader, survivor = both(cluster)
    third = next(iter(set("abc") - {leader, survivor}))
    cluster.offer(leader, "1.1")
    cluster.run(3000)
    cluster.kill(survivor)
    cluster.run_until(lambda: survivor not in cluster.in_sync())
    cluster.offer(leader, "1.2")
    cluster.run(1000)
    old = {Member(ReplicaId(name), cluster.disks[name].incarnation) for name in (leader, third)}
    for name in (leader, third):
        cluster.kill(name)
        cluster.wipe(name)
    cluster.start(survivor)
    cluster.run(20_000)
    assert cluster.leader is None
    plan = after_a_loss(
        cluster.state,
        surroundings(cluster),
        [standing(cluster.node(survivor))],
        without={leader, third},
        approval=YES,
    )
    assert isinstance(plan, Plan)
    assert old <= set(plan.left_out)
    written(cluster, plan)
    for name in (leader, third):
        cluster.start(name)
    cluster.run_until(lambda: cluster.in_sync() == set("abc"))
    assert "1.1" not in cluster.lost()
    assert "1.2" in cluster.lost(), "that is the loss"
