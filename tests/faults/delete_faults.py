"""Deletes while nodes, lines, ZooKeeper and disks fail: what is gone stays gone, and nothing else goes.

Somebody deletes all the while (`tests/faults/operator.py`); some of it is undone or sent again.
"""

import signal

from perenne.local.cluster import LocalNode
from tests.faults.arena import Arena
from tests.faults.fault import fault
from tests.faults.tiered import tiered


@fault("deletes while the leader is killed and started")
def leader_bounced(arena: Arena) -> None:
    with arena.operator.deleting():
        arena.hold(1.5, 2.5)
        for _ in range(2):
            node = arena.leading()
            arena.process(node).kill()
            arena.hold(0, 1)
            arena.start_node(node)
            arena.hold(1.5, 4)


@fault("deletes while everybody is killed")
def everybody_killed(arena: Arena) -> None:
    with arena.operator.deleting():
        arena.hold(2, 4)
        for node in arena.nodes:
            arena.process(node).kill()
        arena.hold(0, 1)
        for node in arena.nodes:
            arena.start_node(node)
        arena.hold(3, 5)


@fault("deletes while the leader is cut from all nodes, not from ZooKeeper")
def leader_isolated(arena: Arena) -> None:
    with arena.operator.deleting():
        arena.hold(1.5, 3)
        leader = arena.leading()
        for other in arena.nodes:
            if other is not leader:
                arena.lines.cut(leader.id, other.id)
                arena.lines.cut(other.id, leader.id)
        arena.hold(3, 6)
        arena.lines.heal()
        arena.hold(1, 3)


@fault("deletes while the leader is stopped and continued")
def leader_stopped(arena: Arena) -> None:
    with arena.operator.deleting():
        arena.hold(1.5, 3)
        process = arena.process(arena.leading())
        process.signal(signal.SIGSTOP)
        arena.hold(3, 5)
        process.signal(signal.SIGCONT)
        arena.hold(1.5, 3)


@fault("deletes while ZooKeeper is killed and started")
def zookeeper_killed(arena: Arena) -> None:
    with arena.operator.deleting():
        arena.hold(1.5, 3)
        arena.kill_zookeeper()
        arena.hold(1, 3)
        arena.start_zookeeper()
        arena.hold(2, 4)


@fault("deletes, then a follower's disk is lost")
def follower_wiped(arena: Arena) -> list[LocalNode]:
    with arena.operator.deleting():
        arena.hold(2, 4)
        node = arena.following()
        arena.process(node).kill()
        arena.hold(1, 3)
    return [node]


@fault("deletes, then the leader and its disk lost while no other node is left", tier=True)
def leader_lost(arena: Arena) -> None:
    """The tombstones come out of the bucket."""
    own = tiered(arena)
    with arena.operator.deleting():
        arena.hold(2, 4)
    leader = own.left_with_tier()
    arena.hold(0.5, 2)
    own.lose(leader)
    arena.start_node(own.followers(leader)[0])
    own.await_lead(*own.followers(leader))
    arena.hold(1, 2)
