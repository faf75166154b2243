"""The canary: a small synced write through the disk, again and again, so that a hung disk cannot hide (section 9)."""

import os
import threading
import time
from collections.abc import Callable
from typing import Final

from storage.disk import Disk
from storage.errors import StorageError

FILE: Final = "canary"
EXIT_CODE: Final = 70
_PAGE: Final = 4096
LEAST_S: Final = 5.0
"""A disk that is merely busy with gigabytes may take seconds for one sync; that is no reason to die."""


class Watchdog:
    """Two threads: one writes, one watches the writer and the event loop.

    changed(trouble): called from a thread when stores must be refused (a reason) or may be taken again (None).
    loop_age(): seconds since the event loop last turned. A stall beyond `deadly_s` ends the process.
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
        self._stall_s = max(session_s / 2, LEAST_S / 2)
        self._deadly_s = max(session_s * 0.8, LEAST_S)
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
        while not self._stop.wait(self._interval_s):
            stalled = self.age_s > self._stall_s
            trouble = "the disk does not answer" if stalled and self._low is None else self._low
            if trouble != self._trouble:
                self._trouble = trouble
                self._changed(trouble)
            hung = self._low is None and self.age_s > self._deadly_s
            if hung or self._loop_age() > max(self._deadly_s, 10.0):
                # Nothing may run any more that could keep the session alive: not even clean-up.
                os.write(2, b'{"level": "critical", "message": "the data path hangs: this process ends itself"}\n')
                os._exit(EXIT_CODE)
