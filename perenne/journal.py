"""What senders were told, one JSON object per line, and whether an archive keeps it.

The journal is the history of a grow-only set with tombstones: an instance whose store was answered with Success is
there from then on, byte for byte, until a delete of it is acknowledged. What was never answered may be there or not.
"""

import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final, TypedDict, Unpack

from blake3 import blake3
from msgspec import DecodeError, Struct, ValidationError
from msgspec import json as msgspec_json

OFFERED: Final = "offered"
ACKNOWLEDGED: Final = "acknowledged"
REFUSED: Final = "refused"
BROKEN: Final = "broken"
DELETING: Final = "deleting"
DELETED: Final = "deleted"
KEPT: Final = "kept"
_EVENTS: Final = frozenset({OFFERED, ACKNOWLEDGED, REFUSED, BROKEN, DELETING, DELETED, KEPT})


class Event(Struct, frozen=True, omit_defaults=True):
    """One line. at: Unix seconds. dataset: BLAKE3 of the data set bytes, hexadecimal. node: who was asked.

    event: `offered` before the bytes are sent; then `acknowledged` (Success), `refused` (another status), `broken`
    (no answer came: it may be stored or not). `deleting` before a delete is asked for; then `deleted` (it was
    acknowledged), `kept` (it was refused), or nothing (it may take effect).

    source, stamp and syntax, for an import to go on: where it was found, what changes when its bytes change there, and
    its transfer syntax.
    """

    event: str
    uid: str
    at: float
    dataset: str = ""
    node: str = ""
    status: int | None = None
    source: str = ""
    stamp: str = ""
    syntax: str = ""


class JournalUnreadable(Exception):
    """A line is no event; the text says which."""


def digest_of(dataset: bytes | memoryview) -> str:
    """The `dataset` of an event."""
    return blake3(dataset).hexdigest()


class Journal:
    """Appends events; threads may share it. What was written before a crash of the sender counts.

    A last line without its end says nothing, and is cut before anything is written behind it.
    """

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self._lock = threading.Lock()
        self._file = path.open("ab+")
        end = self._file.seek(0, os.SEEK_END)
        while end and not _ends_line(self._file, end):
            end -= 1
        self._file.truncate(end)

    def note(self, event: str, uid: str, **facts: Unpack["Facts"]) -> None:
        """Keys of `facts` are fields of Event."""
        line = msgspec_json.encode(Event(event, uid, time.time(), **facts)) + b"\n"
        with self._lock:
            self._file.write(line)
            self._file.flush()

    def close(self) -> None:
        self._file.close()


class Facts(TypedDict, total=False):
    """What may be told of an event."""

    dataset: str
    node: str
    status: int | None
    source: str
    stamp: str
    syntax: str


def _ends_line(file: BinaryIO, end: int) -> bool:
    file.seek(end - 1)
    return file.read(1) == b"\n"


def events(path: Path) -> Iterator[Event]:
    """Read a journal. A last line without its end was being written when the sender died: it says nothing.

    Raises JournalUnreadable, OSError.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                event = msgspec_json.decode(line, type=Event)
            except (ValidationError, DecodeError) as error:
                raise JournalUnreadable(f"{path}: line {number} is no event: {error}") from error
            if event.event not in _EVENTS:
                # To pass it over could pass over what is owed.
                known = ", ".join(sorted(_EVENTS))
                raise JournalUnreadable(f"{path}: line {number}: there is no event {event.event!r}, but {known}")
            if event.event == ACKNOWLEDGED and not event.dataset:
                raise JournalUnreadable(f"{path}: line {number}: it does not say which `dataset` was acknowledged")
            yield event


@dataclass(slots=True)
class Owed:
    """What an archive owes for one SOP Instance UID.

    datasets: digests that were acknowledged and not deleted since. offered: everything ever sent under the UID. gone: a
    delete was acknowledged, and nothing that was sent can have been stored after it: it must not be there. buried:
    digests that an acknowledged delete covered, and that were not sent since: they must not come back under the UID.
    """

    datasets: set[str] = field(default_factory=set[str])
    offered: set[str] = field(default_factory=set[str])
    gone: bool = False
    buried: set[str] = field(default_factory=set[str])
    _open: Counter[str] = field(default_factory=Counter[str])
    """Sent and not answered: stored or not, now or later."""
    _raced: Counter[str] = field(default_factory=Counter[str])
    """Of these, what a delete overtook: whichever came first, an answer that comes now promises nothing."""
    _doubted: set[str] = field(default_factory=set[str])
    """Owed before a delete began that nobody has answered yet."""
    _since: set[str] = field(default_factory=set[str])
    """Sent, or without an answer yet, when the last delete began, or later: maybe behind it."""
    _deleting: bool = False
    _may_follow: bool = False

    def take(self, event: Event) -> None:
        """Go on by one event."""
        if event.dataset:
            self.offered.add(event.dataset)
        match event.event:
            case "offered":
                self._open[event.dataset] += 1
                self._since.add(event.dataset)
                self.buried.discard(event.dataset)
                self.gone = False
                self._may_follow = True
            case "acknowledged":
                self._answered(event.dataset, stored=True)
            case "refused":
                self._answered(event.dataset, stored=False)
            case "deleting":
                self._doubted |= self.datasets
                self.datasets.clear()
                self._deleting, self._may_follow = True, bool(+self._open)
                self._since = set(+self._open)
            case "kept":
                self.datasets |= self._doubted
                self._doubted.clear()
                self._deleting = False
            case "deleted":
                self._deleted()
            case _:
                pass  # broken: it stays open for ever

    def _answered(self, dataset: str, *, stored: bool) -> None:
        self._open[dataset] -= self._open[dataset] > 0
        if self._raced[dataset]:
            self._raced[dataset] -= 1
        elif stored:
            (self._doubted if self._deleting else self.datasets).add(dataset)
            self.gone = False

    def _deleted(self) -> None:
        self._raced = +self._open
        self.buried |= self.offered - set(self._raced) - (self._since if self._deleting else set[str]())
        self.gone = not self._raced and not (self._deleting and self._may_follow)
        self.datasets.clear()
        self._doubted.clear()
        self._deleting = False


def owed(history: Iterable[Event]) -> dict[str, Owed]:
    """Fold a history into what must be found.

    >>> told = [Event("offered", "1", 0, "aa"), Event("acknowledged", "1", 1, "aa"), Event("offered", "2", 2, "bb")]
    >>> {uid: sorted(debt.datasets) for uid, debt in owed(told).items()}
    {'1': ['aa'], '2': []}
    >>> owed([*told, Event("deleting", "1", 3), Event("deleted", "1", 4)])["1"].gone
    True
    """
    found: dict[str, Owed] = {}
    for event in history:
        found.setdefault(event.uid, Owed()).take(event)
    return found
