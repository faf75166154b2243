"""Which objects of a bucket make the log: the tip, followed back along the chain. No clock, no network: questions out.

The tip is the object with the highest (epoch of its last record, sequence). From there each record's chain proves the
one before it, whatever the names say: orphans of dead branches may occupy the same numbers, and taking "the highest
epoch at each position" would mix two branches (protocol, sections 6 and 15). A tip that cannot be read is not passed
over for a lower one: what it held may have been acknowledged. The caller checks that the floors are in what was found.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from replication.tier.contents import Link
from replication.tier.keys import PREFIX_BYTES, Run
from storage.position import GENESIS, LogPoint, LogPosition


@dataclass(frozen=True, slots=True)
class Piece:
    """Take records `first` … `last` from this object; it may hold more on either side."""

    run: Run
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Branch:
    """The log from `base` (not included) to `tip`, without a gap. base: of one's own log.

    pieces: in order; empty when the bucket has nothing beyond `base`; an object that ends on a dead branch may supply
    the records that it has in common with this one. chains: of each sequence they hold. spare: objects that hold the
    same records again. orphans: further objects that end beyond `base` on other branches, outranked for ever.
    """

    base: LogPoint
    tip: LogPoint
    pieces: tuple[Piece, ...]
    chains: dict[int, bytes]
    spare: tuple[Run, ...]
    orphans: tuple[Run, ...]

    def contains(self, point: LogPoint) -> bool:
        """Whether this very record, proved by its chain, is in the branch; its base counts."""
        return point == self.base or self.chains.get(point.sequence) == point.chain


@dataclass(frozen=True, slots=True)
class Broken:
    """No log can be proved. sequence: the record that nothing readable supplies, or at which branches contradict.

    why: one line per object that was tried. List again, then give up: an object is lost, altered or not yet listed.
    """

    sequence: int
    why: tuple[str, ...]


Outcome = Branch | Broken


class TipSearch:
    """One search over one listing. While `wanted` names an object, read it and call `found` or `unreadable`.

    What could not be read is not asked for again. What was found to be of another branch may be: that branch and the
    one looked for have their lower records in common.
    """

    def __init__(
        self,
        runs: Iterable[Run],
        base: LogPoint = GENESIS,
        own: Callable[[int], LogPoint | None] = lambda sequence: None,
        tip: Run | None = None,
    ) -> None:
        """base: a point of one's own log below which the bucket may have gaps; GENESIS to need all of it.

        own(sequence): the point of one's own log there, if it goes so far. Where the branch meets it the search ends,
        however low `base` is: one chain that is the same proves everything below.

        tip: one of `runs` that is known to be of the branch, to begin there in place of the highest.
        """
        self._runs = tuple(sorted(set(runs)))
        self._later = sorted(self._runs, key=lambda run: run.last)
        """Not looked at yet: they end below everything needed so far."""
        self._near: list[Run] = []
        self._base = base
        self._own = own
        self._chains: dict[int, bytes] = {}
        self._pieces: list[Piece] = []
        self._why: list[str] = []
        self._unreadable: dict[Run, str] = {}
        self._tip: LogPoint | None = None
        self._first: Link | None = None
        """The lowest record found so far; None before the tip is."""
        self._candidates: Iterator[Run] = iter(())
        self.wanted: Run | None = None
        self.lowest: Piece | None = None
        """What supplied the lowest records that are proved to be of the branch."""
        self.outcome: Outcome | None = None
        if tip is None:
            self._begin()
        else:
            self._look([tip], tip.last)

    def found(self, links: Sequence[Link]) -> None:
        """`wanted` was read, and holds these records (as `contents.read_run` returns them)."""
        assert self.wanted is not None and links, "asked for"
        run = self.wanted
        if self._first is None:
            self._take(run, links)
            return
        needed = self._first.sequence - 1
        own = links[: needed - run.first + 1]
        if self._first.follows(own[-1].chain):
            self._take(run, own)
        else:
            self._why.append(f"{run.key}: of another branch")
            self._next()

    def unreadable(self, why: str) -> None:
        """`wanted` is not there, or is damaged."""
        assert self.wanted is not None, "asked for"
        self._unreadable[self.wanted] = f"{self.wanted.key}: {why}"
        self._why.append(self._unreadable[self.wanted])
        self._next()

    def _begin(self) -> None:
        top = max((run.end for run in self._runs), default=LogPosition(0, 0))
        if top <= self._base.position:
            self._finish(self._base)
            return
        tips = sorted(run for run in self._runs if run.end == top)
        if len({run.chain_prefix for run in tips}) > 1:
            self._fail(top.sequence, *(f"{run.key}: two chains at one position" for run in tips))
            return
        self._look(tips, top.sequence)

    def _look(self, candidates: Iterable[Run], sequence: int) -> None:
        self._needed = sequence
        self._why = []
        self._candidates = iter(candidates)
        self._next()

    def _next(self) -> None:
        for run in self._candidates:
            if run not in self._unreadable:
                self.wanted = run
                return
            self._why.append(self._unreadable[run])
        self._fail(self._needed, *self._why)

    def _take(self, run: Run, links: Sequence[Link]) -> None:
        """These records are proved, or are the tip. Go on below them, or see that they meet the base."""
        if self._tip is None:
            self._tip = LogPoint(run.end, links[-1].chain)
        met = next((link for link in reversed(links) if self._is_own(link)), None)
        if met is not None and met.sequence > self._base.sequence:
            self._base = LogPoint(met.header.position, met.chain)
            if met is links[-1]:
                self._finish(self._tip)  # nothing of this object is needed
                return
        above = [link for link in links if link.sequence > self._base.sequence]
        below = next((link for link in links if link.sequence == self._base.sequence), None)
        if not above:
            self._fail(self._base.sequence, f"{run.key}: a newer branch ends below what this log has")
            return
        self._chains.update((link.sequence, link.chain) for link in above)
        self.lowest = Piece(run, above[0].sequence, above[-1].sequence)
        self._pieces.append(self.lowest)
        self._first = above[0]
        before = self._own(self._first.sequence - 1)
        if before is not None and before.sequence > self._base.sequence and self._first.follows(before.chain):
            self._base = before
        if self._first.sequence - 1 > self._base.sequence:
            self._look(self._holding(self._first), self._first.sequence - 1)
        elif self._first.follows(self._base.chain) and (below is None or below.chain == self._base.chain):
            self._finish(self._tip)
        else:
            # Nothing lies before the first record, so what does not follow from that is the first record itself.
            self._fail(max(1, self._base.sequence), f"{run.key}: its branch does not pass {self._base.position}")

    def _is_own(self, link: Link) -> bool:
        point = self._own(link.sequence)
        return point is not None and point.chain == link.chain

    def _holding(self, link: Link) -> list[Run]:
        """Objects that may hold the record before `link`: newest epoch first, then those that reach furthest back."""
        needed, epoch = link.sequence - 1, link.header.position.epoch
        while self._later and self._later[-1].last >= needed:
            self._near.append(self._later.pop())
        self._near = [run for run in self._near if run.first <= needed]  # what is needed only gets lower
        held = [run for run in self._near if run.epoch <= epoch]
        return sorted(held, key=lambda run: (-run.epoch, run.first, run.last, -run.form.stubs))

    def _finish(self, tip: LogPoint) -> None:
        used = {piece.run for piece in self._pieces}
        rest = [run for run in self._runs if run not in used and run.last > self._base.sequence]
        spare = tuple(run for run in rest if self.on_branch(run))
        orphans = tuple(run for run in rest if run not in set(spare))
        self.wanted = None
        self.outcome = Branch(self._base, tip, tuple(reversed(self._pieces)), self._chains, spare, orphans)

    def on_branch(self, run: Run) -> bool:
        """Whether it ends with a record that was found to be of the branch."""
        return self._chains.get(run.last, b"")[:PREFIX_BYTES] == run.chain_prefix

    def _fail(self, sequence: int, *why: str) -> None:
        self.wanted = None
        self.outcome = Broken(sequence, why)


def highest_epoch(runs: Iterable[Run]) -> int:
    """Of anything in the bucket, orphans included: a new epoch must be above it. 0 when there is nothing."""
    return max((run.epoch for run in runs), default=0)
