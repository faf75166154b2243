"""A bucket that does not do what it is asked: each while it only follows, and while no node but the leader is left.

In `standby` the first is the set {A, B}, the second {A, tier}; with `synchronous` the first is {A, B, tier}. Each fault
sees for itself that a request met it.
"""

import contextlib
import signal
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from typing import Final

from tests.faults.arena import Arena, FaultFailed
from tests.faults.fault import fault
from tests.faults.store_lines import FULL, SLOW_DOWN, Manner
from tests.faults.tiered import TieredArena, tiered

Outage = Callable[[TieredArena], AbstractContextManager[None]]


@contextlib.contextmanager
def _killed(arena: TieredArena) -> Generator[None]:
    before = arena.asked()
    arena.store.kill()
    yield
    if not arena.until(lambda: arena.asked() > before, 15):
        raise FaultFailed("nobody asked the bucket while it was away")
    arena.start_store()


@contextlib.contextmanager
def _stopped(arena: TieredArena) -> Generator[None]:
    before = arena.asked()
    arena.store.running.signal(signal.SIGSTOP)
    yield
    if not arena.until(lambda: arena.asked() > before, 15):
        raise FaultFailed("nobody asked the bucket while it was stopped")
    arena.store.running.signal(signal.SIGCONT)


def _treated(manner: Manner) -> Outage:
    @contextlib.contextmanager
    def treated(arena: TieredArena) -> Generator[None]:
        before = arena.struck()
        arena.store_lines.treat(manner, *(node.id for node in arena.nodes))
        yield
        arena.await_struck(before)
        arena.store_lines.release()

    return treated


_OUTAGES: Final[dict[str, Outage]] = {
    "killed and started": _killed,
    "stopped and continued": _stopped,
    "slow": _treated(Manner(slow_s=1.5)),
    "answering 503": _treated(Manner(answer=SLOW_DOWN)),
    "refusing the credentials": _treated(Manner(garbled=True)),
    "full": _treated(Manner(answer=FULL, writes_alone=True)),
    "doing it without an answer": _treated(Manner(mute=True)),
}


def _while_it_follows(name: str, outage: Outage) -> None:
    @fault(f"bucket {name}", tier=True)
    def strike(arena: Arena) -> None:  # pyright: ignore[reportUnusedFunction]
        with outage(tiered(arena)):
            arena.hold(3, 6)
        arena.hold(0, 1)


def _while_it_is_needed(name: str, outage: Outage) -> None:
    @fault(f"bucket {name} while no other node is left", tier=True)
    def strike(arena: Arena) -> None:  # pyright: ignore[reportUnusedFunction]
        own = tiered(arena)
        leader = own.left_with_tier()
        arena.hold(0.5, 1.5)
        with outage(own):
            arena.hold(2, 5)
            if arena.chance.random() < 0.5:  # a node that comes back is the other way out
                arena.start_node(own.followers(leader)[0])
                arena.hold(2, 4)
        arena.hold(0, 1)


for _name, _outage in _OUTAGES.items():
    _while_it_follows(_name, _outage)
    _while_it_is_needed(_name, _outage)


@fault("leader cut from followers, then from the bucket", tier=True)
def leader_cut_from_bucket(arena: Arena) -> None:
    """The followers live, but the leader reaches neither them nor the bucket; only ZooKeeper."""
    own = tiered(arena)
    leader = own.leading()
    for other in own.followers(leader):
        arena.lines.cut(leader.id, other.id)
        arena.lines.cut(other.id, leader.id)
    own.await_tier(leader)
    arena.hold(0.5, 1.5)
    before = own.struck()
    own.store_lines.treat(Manner(cut=True), leader.id)
    arena.hold(3, 6)
    own.await_struck(before)


@fault("bucket and followers lost at once", tier=True)
def bucket_and_followers_lost(arena: Arena) -> None:
    own = tiered(arena)
    leader = own.leading()
    for node in own.followers(leader):
        arena.process(node).kill()
    own.store.kill()
    arena.hold(2, 4)
    if arena.chance.random() < 0.5:
        own.start_store()
    else:
        arena.start_node(own.followers(leader)[0])
    arena.hold(2, 4)
