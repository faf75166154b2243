"""A node that lets go of its segments while others read them there, and while leaders and the bucket fail.

Afterwards it gets an empty disk, as docs/tier.md says: only so does a node that evicted hold everything again.
"""

import contextlib
import signal
from collections.abc import Generator

from perenne.local.cluster import LocalNode
from tests.faults.arena import Arena, FaultFailed
from tests.faults.fault import fault
from tests.faults.judge import debts_of, served
from tests.faults.reading import read_from
from tests.faults.store_lines import SLOW_DOWN, Manner
from tests.faults.tiered import TieredArena, tiered

_EVICTING = "evict_below_free_bytes = 1000000000000000\nevict_cache_bytes = 1048576\n"


def _evicted(node: LocalNode) -> int:
    return int(node.status()["capacity"]["tier_only_segments"])


def _ranges_read(node: LocalNode) -> int:
    """Since it was started."""
    return int(node.status()["capacity"]["ranges_read"])


def _restarted(own: TieredArena, node: LocalNode, extra: str) -> None:
    own.process(node).kill()
    node.extra = extra
    node.config.unlink()
    own.start_node(node)


@contextlib.contextmanager
def _evicting(own: TieredArena) -> Generator[LocalNode]:
    """A follower that evicts whatever it may, read from without pause; judged once everything is whole again."""
    own.hold(1.5, 2.5)
    node = own.following()
    plain = node.extra
    _restarted(own, node, plain + _EVICTING)
    try:
        own.wait_whole()
        with read_from(own, node):
            own.wait_for(lambda: _evicted(node) > 0, f"{node.id} evicts", 60)
            yield node
            own.heal()
            own.wait_whole()
            own.wait_for(lambda: _ranges_read(node) > 0, f"{node.id} reads something back from the bucket", 30)
        own.operator.done["segments evicted"] += _evicted(node)
        debts = debts_of(own.operator.journal_path)
        findings = served([node], debts)
        if findings.exit_code:
            raise FaultFailed(f"{node.id}, which evicted: {findings.document()}"[:1500])
    finally:
        # Nobody restarts it: the round gives it an empty disk, and starts it then.
        node.extra = plain
        node.config.unlink()


@fault("eviction races reads", tier=True)
def races(arena: Arena) -> list[LocalNode]:
    with _evicting(tiered(arena)) as node:
        arena.hold(11, 13)  # a node looks every ten seconds for what it may evict
    return [node]


@fault("eviction races reads, the leader killed", tier=True)
def leader_killed(arena: Arena) -> list[LocalNode]:
    """Whoever evicts may have to lead, beside the tier."""
    own = tiered(arena)
    with _evicting(own) as node:
        leader = own.leading()
        arena.process(leader).kill()
        own.await_lead(*[other for other in own.nodes if other is not leader])
        arena.hold(2, 4)
        arena.start_node(leader)
        arena.hold(1, 2)
    return [node]


@fault("eviction races reads, the node itself killed and started", tier=True)
def itself_killed(arena: Arena) -> list[LocalNode]:
    with _evicting(tiered(arena)) as node:
        for _ in range(2):
            arena.process(node).kill()
            arena.start_node(node)
            arena.until(node.ready, 20)
            arena.hold(0.5, 2)
    return [node]


@fault("eviction races reads, the bucket killed, stopped or answering 503", tier=True)
def bucket_fails(arena: Arena) -> list[LocalNode]:
    own = tiered(arena)
    with _evicting(own) as node:
        own.store.kill()
        arena.hold(1, 3)
        own.start_store()
        arena.hold(0.5, 1)
        own.store.running.signal(signal.SIGSTOP)
        arena.hold(1, 3)
        own.store.running.signal(signal.SIGCONT)
        before = own.struck()
        own.store_lines.treat(Manner(answer=SLOW_DOWN), node.id)
        arena.hold(1, 2)
        own.await_struck(before)
        own.store_lines.release()
        arena.hold(0.5, 1)
    return [node]


@fault("eviction races reads, an object lost and one altered, found and put back", tier=True)
def objects_harmed(arena: Arena) -> list[LocalNode]:
    """Nothing that was altered is served; what is wrong is named, and put right by hand, as docs/tier.md says."""
    own = tiered(arena)
    with _evicting(own) as node:
        own.wait_for(lambda: _evicted(node) > 1, f"{node.id} evicts more", 40)
        lost, altered = sorted(own.runs(), key=lambda run: run.last - run.first, reverse=True)[:2]
        true = {run.key: own.direct.get(run.key) for run in (lost, altered)}
        own.direct.delete(lost.key)
        at = arena.chance.randrange(len(true[altered.key]))
        wrong = bytearray(true[altered.key])
        wrong[at] ^= 1
        own.overwrite(altered.key, bytes(wrong), digest_of=arena.chance.choice((true[altered.key], bytes(wrong))))
        found = arena.operator.types("verify", "--tier", "--config", str(node.config), "--json")
        said = " ".join(found.document()["wrong"])
        if found.code != 1 or altered.key not in said:
            raise FaultFailed(f"{altered.key} was altered and {lost.key} deleted, and yet {found}")
        arena.hold(1, 2)
        for key, data in true.items():
            own.overwrite(key, data, digest_of=data)
    return [node]
