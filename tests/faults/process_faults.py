"""Nodes and ZooKeeper that die, stop, come back, and remember less than they should; a clock that jumps."""

import signal

from tests.faults.arena import Arena, replace_tree
from tests.faults.fault import fault


@fault("leader killed")
def leader_killed(arena: Arena) -> None:
    arena.process(arena.leading()).kill()
    arena.hold(3, 5)


@fault("follower killed")
def follower_killed(arena: Arena) -> None:
    arena.process(arena.following()).kill()
    arena.hold(2, 4)


@fault("leader killed, started at once")
def leader_bounced(arena: Arena) -> None:
    node = arena.leading()
    arena.process(node).kill()
    arena.start_node(node)
    arena.hold(2, 4)


@fault("everybody killed at once")
def everybody_killed(arena: Arena) -> None:
    for node in arena.nodes:
        arena.process(node).kill()
    arena.hold(0, 1)


@fault("leader and a follower killed")
def two_killed(arena: Arena) -> None:
    follower = arena.following()
    arena.process(arena.leading()).kill()
    arena.process(follower).kill()
    arena.hold(2, 4)


@fault("leader killed, then its successor")
def successor_killed(arena: Arena) -> None:
    first = arena.leading()
    arena.process(first).kill()
    arena.until(lambda: arena.leader() is not None, 10)
    arena.start_node(first)
    successor = arena.leader()
    if successor is not None:
        arena.process(successor).kill()
    arena.hold(2, 4)


@fault("leader stopped and continued")
def leader_stopped(arena: Arena) -> None:
    process = arena.process(arena.leading())
    process.signal(signal.SIGSTOP)
    arena.hold(3, 6)
    process.signal(signal.SIGCONT)
    arena.hold(1, 2)


@fault("leader stopped for less than a session")
def leader_hiccup(arena: Arena) -> None:
    process = arena.process(arena.leading())
    for _ in range(4):
        process.signal(signal.SIGSTOP)
        arena.hold(0.1, 1.2)
        process.signal(signal.SIGCONT)
        arena.hold(0.1, 0.5)


@fault("follower stopped and continued")
def follower_stopped(arena: Arena) -> None:
    process = arena.process(arena.following())
    process.signal(signal.SIGSTOP)
    arena.hold(3, 6)
    process.signal(signal.SIGCONT)
    arena.hold(1, 2)


@fault("leader asked to end")
def leader_terminated(arena: Arena) -> None:
    arena.process(arena.leading()).stop()
    arena.hold(1, 3)


@fault("ZooKeeper killed and started")
def zookeeper_killed(arena: Arena) -> None:
    arena.kill_zookeeper()
    arena.hold(1, 4)
    arena.start_zookeeper()
    arena.hold(1, 2)


@fault("one ZooKeeper server killed")
def one_zookeeper_killed(arena: Arena) -> None:
    arena.chance.choice(arena.keepers).kill()
    arena.hold(3, 5)


@fault("ZooKeeper stopped and continued")
def zookeeper_stopped(arena: Arena) -> None:
    for keeper in arena.keepers:
        keeper.signal(signal.SIGSTOP)
    arena.hold(2, 6)
    for keeper in arena.keepers:
        keeper.signal(signal.SIGCONT)
    arena.hold(1, 2)


@fault("ZooKeeper stopped, leader killed")
def zookeeper_stopped_leader_killed(arena: Arena) -> None:
    leader = arena.leading()
    for keeper in arena.keepers:
        keeper.signal(signal.SIGSTOP)
    arena.hold(0.2, 1)
    arena.process(leader).kill()
    arena.hold(1, 3)
    for keeper in arena.keepers:
        keeper.signal(signal.SIGCONT)
    arena.hold(2, 3)


@fault("ZooKeeper rolled back")
def zookeeper_rolled_back(arena: Arena) -> None:
    """An old backup, then a change of leader, then the old backup is put in place: nobody may lead by it. The true
    data comes back afterwards: without the operator's rebuild, nothing else may heal this."""
    arena.kill_zookeeper()
    copies = [(data, data.parent / "old", data.parent / "true") for data in arena.zookeeper_data()]
    for data, old, true in copies:
        for directory in (old, true):
            directory.mkdir(exist_ok=True)
        replace_tree(data, old)
    arena.start_zookeeper()
    killed = arena.leading()
    arena.process(killed).kill()
    arena.hold(4, 5)
    arena.kill_zookeeper()
    for data, old, true in copies:
        replace_tree(data, true)
        replace_tree(old, data)
    arena.start_zookeeper()
    arena.start_node(killed)  # it was the leader then, and knows nothing of what came after
    arena.hold(4, 6)
    arena.kill_zookeeper()
    for data, _, true in copies:
        replace_tree(true, data)
    arena.start_zookeeper()


@fault("a node's clock jumps")
def clock_jumps(arena: Arena) -> None:
    node = arena.leading()
    clock = arena.give_moving_clock(node)
    arena.wait_whole()
    for _ in range(3):
        clock.write_text(arena.chance.choice(("+1h", "-1h", "+400d", "-2y", "+0s")) + "\n")
        arena.hold(1, 2)
    arena.take_clock(node)
