"""The canary: a small synced write through the disk, again and again, so that a hung disk cannot hide (section 9)."""

import json
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from storage.disk import Disk
from storage.errors import StorageError

_LOG: Final = logging.getLogger("perenne.watchdog")
FILE: Final = "canary"
EXIT_CODE: Final = 70
_PAGE: Final = 4096
LEAST_S: Final = 5.0
"""A disk that is merely busy with gigabytes may take seconds for one sync; that is no reason to die."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a canary may be silent, in seconds: until stores are refused, and until the process ends itself."""

    stall_s: float
    deadly_s: float

    @classmethod
    def for_session(cls, session_s: float) -> "Patience":
        """Less than a session time-out where the disk allows it, so that a hung disk cannot outlive its leadership."""
        return cls(max(session_s / 2, LEAST_S / 2), max(session_s * 0.8, LEAST_S))

    def trouble(self, canary_age_s: float, low: str | None) -> str | None:
        """Why stores must be refused. low: what the canary itself reported."""
        return "the disk does not answer" if low is None and canary_age_s > self.stall_s else low

    def what_stood_still(self, canary_age_s: float, low: str | None, loop_age_s: float) -> str | None:
        """Say for what the process must end itself; None while it need not."""
        disk = low is None and canary_age_s > self.deadly_s
        loop = loop_age_s > max(self.deadly_s, 10.0)
        if disk and loop:
            return f"the disk has not answered for {canary_age_s:.0f} s, nor has the event loop for {loop_age_s:.0f} s"
        if disk:
            return f"the disk has not answered for {canary_age_s:.0f} s"
        if loop:
            return f"the event loop has not turned for {loop_age_s:.0f} s; the disk answers"
        return None

    def stood_still(self, own_age_s: float) -> bool:
        """Whether the whole process stood still (stopped, suspended, starved): then nothing is known of its parts.

        own_age_s: since the watchdog itself last looked. All that is known begins anew when it wakes. What such a
        pause means for leadership is not decided here: the session and the promise see to it.
        """
        return own_age_s > self.deadly_s / 2


class Watchdog:
    """Two threads: one writes, one watches the writer and the event loop.

    changed(trouble): called from a thread when stores must be refused (a reason) or may be taken again (None).
    loop_age(): seconds since the event loop last turned.
    """

    def __init__(
        self,
        disk: Disk,
        *,
        session_s: float,
        changed: Callable[[str | None], None],
        loop_age: Callable[[], float],
        reserve_bytes: int,
    ) -> None:
        self._disk = disk
        self._interval_s = session_s / 10
        self._patience = Patience.for_session(session_s)
        self._changed = changed
        self._loop_age = loop_age
        self._reserve = reserve_bytes
        self._turned = time.monotonic()
        self._trouble: str | None = None
        self._low: str | None = None
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=work, name=f"perenne-{name}", daemon=True)
            for name, work in (("canary", self._write), ("watchdog", self._watch))
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()

    @property
    def age_s(self) -> float:
        """Since the last synced write came back."""
        return time.monotonic() - self._turned

    def _write(self) -> None:
        file = self._disk.open(FILE, create=True)
        while not self._stop.wait(self._interval_s):
            try:
                file.pwrite([bytes(_PAGE)], 0)
                file.sync()
                free = self._disk.free_bytes()
            except (StorageError, OSError) as error:
                self._low = f"the disk fails: {type(error).__name__}"
                return
            self._low = "the disk is nearly full" if free < self._reserve else None
            self._turned = time.monotonic()

    def _watch(self) -> None:
        looked = known_since = time.monotonic()
        while not self._stop.wait(self._interval_s):
            own_age_s, looked = time.monotonic() - looked, time.monotonic()
            if self._patience.stood_still(own_age_s):
                known_since = looked
                _LOG.warning("the whole process stood still for %.0f s: stopped, suspended or starved", own_age_s)
            known_s = looked - known_since
            canary_s, loop_s = min(self.age_s, known_s), min(self._loop_age(), known_s)
            trouble = self._patience.trouble(canary_s, self._low)
            if trouble != self._trouble:
                self._trouble = trouble
                self._changed(trouble)
            why = self._patience.what_stood_still(canary_s, self._low, loop_s)
            if why is not None:
                # Nothing may run any more that could keep the session alive: not even clean-up.
                facts = {"level": "critical", "message": "this process ends itself", "reason": why}
                os.write(2, json.dumps(facts).encode() + b"\n")
                os._exit(EXIT_CODE)
