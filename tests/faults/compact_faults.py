"""Compaction while nodes and the bucket fail: only the bytes of what was deleted go, whenever somebody dies.

A node rewrites a segment when nobody stores or reads for a second, so senders pause here; the judges ask for what they
were told before and after.
"""

import subprocess
from collections.abc import Callable

from perenne.local.cluster import LocalNode
from tests.faults.arena import Arena, FaultFailed
from tests.faults.fault import fault
from tests.faults.operator import after
from tests.faults.tiered import TieredArena, tiered

_WAIT_S = 40.0
_SEGMENT_LIKE = 512 * 1024


def stubs(node: LocalNode) -> int:
    """How many records of a node's log have lost their payload, as plain tar lists them."""
    found = 0
    for segment in (node.data_dir / "log").glob("*.tar"):
        listed = subprocess.run(["tar", "tif", str(segment)], capture_output=True, text=True, check=False)
        found += listed.stdout.count(".dcm.deleted.txt\n")
    return found


def _prepared(arena: Arena) -> dict[str, int]:
    """Delete some, and let newer records seal the segments that hold them; return how many stubs nodes had before."""
    before = {node.id: stubs(node) for node in arena.nodes}
    arena.hold(1, 2)
    for _ in range(2):
        if not arena.operator.delete(25)[1]:
            raise FaultFailed("nothing could be deleted although nothing had failed yet")
    arena.hold(2, 3)
    return before


def _more(arena: Arena, before: dict[str, int]) -> Callable[[], bool]:
    return lambda: any(stubs(node) > before[node.id] for node in arena.nodes)


def _permitting(arena: Arena) -> None:
    """Somebody types it again and again; now and then with Ctrl-C."""
    arena.operator.asks("compact", "--yes", interrupt=after(arena.chance.uniform(2, 6)))


def _went_on(arena: Arena, before: dict[str, int]) -> None:
    """Once nobody dies any more, some segment is compacted, or was before. Raises FaultFailed."""
    arena.wait_whole()
    done = _more(arena, before)
    with arena.operator.busy(lambda: _permitting(arena)):
        if not arena.until(done, _WAIT_S):
            raise FaultFailed("nothing was compacted")
    arena.operator.done["stubs"] += sum(stubs(node) - before[node.id] for node in arena.nodes)


@fault("compaction while nodes are killed and started")
def nodes_killed(arena: Arena) -> None:
    before = _prepared(arena)
    with arena.operator.calm():
        with arena.operator.busy(lambda: _permitting(arena)):
            for _ in range(3):
                arena.hold(0.8, 3)
                node = arena.chance.choice(arena.nodes)
                arena.process(node).kill()
                arena.start_node(node)
        _went_on(arena, before)


@fault("compaction, everybody killed at the first stub")
def killed_at_first_stub(arena: Arena) -> None:
    before = _prepared(arena)
    with arena.operator.calm():
        with arena.operator.busy(lambda: _permitting(arena)):
            arena.until(_more(arena, before), _WAIT_S)
            for node in arena.nodes:
                arena.process(node).kill()
        for node in arena.nodes:
            arena.start_node(node)
        _went_on(arena, before)


@fault("compaction, then a follower's disk is lost")
def follower_wiped(arena: Arena) -> list[LocalNode]:
    """It is filled with stubs, and believes each by its tombstone alone."""
    before = _prepared(arena)
    with arena.operator.calm():
        _went_on(arena, before)
    node = arena.following()
    arena.process(node).kill()
    arena.hold(0, 2)
    return [node]


# With a bucket


def stubs_in_bucket(arena: TieredArena) -> int:
    return sum(run.form.stubs for run in arena.runs())


def _bucket_went_on(own: TieredArena, before: int) -> None:
    """The bucket has them too. Raises FaultFailed."""
    with own.operator.busy(lambda: _permitting(own)):
        if not own.until(lambda: stubs_in_bucket(own) > before, _WAIT_S):
            found = own.leader()
            why = found.status()["tier"] if found is not None else "nobody leads"
            raise FaultFailed(f"no segment of the bucket was compacted: {why}")
    own.operator.done["stubs in the bucket"] += stubs_in_bucket(own) - before


def _twice(arena: Arena, strike: Callable[[TieredArena], None]) -> None:
    """While segments of the bucket are compacted, from the first stub on."""
    own = tiered(arena)
    there, before = stubs_in_bucket(own), _prepared(arena)
    with arena.operator.calm():
        with arena.operator.busy(lambda: _permitting(arena)):
            arena.until(_more(arena, before), _WAIT_S)
            for _ in range(2):
                strike(own)
        arena.wait_whole()
        _bucket_went_on(own, there)


@fault("compaction of the bucket while leaders are killed", tier=True)
def bucket_leaders_killed(arena: Arena) -> None:
    def strike(own: TieredArena) -> None:
        own.hold(0, 2)
        leader = own.leading()
        own.process(leader).kill()
        own.start_node(leader)

    _twice(arena, strike)


@fault("compaction of the bucket while it is killed and started", tier=True)
def bucket_killed(arena: Arena) -> None:
    def strike(own: TieredArena) -> None:
        own.hold(0, 1)
        own.store.kill()
        own.hold(0.2, 2)
        own.start_store()

    _twice(arena, strike)


@fault("compaction, then the leader and its disk lost while no other node is left", tier=True)
def leader_lost(arena: Arena) -> None:
    """Whoever takes over through the bucket gets stubs from there."""
    own = tiered(arena)
    there = stubs_in_bucket(own)
    _prepared(arena)
    with arena.operator.calm():
        _bucket_went_on(own, there)
    leader = own.left_with_tier()
    arena.hold(0.5, 2)
    own.lose(leader)
    follower = own.followers(leader)[0]
    if arena.chance.random() < 0.5:
        own.lose(follower)  # nothing but the bucket is left of the log
    arena.start_node(follower)
    own.await_lead(follower)
    arena.hold(1, 2)


@fault("a stopped leader's PUT of a compacted segment comes late", tier=True)
def late_put(arena: Arena) -> None:
    """Its successor has begun to lead meanwhile, and puts the same under the same name."""
    own = tiered(arena)
    there, before = stubs_in_bucket(own), _prepared(arena)
    with arena.operator.calm():
        zombie = arena.leading()
        with arena.operator.busy(lambda: _permitting(arena)):
            arena.until(_more(arena, before), _WAIT_S)
            own.hold_put(zombie, least_bytes=_SEGMENT_LIKE)
        own.suspend(zombie)
        own.await_lead(*own.followers(zombie))
        arena.hold(0, 2)
        own.let_through()
        own.resume()
        arena.wait_whole()
        _bucket_went_on(own, there)
