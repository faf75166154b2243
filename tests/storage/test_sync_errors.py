"""Goal: a medium that could not be written is nobody's to overlook, whichever thread happens to be told of it first.

Method: `fdatasync` as Linux has it (errseq, since 4.13): an error is told once for each open file description, to
whoever asks first, and the pages are clean from then on.
"""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.disk import RealDisk
from storage.errors import SegmentPoisoned
from storage.log import Log
from tests.storage.log_helpers import IDENTITY, append

PATIENCE_S = 1.0


class Kernel:
    """Of two calls that wait for the same pages the second is told that they are lost, and the first is not."""

    def __init__(self) -> None:
        self.failing = False
        self.entered = threading.Event()
        self._told = threading.Event()
        self._sync: Callable[[int], None] = os.fdatasync

    def fdatasync(self, fd: int) -> None:
        if not self.failing or self._told.is_set():
            self._sync(fd)
        elif not self.entered.is_set():
            self.entered.set()
            if not self._told.wait(PATIENCE_S):
                self._fail()
        else:
            self._fail()

    def _fail(self) -> None:
        self._told.set()
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_the_log_does_not_call_durable_what_a_reader_was_told_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log thread syncs a group, while a reader syncs the same segment before it judges a damaged record in it."""
    kernel = Kernel()
    monkeypatch.setattr(os, "fdatasync", kernel.fdatasync)
    log = Log.open(RealDisk(tmp_path), IDENTITY, host_rebooted=False, spares=0)[0]
    append(log, 5_000)
    log.sync()
    log.note_damage(1)
    append(log, 5_000)
    before = log.durable
    kernel.failing = True

    def judge() -> None:
        assert kernel.entered.wait(PATIENCE_S)
        assert log.judge(1), "what could not be written is not called sound"

    reader = threading.Thread(target=judge)
    reader.start()
    with pytest.raises(SegmentPoisoned):
        log.sync()
    assert log.durable == before and log.failure is not None
    reader.join()
    log.close()
