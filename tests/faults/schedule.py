"""Which faults strike next, and on what kind of cluster: follows from the rounds that were played, so that a run that
was interrupted goes on as if it had not been.

Clusters without a tier go through the catalogue in its order. Clusters with one play two faults of the tier, then one
of the others, each in its order, so that every fault meets a tier in the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from tests.faults.fault import Fault

ROUNDS_PER_CLUSTER: Final = 6
SHARES: Final = ("half", "never", "always")


@dataclass(frozen=True, slots=True)
class Batch:
    """What one cluster suffers, in order. A fatal fault is the last. ensemble: three ZooKeeper servers."""

    faults: tuple[Fault, ...]
    tier: bool
    ensemble: bool

    @property
    def namespaces(self) -> bool:
        return self.faults[0].namespaces


class Schedule:
    """share: how many clusters have a tier, where faults may be played with one or without."""

    def __init__(self, faults: Sequence[Fault], rounds: int, share: str = "half") -> None:
        self._rounds = rounds
        self._share = share
        self._plain = [fault for fault in faults if not fault.tier]
        self._tier = [fault for fault in faults if fault.tier]
        self._beside = [fault for fault in self._plain if not fault.namespaces]

    def following(self, outcomes: Sequence[dict[str, Any]]) -> Batch | None:
        """The next cluster's faults; None when enough rounds were played."""
        left = self._rounds - len(outcomes)
        if left <= 0:
            return None
        with_tier = sum(bool(one.get("tier")) for one in outcomes)
        tier = self._turns_to_tier(with_tier, len(outcomes))
        played = with_tier if tier else len(outcomes) - with_tier
        faults: list[Fault] = []
        while len(faults) < min(left, ROUNDS_PER_CLUSTER):
            fault = self._fault(played + len(faults), tier=tier)
            if faults and fault.namespaces != faults[0].namespaces:
                break
            faults.append(fault)
            if fault.fatal:
                break
        return Batch(tuple(faults), tier, ensemble=(played // ROUNDS_PER_CLUSTER) % 3 == 2)

    def _turns_to_tier(self, with_tier: int, played: int) -> bool:
        if self._share == "never" and self._plain:
            return False
        if self._share == "always" and (self._tier or self._beside):
            return True
        return bool(self._tier) and (not self._plain or 2 * with_tier <= played)

    def _fault(self, number: int, *, tier: bool) -> Fault:
        if not tier:
            return self._plain[number % len(self._plain)]
        if not self._tier or (self._beside and number % 3 == 2):
            return self._beside[(number // 3 if self._tier else number) % len(self._beside)]
        index = number - number // 3 if self._beside else number
        return self._tier[index % len(self._tier)]
