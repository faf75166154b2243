"""Which records of this log the tier is known to hold: a set of sequences, kept as spans; and what else lies there."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from replication.core.ledger import Ledger
from replication.tier.keys import PREFIX_BYTES, Run


class Coverage:
    """Sequences of records that were put and confirmed, or that a listing showed on this very branch."""

    def __init__(self, spans: Iterable[tuple[int, int]] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        """Of the same spans: in order, apart from each other by at least one record."""
        for first, last in spans:
            self.add(first, last)

    def add(self, first: int, last: int) -> None:
        """Note `first` to `last`."""
        left = bisect_left(self._lasts, first - 1)
        right = bisect_right(self._firsts, last + 1)
        if left < right:
            first, last = min(first, self._firsts[left]), max(last, self._lasts[right - 1])
        self._firsts[left:right] = [first]
        self._lasts[left:right] = [last]

    def upto(self, first: int) -> int:
        """The last of the records that are there without a gap from `first` on; `first - 1` when `first` is not."""
        at = bisect_left(self._lasts, first)
        return self._lasts[at] if at < len(self._lasts) and self._firsts[at] <= first else first - 1

    def gap(self, first: int, last: int) -> tuple[int, int] | None:
        """The lowest records within `first` to `last` that are not there; None when all are."""
        start = self.upto(first) + 1
        if start > last:
            return None
        at = bisect_left(self._firsts, start)
        return start, min(last, self._firsts[at] - 1) if at < len(self._firsts) else last

    def gaps(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """All records within `first` to `last` that are not there, in order."""
        while (found := self.gap(first, last)) is not None:
            yield found
            first = found[1] + 1

    def spans(self) -> list[tuple[int, int]]:
        return list(zip(self._firsts, self._lasts, strict=True))

    def within(self, first: int, last: int) -> "Coverage":
        """What of it lies from `first` to `last`."""
        return Coverage((max(first, a), min(last, b)) for a, b in self.spans() if a <= last and first <= b)

    def remove(self, first: int, last: int) -> None:
        """Forget `first` to `last`."""
        kept = [(a, min(b, first - 1)) for a, b in self.spans() if a < first]
        kept += [(max(a, last + 1), b) for a, b in self.spans() if b > last]
        self._firsts, self._lasts = [a for a, _ in kept], [b for _, b in kept]


@dataclass(frozen=True, slots=True)
class Listing:
    """What objects are to this log. own: they end on its branch, and hold its records. orphans: they end on another
    one, which this leader's epoch outranks for ever: they never surface, and stay as evidence.
    """

    own: tuple[Run, ...]
    orphans: tuple[Run, ...]


def listed(runs: Iterable[Run], ledger: Ledger) -> Listing:
    """What a listing shows of this log. A place is found again by chain, never by sequence: orphans of dead branches
    may occupy the same numbers (protocol, section 5). Whatever is on the branch up to `last` holds its whole run.

    A record that is damaged here says nothing about its object, which is then neither.
    """
    own: list[Run] = []
    orphans: list[Run] = []
    for run in runs:
        point = ledger.point_at(run.last)
        if point is not None and point.position == run.end and point.chain[:PREFIX_BYTES] == run.chain_prefix:
            own.append(run)
        elif point is not None or run.last > ledger.end.sequence:
            orphans.append(run)
    return Listing(tuple(own), tuple(orphans))


def whole_from(runs: Iterable[Run]) -> int:
    """The first of the records that are there without a gap up to the tip, as far as the names of objects say.

    Epochs do not fall along a log: what lies below an object of some epoch is of that epoch or an older one.
    """
    needed: int | None = None
    for run in sorted(runs, key=lambda run: run.end, reverse=True):
        if needed is None or run.first <= needed <= run.last:
            needed = run.first - 1
    return (needed or 0) + 1
