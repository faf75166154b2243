"""Somebody with a shell while faults strike: verbs in processes of their own, some of which are interrupted.

What the journal has to know of a delete is written around it: one whose end nobody heard stays open, and is given again
once everything is healed, as its own words say.
"""

import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from perenne.journal import ACKNOWLEDGED, DELETED, DELETING, KEPT, OFFERED, Journal
from replication.pages import UIDS_LIMIT
from tests.faults.arena import Arena, FaultFailed
from tests.faults.senders import Kept, Senders

Signals = signal.Signals
# A shell without a terminal lets what it runs in the background ignore Ctrl-C.
PERENNE: Final = ("env", "--default-signal=INT", sys.executable, "-m", "perenne.cli")
_LOOK_S: Final = 0.02
_NOTHING: Final = "nothing is stored under these UIDs"
_REFUSED: Final = "Nothing was deleted"


@dataclass(frozen=True, slots=True)
class Typed:
    """A verb that ended. code: below zero when it was killed. interrupted: by whoever typed it."""

    words: tuple[str, ...]
    code: int
    output: str
    errors: str
    interrupted: bool

    def document(self) -> dict[str, Any]:
        """The last JSON document that it said; empty when it said none."""
        text = self.output.strip()
        try:
            found: dict[str, Any] = json.loads(text if text.startswith("{\n") else text.rpartition("\n")[2])
        except ValueError:
            return {}
        return found

    def __str__(self) -> str:
        return f"`perenne {' '.join(self.words)}` ended with {self.code}: {self.output[-600:]} {self.errors[-600:]}"


def after(seconds: float) -> Callable[[], bool]:
    """Holds from then on."""
    ends = time.monotonic() + seconds
    return lambda: time.monotonic() > ends


