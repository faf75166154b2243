"""Lines that the kernel cuts: everybody has a network namespace, and whoever should hear drops the packets.

Those of `line_faults` that cut, and pairs that only packets can be kept from: the servers of ZooKeeper. Each fault sees
for itself that packets were dropped.
"""

from collections.abc import Callable
from typing import Final

from tests.faults import line_faults
from tests.faults.arena import ZOOKEEPER, Arena, FaultFailed
from tests.faults.fault import REGISTERED, Act, fault
from tests.faults.namespaces import Network

_NOT_CUTS: Final = (line_faults.slow_lines, line_faults.resets)


def dropping(name: str) -> Callable[[Act], Act]:
    """Register a fault that cuts, and verify at its end what it cut."""

    def register(act: Act) -> Act:
        def strike(arena: Arena) -> None:
            act(arena)
            struck(network_of(arena).verify())

        return fault(f"{name}: packets dropped", namespaces=True)(strike)

    return register


def struck(packets: int) -> None:
    if packets <= 0:
        raise FaultFailed("only probes were dropped: those who were cut apart had nothing to say to each other")


def network_of(arena: Arena) -> Network:
    assert isinstance(arena.lines, Network), "only clusters with namespaces play these"
    return arena.lines


for _found in list(REGISTERED.values()):
    if _found.act.__module__ == line_faults.__name__ and _found.act not in _NOT_CUTS:
        dropping(_found.name)(_found.act)


@dropping("followers cut apart, then the leader killed")
def survivors_cut(arena: Arena) -> None:
    leader = arena.leading()
    one, other = (node.id for node in arena.nodes if node is not leader)
    arena.lines.cut(one, other)
    arena.lines.cut(other, one)
    arena.process(leader).kill()
    arena.hold(4, 6)


@dropping("a ZooKeeper server cut from everything")
def keeper_alone(arena: Arena) -> None:
    network = network_of(arena)
    alone = arena.chance.choice(network.named(ZOOKEEPER))
    for other in network.everybody:
        if other != alone:
            network.cut(alone, other)
            network.cut(other, alone)
    arena.hold(4, 6)


@fault("any two parties cut, one way or both, again and again: packets dropped", namespaces=True)
def any_two(arena: Arena) -> None:
    network = network_of(arena)
    packets = 0
    for _ in range(5):
        one, other = arena.chance.sample(network.everybody, 2)
        network.cut(one, other)
        if arena.chance.random() < 0.5:
            network.cut(other, one)
        arena.hold(1, 3)
        packets += network.verify()
        network.heal()
    struck(packets)
