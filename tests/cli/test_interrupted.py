"""Goal: Ctrl-C is a line at most and exit code 130.

Method: a real signal while the parts are being imported; the key itself, on a terminal, at a question.
"""

import contextlib
import fcntl
import os
import pty
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

SCRIPT = """
import os, signal, sys

module = sys.argv[1]
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background

class Presses:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Presses())
from perenne.cli import main
sys.argv[1:] = ["import", "/nowhere", "--to", "127.0.0.1:1"]
main()
"""


def test_ctrl_c_while_a_verb_begins_shows_no_traceback() -> None:
    for module in ("perenne.cli.retention", "perenne.cli.importing"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, module], capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stdout) == (130, ""), (module, done.stderr)
        assert done.stderr in ("", "perenne: interrupted\n"), (module, done.stderr)


QUESTION = """
import signal
import typer
from perenne.cli import orders

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
app = typer.Typer()

@app.command()
def ask() -> None:
    async def work() -> int:
        return int(not orders.agreed("Really?", yes=False))

    raise orders.carry_out(work(), as_json=False)

app()
"""


def asleep(pid: int) -> bool:
    """Whether a process waits for something."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def answered(typed: bytes) -> tuple[int, bytes]:
    """The exit code of a verb that asks a person, and what it shows, when this is typed."""
    ours, theirs = pty.openpty()
    shown = b""
    try:
        verb = subprocess.Popen(
            [sys.executable, "-c", QUESTION], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(theirs)
        late = threading.Timer(30, verb.kill)
        late.start()
        while b"[y/N]" not in shown:
            shown += os.read(ours, 4096)
        while not asleep(verb.pid):  # a key that comes between the question and read() waits for the next one
            time.sleep(0.01)
        os.write(ours, typed)
        with contextlib.suppress(OSError):  # what a terminal says when nobody has it open any more
            while more := os.read(ours, 4096):
                shown += more
        late.cancel()
        return verb.wait(timeout=60), shown
    finally:
        os.close(ours)


def test_one_ctrl_c_ends_a_verb_that_asks() -> None:
    """Within a coroutine asyncio takes the first one for itself, and the question stays where it is."""
    code, shown = answered(b"\x03")
    assert (code, b"Traceback" in shown) == (130, False), shown
    assert answered(b"y\n")[0] == 0
    assert answered(b"n\n")[0] == 1
