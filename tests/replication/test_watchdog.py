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


def test_a_process_that_was_stopped_and_continued_lives_on(tmp_path: Path) -> None:
    """All ages are beyond every deadline when it wakes; who watched them stood still as well."""
    command = [sys.executable, "-c", HANGS, "nothing", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        canary = tmp_path / "canary"
        while not canary.exists() or not canary.stat().st_size:
            time.sleep(0.05)
        process.send_signal(signal.SIGSTOP)
        time.sleep(7)  # longer than the deadline of the disk, which is 5 s here
        process.send_signal(signal.SIGCONT)
        assert process.stderr is not None
        assert "the whole process stood still for" in process.stderr.readline()
        seen = canary.stat().st_mtime_ns
        while canary.stat().st_mtime_ns == seen:
            time.sleep(0.05)
        assert process.poll() is None
        process.kill()
        assert "the disk has not answered" not in process.stderr.read()


def test_what_stood_still_is_told_apart() -> None:
    patience = Patience.for_session(6)
    assert patience.what_stood_still(1, None, 1) is None
    assert "disk has not answered" in (patience.what_stood_still(6, None, 1) or "")
    assert "event loop" in (patience.what_stood_still(1, None, 13) or "")
    assert "nor has the event loop" in (patience.what_stood_still(13, None, 13) or "")
    assert patience.stood_still(13)
    assert not patience.stood_still(0.6)


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
