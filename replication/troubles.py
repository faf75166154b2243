"""What went wrong between this node and each other one, and when the other last confirmed something.

For people alone: nothing is decided by it.
"""

from collections import Counter
from collections.abc import Callable
from typing import Final

from replication.core.values import ReplicaId

UNREACHABLE: Final = "unreachable"
"""It was called, and did not answer."""
LOST: Final = "connection-lost"
"""A connection ended that this node did not end, whatever the reason: also when the other one stopped."""
HUNG_UP: Final = "hung-up"
"""This node ended a connection: nothing came over it for too long, or what came contradicts."""
REJECTED: Final = "rejected"
"""It did not take what this leader sent, and both begin anew."""
UNREADABLE: Final = "unreadable"
"""A record that it lacks cannot be read here."""
REASONS: Final = (UNREACHABLE, LOST, HUNG_UP, REJECTED, UNREADABLE)


class Troubles:
    """By replica. confirmed: Unix seconds of the last confirmation that came from it."""

    def __init__(self, wall_us: Callable[[], int]) -> None:
        self._wall_us = wall_us
        self._counts: Counter[tuple[ReplicaId, str]] = Counter()
        self._hung_up: set[int] = set()
        self.confirmed: dict[ReplicaId, float] = {}

    def count(self, replica: ReplicaId, reason: str) -> None:
        self._counts[replica, reason] += 1

    def of(self, replica: ReplicaId) -> dict[str, int]:
        """By reason, all of them."""
        return {reason: self._counts[replica, reason] for reason in REASONS}

    def hanging_up(self, link: int, replica: ReplicaId) -> None:
        """Its end is no other trouble."""
        if link not in self._hung_up:
            self._hung_up.add(link)
            self.count(replica, HUNG_UP)

    def ended(self, link: int, replica: ReplicaId) -> None:
        if link in self._hung_up:
            self._hung_up.discard(link)
        else:
            self.count(replica, LOST)

    def confirmed_by(self, replica: ReplicaId) -> None:
        self.confirmed[replica] = self._wall_us() / 1_000_000
