"""How long something takes, counted where it is done: a histogram that costs less than half a microsecond a time.

For people alone: nothing is decided by it.
"""

from bisect import bisect_left
from dataclasses import dataclass
from typing import Final

BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class TimingReport:
    """counts: how often it took up to each of `bounds`, and longer than the last one; each time is in one of them."""

    bounds: tuple[float, ...] = BOUNDS_S
    counts: tuple[int, ...] = (0,) * (len(BOUNDS_S) + 1)
    total: float = 0.0


class Timings:
    """One thread at a time counts, and any may read.

    >>> timings = Timings((0.1, 1.0))
    >>> timings.took(0.1), timings.took(0.5), timings.took(7.0)
    (None, None, None)
    >>> timings.report()
    TimingReport(bounds=(0.1, 1.0), counts=(1, 1, 1), total=7.6)
    """

    __slots__ = ("_bounds", "_counts", "_total")

    def __init__(self, bounds: tuple[float, ...] = BOUNDS_S) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def took(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._total += seconds

    def report(self) -> TimingReport:
        return TimingReport(self._bounds, tuple(self._counts), self._total)