class Operator:
    """done: what was carried out in this round, by name, for the summary."""

    def __init__(self, arena: Arena, journal: Journal, journal_path: Path, senders: Senders) -> None:
        self._arena = arena
        self._journal = journal
        self._senders = senders
        self._open: list[list[Kept]] = []
        """Deletes that nobody has heard the end of."""
        self._leaving = threading.Event()
        self.journal_path = journal_path
        self.done: Counter[str] = Counter()
        self.calm = senders.calm

    # Verbs

    def types(self, *words: str, interrupt: Callable[[], bool] | None = None, with_: Signals = signal.SIGINT) -> Typed:
        """Run a verb. interrupt: when this holds, it is given that signal. Raises FaultFailed at a trace of Python."""
        process = subprocess.Popen(
            [*PERENNE, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        heard: list[tuple[str, str]] = []
        ear = threading.Thread(target=lambda: heard.append(process.communicate()), daemon=True)
        ear.start()
        interrupted = False
        deadline = time.monotonic() + 120
        while ear.is_alive():
            if not interrupted and (self._leaving.is_set() or (interrupt is not None and interrupt())):
                interrupted = True
                process.send_signal(with_)
            if time.monotonic() > deadline:
                process.kill()
            ear.join(_LOOK_S)
        output, errors = heard[0]
        typed = Typed(words, process.returncode, output, errors, interrupted)
        if "Traceback" in errors:
            raise FaultFailed(f"{typed}")
        self.done[f"{words[0]}, interrupted" if interrupted else words[0]] += 1
        return typed

    def asks(self, *words: str, interrupt: Callable[[], bool] | None = None, with_: Signals = signal.SIGINT) -> Typed:
        """A verb that goes to the leader."""
        where = ("--as", "Anna", "--zookeeper", self._arena.keepers_address(), "--json")
        return self.types(*words, *where, interrupt=interrupt, with_=with_)

    def delete(self, count: int, *, hurried: bool = False) -> tuple[str, list[Kept]]:
        """Delete some acknowledged instances; return the name of that and what is known to be gone.

        hurried: it is interrupted somewhere in the middle, with Ctrl-C or kill -9.
        """
        found = self._senders.take(count)
        if not found:
            return "", []
        chance = self._arena.chance
        sometime = after(chance.uniform(0.6, 2.0)) if hurried else None
        typed = self._bury(found, sometime, chance.choice((signal.SIGINT, signal.SIGKILL)))
        said = typed.document()
        if typed.code != 0:
            if _REFUSED in str(said.get("cause")):
                self._kept(found)
                return "", []
            if _NOTHING in str(said.get("cause")):
                raise FaultFailed(f"the leader knows nothing of what was acknowledged: {typed}")
            self._open.append(found)
            return "", []
        if said["deleted"] < len(found):
            raise FaultFailed(f"{len(found)} were acknowledged, and only {said['deleted']} found to be deleted")
        self._gone(found)
        return str(said["request"]), found

    def _bury(self, found: Sequence[Kept], interrupt: Callable[[], bool] | None, with_: Signals) -> Typed:
        for kept in found:
            self._journal.note(DELETING, kept.uid)
        named = [word for kept in found for word in ("--instance", kept.uid)]
        return self.asks("delete", *named, "--reason", "torture", "--yes", interrupt=interrupt, with_=with_)

    def _kept(self, found: Sequence[Kept]) -> None:
        """It was refused before anything was asked for."""
        for kept in found:
            self._journal.note(KEPT, kept.uid)
        self._senders.give(found)
        self.done["deletes refused"] += 1

    def _gone(self, found: Sequence[Kept]) -> None:
        for kept in found:
            self._journal.note(DELETED, kept.uid)
        self.done["instances deleted"] += len(found)

    def undo(self, request: str, found: Sequence[Kept]) -> None:
        """Bring back what a delete took away; what nobody hears the end of may be there or not."""
        for kept in found:
            self._journal.note(OFFERED, kept.uid, dataset=kept.digest)
        typed = self.asks("delete", "undo", request, "--yes")
        if typed.code == 0 and typed.document()["back"] == len(found):
            for kept in found:
                self._journal.note(ACKNOWLEDGED, kept.uid, dataset=kept.digest)
            self._senders.give(found)
            self.done["instances brought back"] += len(found)

    def finish(self) -> None:
        """Everything is healed: give the open deletes again, all at once, until they are done. Raises FaultFailed."""
        self._leaving.clear()
        found = [kept for batch in self._open for kept in batch]
        deadline = time.monotonic() + 60
        while found and (typed := self._bury(found[:UIDS_LIMIT], None, signal.SIGINT)):
            if typed.code == 0 or _NOTHING in str(typed.document().get("cause")):  # done when its end was not heard
                self._gone(found[:UIDS_LIMIT])
                del found[:UIDS_LIMIT]
            elif time.monotonic() > deadline:
                raise FaultFailed(f"healed, and yet nothing can be deleted: {typed}")
        self.done["deletes given again"] += len(self._open)
        self._open.clear()

    # At the side of a fault

    @contextmanager
    def deleting(self, *, undoing: bool = True) -> Generator[None]:
        """Somebody deletes all the while, from before this yields on. Some of it is undone, some sent again, some of
        the verbs are interrupted.
        """
        with self.busy(lambda: self._delete_some(undoing=undoing), hands=2):
            if not self._arena.until(lambda: self.done["instances deleted"] > 0, 60):
                raise FaultFailed("nothing could be deleted although nothing had failed yet")
            yield

    def _delete_some(self, *, undoing: bool) -> None:
        chance = self._arena.chance
        request, found = self.delete(chance.choice((1, 2, 5, 20)), hurried=chance.random() < 0.25)
        if not found:
            time.sleep(0.1)
        elif undoing and chance.random() < 0.3:
            self.undo(request, found)
        elif chance.random() < 0.5:
            self._senders.send_again(found)

    @contextmanager
    def busy(self, work: Callable[[], None], *, hands: int = 1) -> Generator[None]:
        """So many do something again and again meanwhile. Raises FaultFailed from there, at the end."""
        failures: list[FaultFailed] = []
        stopping = threading.Event()
        self._leaving.clear()

        def again() -> None:
            try:
                while not stopping.is_set():
                    work()
            except FaultFailed as why:
                failures.append(why)

        threads = [threading.Thread(target=again, name="operator", daemon=True) for _ in range(hands)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stopping.set()
            threads[0].join(3)
            self._leaving.set()  # whatever is still under way is interrupted
            for thread in threads:
                thread.join()
            self._leaving.clear()
        if failures:
            raise failures[0]
