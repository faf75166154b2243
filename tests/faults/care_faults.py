"""`perenne verify` and `perenne repair` at any moment: on nodes that run, start and die, and interrupted."""

import signal
from pathlib import Path

from perenne.local.cluster import LocalNode
from tests.faults import damage
from tests.faults.arena import Arena, FaultFailed
from tests.faults.fault import fault
from tests.faults.operator import Typed, after
from tests.faults.tiered import TieredArena


def _sound(typed: Typed) -> None:
    if typed.code != 0 and not typed.interrupted:
        raise FaultFailed(f"nothing was harmed, and yet {typed}")


def _verified(arena: Arena) -> None:
    """One verb that looks, or asks to repair; what it says is checked where nothing can be wrong."""
    chance, operator = arena.chance, arena.operator
    node = chance.choice(arena.nodes)
    sometime = after(chance.uniform(0.5, 2)) if chance.random() < 0.2 else None
    match chance.randrange(4 if isinstance(arena, TieredArena) else 3):
        case 0:
            _sound(operator.types("verify", str(node.data_dir), "--json", interrupt=sometime))
        case 1:
            _sound(operator.types("verify", str(node.data_dir), "--light", "--json"))
        case 2:
            where = ("--zookeeper", arena.keepers_address(), "--json", "--seconds", "10")
            typed = operator.types("repair", *where, interrupt=sometime)
            if typed.code not in (0, 1) and not typed.interrupted:  # 1: a node did not run
                raise FaultFailed(f"{typed}")
        case _:
            _sound(operator.types("verify", "--tier", "--config", str(node.config), "--light", "--json"))


@fault("verify and repair at any moment, nodes killed and started")
def any_moment(arena: Arena) -> None:
    arena.hold(1, 2)
    with arena.operator.busy(lambda: _verified(arena), hands=2):
        for _ in range(3):
            arena.hold(1, 3)
            node = arena.chance.choice(arena.nodes)
            arena.process(node).kill()
            arena.hold(0, 1.5)
            arena.start_node(node)
        arena.hold(1, 2)


def _harmed(arena: Arena, node: LocalNode) -> None:
    """Damage some sealed records of a stopped node, and see that verify finds it."""
    sealed = [held for held in damage.segments(node.data_dir)[:-1] if held.entries]
    if not sealed:
        raise FaultFailed(f"{node.id} has no sealed segment")
    for _ in range(5):
        held = arena.chance.choice(sealed)
        damage.flip_record(held, arena.chance.choice(held.entries), arena.chance)
    found = arena.operator.types("verify", str(node.data_dir), "--json")
    if found.code != 1:
        raise FaultFailed(f"records were damaged, and yet {found}")


def _repaired(arena: Arena, node: LocalNode, source: Path) -> None:
    """Offline, from another node that runs: killed, given Ctrl-C, and then done. Raises FaultFailed."""
    words = ("repair", str(node.data_dir), "--from", str(source), "--json")
    for with_ in (signal.SIGKILL, signal.SIGINT):
        arena.operator.types(*words, interrupt=after(arena.chance.uniform(0.5, 1.5)), with_=with_)
    _sound(arena.operator.types(*words))
    _sound(arena.operator.types("verify", str(node.data_dir), "--json"))
    arena.operator.done["nodes repaired"] += 1


@fault("damage on a stopped node repaired, the repair killed, interrupted and resumed")
def repair_interrupted(arena: Arena) -> None:
    arena.hold(2.5, 4)
    node = arena.following()
    source = arena.leading()
    arena.process(node).kill()
    _harmed(arena, node)
    _repaired(arena, node, source.data_dir)
    arena.start_node(node)
    arena.hold(1, 2)


@fault("damage on a stopped node repaired from one that is killed and started")
def repair_from_dying(arena: Arena) -> None:
    arena.hold(2.5, 4)
    node = arena.following()
    source = arena.leading()
    arena.process(node).kill()
    _harmed(arena, node)
    arena.process(source).kill()
    _repaired(arena, node, source.data_dir)
    for one in (source, node):
        arena.start_node(one)
    arena.hold(1, 2)
