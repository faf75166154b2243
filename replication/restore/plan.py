"""Which objects a restore takes, from their names and a few headers: no payload is read for it. Pure: questions out.

The tip is the object with the highest (epoch of its last record, sequence), readable or not. From there the plan goes
down: within an epoch equal numbers are equal records (protocol, invariant 4), so the widest object serves; below an
epoch's own EPOCH record lies an older epoch, and the chain decides which: orphans of dead branches offer records too.
A damaged object may decide it as well, for the chain stands apart from payloads; what is whole in it is taken.
What no object supplies is a hole. Nothing is believed for good here: the chain of every record is checked when it is
read, upwards from the first, and whatever fails is planned around.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from replication.tier.contents import Link
from replication.tier.keys import Run
from replication.tier.tip import Piece
from storage.position import LogPosition, RecordKind


@dataclass(frozen=True, slots=True)
class Hole:
    """Records that nothing readable supplies. why: one line per object that should, or none that is listed.

    certain: false where the records below may end earlier than they seem to, since nothing proves the step over it.
    """

    first: int
    last: int
    why: tuple[str, ...] = ()
    certain: bool = True


@dataclass(frozen=True, slots=True)
class Plan:
    """pieces: in order, without a gap from the base on. hole: above them; None when they reach the tip.

    beyond: pieces of the newest branch above the hole, and holes: further ones between those. unused: other objects
    that end above the base: the same records again, or dead branches.
    """

    tip: LogPosition
    pieces: tuple[Piece, ...]
    hole: Hole | None
    beyond: tuple[Piece, ...]
    holes: tuple[Hole, ...]
    unused: tuple[Run, ...]

    @property
    def reaches(self) -> int:
        """The last record that the pieces supply; 0 when there are none."""
        return self.pieces[-1].last if self.pieces else 0


@dataclass(frozen=True, slots=True)
class AskHead:
    """Read the header of record `run.first`; answer with `head`."""

    run: Run


@dataclass(frozen=True, slots=True)
class AskChain:
    """Look for the chain up to record `sequence` in the object; payloads do not matter. Answer with `chain`.

    above: the record behind it, for whoever wants to see at once whether it fits.
    """

    run: Run
    sequence: int
    above: Link


Question = AskHead | AskChain


class Planner:
    """One plan over one listing. While `wanted` is a question, answer it; then `plan` is there.

    base: the last record that is already there; the pieces begin above it. bad: objects known to be damaged or gone,
    with the reason: they count for where the log ends, and supply nothing.
    """

    def __init__(self, runs: Iterable[Run], base: int = 0, bad: dict[Run, str] | None = None) -> None:
        self._runs = sorted(set(runs), key=lambda run: (run.epoch, run.last))
        self._base = base
        self._bad = dict(bad or {})
        tips = [run for run in self._runs if run not in self._bad and run.end == self._runs[-1].end]
        if len({run.chain_prefix for run in tips}) > 1:
            self._bad.update((run, "two chains at one position: nothing says which is the log") for run in tips)
        self._sound = [run for run in self._runs if run not in self._bad]
        self._by_last = sorted(self._sound, key=lambda run: run.last)
        self._near: list[Run] = []
        self._stretch: list[Piece] = []
        self._stretches: list[tuple[Piece, ...]] = []
        self._holes: list[Hole] = []
        self._rivals: list[Run] = []
        self._undecided: list[Run] = []
        """Rivals that were asked and do not show which branch they are of."""
        self._doubtful: dict[Run, str] = {}
        """What is not whole, and supplies records all the same."""
        self._above: Link | None = None
        self._tip = max((run.end for run in self._runs), default=LogPosition(0, 0))
        self._epoch = self._tip.epoch
        self._need = self._tip.sequence
        self.wanted: Question | None = None
        self.plan: Plan | None = None
        self._go_on()

    # Answers

    def head(self, link: Link | None) -> None:
        """The first record of the object asked for; None when it cannot be read: then it is passed over."""
        assert isinstance(self.wanted, AskHead), "asked for"
        run, self.wanted = self.wanted.run, None
        if link is None:
            piece = self._stretch.pop()
            self._forget(run, "its first record cannot be read")
            self._need = piece.last
        elif link.header.kind is RecordKind.EPOCH:
            self._above = link
            self._rivals, self._undecided = self._older(), []
            self._ask_rival(certain=not self._rivals)
            return
        else:
            self._open_hole(certain=True)
        self._go_on()

    def chain(self, chain: bytes | None) -> None:
        """Up to the record before the epoch, as one of the rivals has it; None when only that cannot be read in it."""
        asked = self._asked()
        run = asked.run
        if chain is None:
            self._doubtful[run] = f"record {self._need} in it cannot be read"
            self._undecided.append(run)
        elif asked.above.follows(chain):
            self._epoch = run.epoch
            if same := self._holding(run.epoch):
                self._take(same[0])
            else:
                self._open_hole(certain=True, known_from=run.first)
            self._go_on()
            return
        self._pass_over(run, whole_epoch=chain is not None)

    def unreadable(self, why: str) -> None:
        """Nothing of the rival can be read."""
        run = self._asked().run
        if run not in self._bad:
            self._forget(run, why)
        self._pass_over(run, whole_epoch=False)

    def _asked(self) -> AskChain:
        asked, self.wanted = self.wanted, None
        assert isinstance(asked, AskChain), "asked for"
        return asked

    def _pass_over(self, run: Run, *, whole_epoch: bool) -> None:
        """Ask the next one. whole_epoch: of one epoch all are of the same branch, at this record."""
        self._rivals = [one for one in self._rivals if one != run and not (whole_epoch and one.epoch == run.epoch)]
        self._ask_rival(certain=False)

    def _ask_rival(self, *, certain: bool) -> None:
        if self._rivals and self._above is not None:
            self.wanted = AskChain(self._rivals[0], self._need, self._above)
            return
        if self._undecided:  # the others are of dead branches
            self._epoch = max(run.epoch for run in self._undecided)
        self._open_hole(certain=certain)
        self._go_on()

    # Downwards

    def _go_on(self) -> None:
        """Take objects until a question comes up, or the base is reached."""
        while self.wanted is None and self.plan is None:
            if self._need <= self._base:
                self._finish()
            elif same := self._holding(self._epoch):
                self._take(same[0])
            elif self._stretch:
                self.wanted = AskHead(self._stretch[-1].run)
            else:
                self._open_hole(certain=True)

    def _take(self, run: Run) -> None:
        first = max(run.first, self._base + 1)
        self._stretch.append(Piece(run, first, self._need))
        self._epoch, self._need = run.epoch, first - 1

    def _open_hole(self, *, certain: bool, known_from: int | None = None) -> None:
        """Nothing proves or supplies record `need`: what lies below begins anew, with the highest that is left.

        known_from: from there on the records are known to be of this epoch, and older ones do not supply them.
        """
        if self._stretch:
            self._stretches.append(tuple(reversed(self._stretch)))
            self._stretch = []
        left = [run for run in self._sound if run.epoch <= self._epoch and run.first <= self._need]
        top = max(left, key=lambda run: (run.epoch, min(run.last, self._need)), default=None)
        ends = min(top.last, self._need) if top is not None else 0
        ends = max(ends, self._base)
        if known_from is not None and top is not None and top.epoch < self._epoch:
            ends = max(self._base, min(ends, known_from - 1))
        if top is not None and ends == self._need:
            # An older epoch offers the very record that the newer one is known to hold, or contradicts it.
            certain, ends = False, max(self._base, self._need - 1)
        why = tuple(
            f"{run.key}: {text}"
            for run, text in {**self._doubtful, **self._bad}.items()
            if run.last > ends and run.first <= self._need
        )
        self._holes.append(Hole(ends + 1, self._need, why, certain))
        self._need = ends
        self._epoch = top.epoch if top is not None else 0

    def _holding(self, epoch: int) -> list[Run]:
        """Objects of one epoch that hold record `need`: those that reach furthest back first."""
        return [run for run in self._candidates() if run.epoch == epoch]

    def _older(self) -> list[Run]:
        """Objects of older epochs that hold record `need`; behind them what is damaged, which may show its chain."""
        damaged = [run for run in self._runs if run in self._bad and run.first <= self._need <= run.last]
        return [run for run in (*self._candidates(), *reversed(damaged)) if run.epoch < self._epoch]

    def _candidates(self) -> list[Run]:
        while self._by_last and self._by_last[-1].last >= self._need:
            self._near.append(self._by_last.pop())
        self._near = [run for run in self._near if run.first <= self._need]
        held = [run for run in self._near if run.epoch <= self._epoch]
        return sorted(held, key=lambda run: (-run.epoch, run.first, run.last, -run.form.stubs))

    def _forget(self, run: Run, why: str) -> None:
        self._bad = {**self._bad, run: why}
        self._sound.remove(run)
        self._by_last = sorted(self._sound, key=lambda sound: sound.last)
        self._near = []

    def _finish(self) -> None:
        if self._stretch:
            self._stretches.append(tuple(reversed(self._stretch)))
        holes = list(reversed(self._holes))
        stretches = list(reversed(self._stretches))
        whole = not holes or (bool(stretches) and stretches[0][0].first == self._base + 1)
        pieces = stretches.pop(0) if whole and stretches else ()
        used = {piece.run for stretch in (pieces, *stretches) for piece in stretch}
        unused = tuple(run for run in self._runs if run not in used and run.last > self._base)
        beyond = tuple(piece for stretch in stretches for piece in stretch)
        self.plan = Plan(self._tip, pieces, holes[0] if holes else None, beyond, tuple(holes[1:]), unused)


def below(plan: Plan, sequence: int) -> Plan:
    """The same plan as far as record `sequence`: what lies above is not asked for."""

    def cut(pieces: Collection[Piece]) -> tuple[Piece, ...]:
        return tuple(Piece(p.run, p.first, min(p.last, sequence)) for p in pieces if p.first <= sequence)

    hole = plan.hole if plan.hole is not None and plan.hole.first <= sequence else None
    holes = tuple(one for one in plan.holes if one.first <= sequence)
    return Plan(plan.tip, cut(plan.pieces), hole, cut(plan.beyond), holes, plan.unused)
