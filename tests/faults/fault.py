"""A fault, and the list of all: the modules of faults register theirs here when they are imported.

A node whose log was damaged does not lead and is given an empty disk afterwards (docs/recovery.md); the repair of
single records is another issue's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from perenne.local.cluster import LocalNode
from tests.faults.arena import Arena

Act = Callable[[Arena], "list[LocalNode] | None"]


@dataclass(frozen=True, slots=True)
class Fault:
    """act: lets it strike and last, leaves the healing to the round, and returns the nodes that need a new disk.

    fatal: some nodes may not come back by themselves, on purpose: the cluster is given up afterwards.
    namespaces: needs the arena where every party has a network namespace. tier: needs the one with a bucket.
    """

    name: str
    act: Act
    fatal: bool = False
    namespaces: bool = False
    tier: bool = False


REGISTERED: Final[dict[str, Fault]] = {}


def fault(name: str, *, fatal: bool = False, namespaces: bool = False, tier: bool = False) -> Callable[[Act], Act]:
    """Register what follows under a name that people read."""

    def register(act: Act) -> Act:
        assert name not in REGISTERED, name
        REGISTERED[name] = Fault(name, act, fatal, namespaces, tier)
        return act

    return register
