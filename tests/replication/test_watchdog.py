"""The canary and the watchdog: a process of its own where the end of the process is the point."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from replication.watchdog import EXIT_CODE, Patience, Watchdog
from storage.disk import RealDisk

HANGS = """
import sys, threading, time
from collections.abc import Sequence
from pathlib import Path
from replication.watchdog import Watchdog
from storage.disk import RealDisk

class Hanging:
    def pwrite(self, parts, offset): pass
    def sync(self): threading.Event().wait()

class Disk(RealDisk):
    def open(self, name, *, create=False, direct=False): return Hanging()

what = sys.argv[1]
disk = (Disk if what == "disk" else RealDisk)(Path(sys.argv[2]))
began = time.monotonic()
age = (lambda: time.monotonic() - began) if what == "loop" else (lambda: 0.0)
told = lambda trouble: print(trouble, flush=True)
Watchdog(disk, session_s=1, changed=told, loop_age=age, reserve_bytes=0).start()
threading.Event().wait()
"""


def end_of(what: str, directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", HANGS, what, str(directory)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_disk_that_does_not_answer_refuses_stores_first_and_then_ends_the_process(tmp_path: Path) -> None:
    ended = end_of("disk", tmp_path)
    assert ended.returncode == EXIT_CODE
    assert ended.stdout.splitlines() == ["the disk does not answer"]
    assert "the disk has not answered for" in ended.stderr
    assert "event loop" not in ended.stderr


def test_an_event_loop_that_does_not_turn_ends_the_process(tmp_path: Path) -> None:
    ended = end_of("loop", tmp_path)
    assert ended.returncode == EXIT_CODE
    assert ended.stdout == ""
    assert "the event loop has not turned for" in ended.stderr
    assert "the disk answers" in ended.stderr


def test_a_process_that_was_stopped_and_continued_does_not_blame_the_disk(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HANGS, "nothing", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        canary = tmp_path / "canary"
        while not canary.exists() or not canary.stat().st_size:
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGSTOP)
        time.sleep(7)
        process.send_signal(signal.SIGCONT)
        time.sleep(1)
        process.kill()
        _, stderr = process.communicate(timeout=20)
    assert "the disk has not answered" not in stderr
    assert not stderr or "the whole process stood still for" in stderr


def test_what_stood_still_is_told_apart() -> None:
    patience = Patience.for_session(6)
    assert patience.what_stood_still(1, None, 1, 0.6) is None
    assert "disk has not answered" in (patience.what_stood_still(6, None, 1, 0.6) or "")
    assert "event loop" in (patience.what_stood_still(1, None, 13, 0.6) or "")
    assert "whole process" in (patience.what_stood_still(13, None, 13, 13) or "")


def test_a_disk_below_its_reserve_is_told_and_so_is_its_recovery(tmp_path: Path) -> None:
    told: list[str | None] = []
    changed = threading.Event()
    disk = RealDisk(tmp_path)

    def tell(trouble: str | None) -> None:
        told.append(trouble)
        changed.set()

    watchdog = Watchdog(disk, session_s=0.2, changed=tell, loop_age=lambda: 0.0, reserve_bytes=1 << 60)
    watchdog.start()
    assert changed.wait(20)
    watchdog.stop()
    assert told[0] == "the disk is nearly full"
    assert (tmp_path / "canary").stat().st_size == 4096
