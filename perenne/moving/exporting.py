"""One export: what is wanted of one or more holdings, each instance proved by its digest and then written once."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from perenne.moving.holdings import Holding, Missing, uids_of
from perenne.moving.proof import Damaged, proved
from perenne.moving.selection import Wanted
from perenne.moving.targets import NotWritten, Target

Source = Callable[[], Iterator[Holding | Missing]]


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
    left: dict[int, Left] = field(default_factory=dict[int, Left])
    """By sequence in the log; taken out again when another source has it."""
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


def export(sources: Iterable[Source], target: Target | None, wanted: Wanted) -> Exported:
    """Ask one source after the other for what those before could not give. target: None to see what is there.

    Raises NotWritten when the whole cannot be completed, OSError.
    """
    done, seen, asked = Exported(), set[int](), _Asked(wanted)
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
    done.absent = asked.absent
    return done


def _take(one: Holding | Missing, target: Target | None, done: Exported, seen: set[int]) -> None:
    if isinstance(one, Missing):
        for sequence in range(one.first, one.last + 1):
            if sequence not in seen:
                done.left[sequence] = Left(one.name, one.why, one.unsure)
        return
    if one.sequence in seen:
        return
    try:
        _write(one, target, done)
    except (Damaged, NotWritten) as error:
        done.left[one.sequence] = Left(one.path, str(error))
        return
    seen.add(one.sequence)
    done.left.pop(one.sequence, None)
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
