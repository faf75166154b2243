"""One export: what is wanted of one or more holdings, each instance proved by its digest and then written once."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from perenne.moving.holdings import Holding, Missing, uids_of
from perenne.moving.proof import Damaged, proved
from perenne.moving.selection import Wanted
from perenne.moving.targets import NotWritten, Target

Source = Callable[[], Iterator[Holding | Missing]]
Record = tuple[int, bytes]
"""Sequence in the log, and digest; which is empty where it is not known."""


@dataclass(frozen=True, slots=True)
class Left:
    """What was not written, and why. unsure: it may not even have been wanted."""

    name: str
    why: str
    unsure: bool = False


@dataclass(slots=True)
class Exported:
    """found: instances that are wanted, each counted once. absent: UIDs that were asked for, and that nothing has."""

    found: int = 0
    written: int = 0
    already: int = 0
    bytes: int = 0
    left: dict[Record, Left] = field(default_factory=dict[Record, Left])
    """What another source gave is not here."""
    invented: dict[str, int] = field(default_factory=dict[str, int])
    absent: list[str] = field(default_factory=list[str])


class _Asked:
    """The UIDs that were asked for by name, until something of each was seen."""

    def __init__(self, wanted: Wanted) -> None:
        self._left = tuple(set(uids) for uids in (wanted.studies, wanted.series, wanted.instances))

    def see(self, path: str) -> None:
        for left, uid in zip(self._left, uids_of(path), strict=True):
            if uid == "unknown":  # its name cannot tell: it may be any of them
                left.clear()
            left.discard(uid)

    @property
    def absent(self) -> list[str]:
        return sorted(uid for left in self._left for uid in left)


@dataclass(slots=True)
class _Seen:
    """What came by. Logs with different ends have different records of one sequence: the epoch tells them apart."""

    written: set[bytes] = field(default_factory=set[bytes])
    """By digest: the same bytes are wanted once, wherever they lie."""
    first: dict[int, tuple[int, bytes]] = field(default_factory=dict[int, tuple[int, bytes]])
    """Epoch and digest of the first record of each sequence."""
    others: set[tuple[int, int]] = field(default_factory=set[tuple[int, int]])
    """Other records of a sequence, as (sequence, epoch)."""
    unread: list[tuple[int, int, Left]] = field(default_factory=list[tuple[int, int, Left]])
    """Sequence and epoch of records of which no digest is known."""

    def see(self, one: Holding) -> None:
        epoch, digest = self.first.setdefault(one.sequence, (one.epoch, one.digest))
        if digest != one.digest or (epoch != one.epoch and epoch and one.epoch):
            self.others.add((one.sequence, one.epoch))

    def covers(self, sequence: int, epoch: int) -> bool:
        """Whether what came by is the very record. Where an epoch is not known: whether no logs were seen to differ."""
        if sequence not in self.first:
            return False
        there, _ = self.first[sequence]
        if not epoch or not there:
            return not self.others
        return there == epoch or (sequence, epoch) in self.others


def export(sources: Iterable[Source], target: Target | None, wanted: Wanted) -> Exported:
    """Ask one source after the other for what those before could not give. target: None to see what is there.

    Raises NotWritten when the whole cannot be completed, OSError.
    """
    done, seen, asked = Exported(), _Seen(), _Asked(wanted)
    try:
        for source in sources:
            for one in source():
                if isinstance(one, Holding):
                    asked.see(one.path)
                elif not one.unsure:
                    asked.see(one.name)
                _take(one, target, done, seen)
        if target is not None:
            target.finish()
    except BaseException:  # Ctrl-C too: what is not whole gets no name
        if target is not None:
            target.abandon()
        raise
    for sequence, epoch, left in seen.unread:
        if not seen.covers(sequence, epoch):
            done.left[sequence, b""] = left
    done.left = {key: left for key, left in done.left.items() if key[1] not in seen.written}
    done.absent = asked.absent
    return done


def _take(one: Holding | Missing, target: Target | None, done: Exported, seen: _Seen) -> None:
    if isinstance(one, Missing):
        left = Left(one.name, one.why, one.unsure)
        if one.digest:
            done.left[one.first, one.digest] = left
        else:
            seen.unread += ((sequence, one.epoch, left) for sequence in range(one.first, one.last + 1))
        return
    seen.see(one)
    if one.digest in seen.written:
        return
    try:
        _write(one, target, done)
    except (Damaged, NotWritten) as error:
        done.left[one.sequence, one.digest] = Left(one.path, str(error))
        return
    seen.written.add(one.digest)
    done.found += 1


def _write(one: Holding, target: Target | None, done: Exported) -> None:
    if target is None:
        return
    if target.has(one):
        done.already += 1
        return
    content = proved(one, target.spool)
    try:
        written = target.put(one, content)
    finally:
        content.discard()
    done.written += written
    done.already += not written
    done.bytes += one.size * written
