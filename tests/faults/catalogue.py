"""Every fault that real processes are made to suffer, by name. Each acts, lasts, and leaves the healing to the round.

needs_new_disk: a node whose log was damaged does not lead and is given an empty disk afterwards (docs/recovery.md);
the repair of single records is another issue's.
"""

import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from perenne.local.cluster import LocalNode
from storage.table import Entry
from tests.faults import damage
from tests.faults.arena import ZOOKEEPER, Arena, Unavailable, replace_tree
from tests.faults.failing_disk import FAIL

Act = Callable[[Arena], "list[LocalNode] | None"]


@dataclass(frozen=True, slots=True)
class Fault:
    """act returns the nodes that need a new disk. fatal: some nodes may not come back by themselves, on purpose:
    the cluster is given up afterwards, and the judge asks the bare disks only."""

    name: str
    act: Act
    fatal: bool = False


CATALOGUE: Final[dict[str, Fault]] = {}


def fault(name: str, *, fatal: bool = False) -> Callable[[Act], Act]:
    def register(act: Act) -> Act:
        assert name not in CATALOGUE, name
        CATALOGUE[name] = Fault(name, act, fatal)
        return act

    return register


# Processes


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


# ZooKeeper


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


# Lines


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


# Disks


@fault("disk full")
def disk_full(arena: Arena) -> None:
    if not arena.small_disk:
        raise Unavailable("a small file system cannot be mounted here")
    node = arena.nodes[2]
    filler = node.data_dir / "filler"
    with filler.open("wb") as file:
        try:
            while True:
                file.write(bytes(1 << 20))
                file.flush()
        except OSError:
            pass  # the disk is full, as it was meant to be
    arena.hold(4, 6)
    filler.unlink()
    arena.hold(0.5, 1)


@fault("fsync fails")
def fsync_fails(arena: Arena) -> None:
    if arena.failing_disk is None:
        raise Unavailable("no file system in user space: needs /dev/fuse, fuse3 and mfusepy")
    node = arena.nodes[1]
    fail = arena.directory / FAIL
    fail.touch()
    arena.hold(3, 5)
    fail.unlink()
    arena.process(node).stop()


@fault("record damaged at a follower")
def record_at_follower(arena: Arena) -> list[LocalNode]:
    return [_damaged(arena, arena.following(), _any_record)]


@fault("record damaged at the leader")
def record_at_leader(arena: Arena) -> list[LocalNode]:
    return [_damaged(arena, arena.leading(), _any_record)]


@fault("newest record damaged")
def newest_record(arena: Arena) -> list[LocalNode]:
    return [_damaged(arena, arena.chance.choice(arena.nodes), _newest_record)]


@fault("table entry damaged")
def table_entry(arena: Arena) -> list[LocalNode]:
    return [_damaged(arena, arena.chance.choice(arena.nodes), _any_entry)]


@fault("record damaged while the node runs")
def record_while_running(arena: Arena) -> list[LocalNode]:
    node = arena.chance.choice(arena.nodes)
    _any_record(arena, node)
    arena.hold(2, 3)
    return [node]


@fault("promise damaged in one place")
def promise(arena: Arena) -> list[LocalNode]:
    node = arena.chance.choice(arena.nodes)
    arena.process(node).kill()
    damage.flip(node.data_dir / "promise", arena.chance.choice((0, 4096)), 200, arena.chance)
    arena.start_node(node)
    arena.hold(3, 4)
    return [] if arena.process(node).alive else [node]


@fault("index damaged")
def index(arena: Arena) -> None:
    node = arena.chance.choice(arena.nodes)
    arena.process(node).kill()
    path = node.data_dir / "index.sqlite"
    for _ in range(50):
        damage.flip(path, 0, path.stat().st_size, arena.chance)
    arena.start_node(node)
    arena.hold(3, 4)


@fault("damage on all nodes, nowhere twice", fatal=True)
def damage_everywhere(arena: Arena) -> list[LocalNode]:
    arena.wait_whole()
    for node in arena.nodes:
        arena.process(node).kill()
    taken: set[int] = set()
    for node in arena.nodes:
        for _ in range(3):
            held, entry = _choose(arena, node, without=taken)
            taken.add(damage.flip_record(held, entry, arena.chance))
    for node in arena.nodes:
        arena.start_node(node)
    arena.hold(6, 8)
    return []


@fault("disk wiped")
def disk_wiped(arena: Arena) -> list[LocalNode]:
    node = arena.chance.choice(arena.nodes)
    arena.process(node).kill()
    arena.hold(0, 3)
    return [node]


@fault("follower's disk rolled back")
def follower_rolled_back(arena: Arena) -> list[LocalNode]:
    return _rolled_back(arena, arena.following())


@fault("leader's disk rolled back")
def leader_rolled_back(arena: Arena) -> list[LocalNode]:
    return _rolled_back(arena, arena.leading())


# Clocks


@fault("a node's clock jumps")
def clock_jumps(arena: Arena) -> None:
    node = arena.leading()
    clock = arena.give_moving_clock(node)
    arena.wait_whole()
    for _ in range(3):
        clock.write_text(arena.chance.choice(("+1h", "-1h", "+400d", "-2y", "+0s")) + "\n")
        arena.hold(1, 2)
    arena.take_clock(node)


# How


def _choose(arena: Arena, node: LocalNode, without: set[int] | None = None) -> tuple[damage.Held, Entry]:
    """Any record of a node, but those that another node must still have."""
    choices = [
        (held, entry)
        for held in damage.segments(node.data_dir)
        for entry in held.entries
        if entry.position.sequence not in (without or ())
    ]
    return arena.chance.choice(choices)


def _any_record(arena: Arena, node: LocalNode) -> None:
    damage.flip_record(*_choose(arena, node), arena.chance)


def _newest_record(arena: Arena, node: LocalNode) -> None:
    held = [segment for segment in damage.segments(node.data_dir) if segment.entries][-1]
    damage.flip_record(held, held.entries[-1], arena.chance)


def _any_entry(arena: Arena, node: LocalNode) -> None:
    damage.flip_entry(*_choose(arena, node), arena.chance)


def _damaged(arena: Arena, node: LocalNode, how: Callable[[Arena, LocalNode], None]) -> LocalNode:
    """Kill a node, damage its disk, start it again, and let it meet the damage."""
    arena.process(node).kill()
    how(arena, node)
    arena.start_node(node)
    arena.hold(3, 5)
    return node


def _rolled_back(arena: Arena, node: LocalNode) -> list[LocalNode]:
    """Put an older copy of a disk back: what it promised and confirmed since is gone."""
    old = arena.directory / f"{node.id}-old"
    arena.process(node).kill()
    old.mkdir(exist_ok=True)
    replace_tree(node.data_dir, old)
    arena.start_node(node)
    arena.hold(3, 5)
    arena.process(node).kill()
    replace_tree(old, node.data_dir)
    arena.start_node(node)
    arena.hold(3, 4)
    return []
