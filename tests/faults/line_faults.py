"""Lines between nodes and to ZooKeeper that carry nothing, one way or both, or slowly, or break."""

from tests.faults.arena import ZOOKEEPER, Arena
from tests.faults.fault import fault


@fault("leader and follower cut apart")
def peers_cut(arena: Arena) -> None:
    leader, follower = arena.leading(), arena.following()
    arena.lines.cut(leader.id, follower.id)
    arena.lines.cut(follower.id, leader.id)
    arena.hold(3, 6)


@fault("nothing reaches a follower from the leader")
def leader_mute(arena: Arena) -> None:
    arena.lines.cut(arena.leading().id, arena.following().id)
    arena.hold(3, 6)


@fault("nothing reaches the leader from a follower")
def leader_deaf(arena: Arena) -> None:
    arena.lines.cut(arena.following().id, arena.leading().id)
    arena.hold(3, 6)


@fault("leader cut from all nodes, not from ZooKeeper")
def leader_isolated(arena: Arena) -> None:
    leader = arena.leading()
    for other in arena.nodes:
        if other is not leader:
            arena.lines.cut(leader.id, other.id)
            arena.lines.cut(other.id, leader.id)
    arena.hold(3, 6)


@fault("leader cut from ZooKeeper")
def leader_without_zookeeper(arena: Arena) -> None:
    leader = arena.leading()
    arena.lines.cut(leader.id, ZOOKEEPER)
    arena.lines.cut(ZOOKEEPER, leader.id)
    arena.hold(3, 6)


@fault("leader hears ZooKeeper, ZooKeeper does not hear it")
def leader_unheard(arena: Arena) -> None:
    arena.lines.cut(arena.leading().id, ZOOKEEPER)
    arena.hold(3, 6)


@fault("ZooKeeper's answers do not reach the leader")
def leader_unanswered(arena: Arena) -> None:
    arena.lines.cut(ZOOKEEPER, arena.leading().id)
    arena.hold(3, 6)


@fault("follower cut from ZooKeeper")
def follower_without_zookeeper(arena: Arena) -> None:
    follower = arena.following()
    arena.lines.cut(follower.id, ZOOKEEPER)
    arena.lines.cut(ZOOKEEPER, follower.id)
    arena.hold(3, 5)


@fault("leader cut from everything")
def leader_alone(arena: Arena) -> None:
    leader = arena.leading()
    for other in [*(node.id for node in arena.nodes if node is not leader), ZOOKEEPER]:
        arena.lines.cut(leader.id, other)
        arena.lines.cut(other, leader.id)
    arena.hold(4, 6)


@fault("lines slow and jittery")
def slow_lines(arena: Arena) -> None:
    names = [*(node.id for node in arena.nodes), ZOOKEEPER]
    for source in names:
        for target in names:
            if source != target:
                arena.lines.slow(source, target, arena.chance.choice((0.0, 0.02, 0.1, 0.4)))
    arena.hold(4, 6)


@fault("connections reset again and again")
def resets(arena: Arena) -> None:
    names = [*(node.id for node in arena.nodes), ZOOKEEPER]
    for _ in range(12):
        one, other = arena.chance.sample(names, 2)
        arena.lines.reset(one, other)
        arena.hold(0.05, 0.5)
