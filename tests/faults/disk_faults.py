"""Disks that are full, fail, rot, are replaced, or are put back from a backup."""

from collections.abc import Callable

from perenne.local.cluster import LocalNode
from storage.table import Entry
from tests.faults import damage
from tests.faults.arena import Arena, FaultFailed, Unavailable, replace_tree
from tests.faults.failing_disk import FAIL, FAILED
from tests.faults.fault import fault


@fault("disk full")
def disk_full(arena: Arena) -> None:
    if not arena.small_disk:
        raise Unavailable("a small file system cannot be mounted here")
    node = arena.small_node
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
    if not (failed := arena.directory / FAILED).exists():
        raise FaultFailed("nobody synced while every fsync was to fail")
    failed.unlink()


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
