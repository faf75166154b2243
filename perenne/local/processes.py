"""Child processes that outlive whoever started them, and are ended by id, never by name."""

import contextlib
import errno
import os
import secrets
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final


class DidNotStart(Exception):
    """A process ended, or did not come up in time; the text shows the end of its log."""


_PORTS: Final = 12_000, 32_000
_CLAIMS: Final = 512
_claims: Final[deque[int]] = deque()
"""File descriptors that keep ports that this process was given from others that ask here; the oldest are given back."""


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on now, and that no process which runs got here before: not even one whose
    server was ended and is to come back. Raises DidNotStart when there are none.

    They lie below those that the kernel hands out by itself: one of those may become the near end of any connection in
    the moment between this look and its use, and does when several test runs work beside each other.
    """
    ports: list[int] = []
    for _ in range(100 * count):
        if len(ports) == count:
            break
        port = secrets.randbelow(_PORTS[1] - _PORTS[0]) + _PORTS[0]
        claim = socket.socket(socket.AF_UNIX)
        try:
            # An abstract name (unix(7)): of this network namespace as the port is, and gone with its process.
            claim.bind(f"\0perenne-port-{port}")
            with socket.socket() as one:
                one.bind(("127.0.0.1", port))
        except OSError as error:
            claim.close()
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            _claims.append(claim.detach())
            ports.append(port)
    while len(_claims) > max(_CLAIMS, count):
        os.close(_claims.popleft())
    if len(ports) < count:
        raise DidNotStart(f"fewer than {count} ports are free from {_PORTS[0]} to {_PORTS[1]}: end what listens there")
    return ports


def listens(port: int) -> bool:
    """Whether somebody accepts connections there, on loopback."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def taken(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a process that wants to listen there could not."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot: with its pid it names exactly one process."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19])
    except (OSError, IndexError, ValueError):
        return None


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (OSError, IndexError):
        return False


@dataclass
class Running:
    """One process: `started` guards against a pid that was given to somebody else since."""

    pid: int
    started: int
    log: Path

    @property
    def alive(self) -> bool:
        return start_time(self.pid) == self.started and not is_zombie(self.pid)

    def signal(self, number: signal.Signals) -> None:
        if self.alive:
            os.kill(self.pid, number)

    def reap(self) -> None:
        with contextlib.suppress(ChildProcessError):  # it may be the child of another process
            os.waitpid(self.pid, os.WNOHANG)

    def stop(self, seconds: float = 20.0) -> None:
        """Ask to end, then insist."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        deadline = time.monotonic() + seconds
        while self.alive and time.monotonic() < deadline:
            self.reap()
            time.sleep(0.02)
        self.kill()

    def kill(self) -> None:
        """End it, and wait until nothing of it is left: a thread that hangs in its disk still holds locks and ports."""
        self.signal(signal.SIGKILL)
        while not self._gone():
            time.sleep(0.005)

    def _gone(self) -> bool:
        with contextlib.suppress(ChildProcessError):
            return os.waitpid(self.pid, os.WNOHANG)[0] == self.pid
        if start_time(self.pid) != self.started:
            return True
        threads = Path(f"/proc/{self.pid}/task")
        return is_zombie(self.pid) and (not threads.exists() or len(list(threads.iterdir())) <= 1)

    def tail(self, lines: int = 15) -> str:
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return "(no log)"


def start(command: Sequence[str], log: Path, directory: Path) -> Running:
    """Start a process in its own session, its output appended to `log`. Raises DidNotStart."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            list(command), stdout=output, stderr=output, stdin=subprocess.DEVNULL, cwd=directory, start_new_session=True
        )
    pid = process.pid
    process.returncode = 0  # it is not this object's to wait for: it may outlive us
    started = start_time(pid)
    if started is None:
        raise DidNotStart(f"{command[0]} ended at once; see {log}")
    return Running(pid, started, log)


def wait_until(condition: Callable[[], bool], running: Sequence[Running], what: str, seconds: float = 60.0) -> None:
    """Wait for `condition`; give up as soon as one of `running` ended. Raises DidNotStart."""
    deadline = time.monotonic() + seconds
    while not condition():
        for process in running:
            process.reap()
            if not process.alive:
                raise DidNotStart(f"while waiting until {what}, a process ended:\n{process.tail()}")
        if time.monotonic() > deadline:
            tails = "\n".join(f"--- {process.log}\n{process.tail()}" for process in running)
            raise DidNotStart(f"waited {seconds:.0f} s in vain until {what}\n{tails}")
        time.sleep(0.03)
