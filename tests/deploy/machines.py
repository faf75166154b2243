"""Machines without hardware: a directory with a Debian, booted by systemd-nspawn with its own systemd.

Each has its own network namespace, process ids, cgroups and mounts. All of it hangs on one process here, which dies
with this one: the kernel then ends whatever runs inside and takes the mounts away, so that no directory is ever deleted
through a mount, also after kill -9.
"""

import contextlib
import os
import secrets
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from perenne.local.processes import Running, start, wait_until
from tests.deploy.container import CannotContain
from tests.faults.namespaces import Party

BOOT_S: Final = 90.0
OFF_S: Final = 120.0
TOOLS: Final = {
    "systemd-nspawn": "systemd-container",
    "debootstrap": "debootstrap",
    "git": "git",
    "nsenter": "util-linux",
}
BADGE: Final = "etc/perenne-proof"
"""Says whose root it is. Nothing that a document says to type runs where it is missing: it could be this machine."""
SHELL: Final = "bash -euo pipefail -c"
_CGROUP: Final = "perenne-proof-"
_VARIABLES: Final = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8")


def check_tools() -> None:
    """Raises CannotContain."""
    missing = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    if missing:
        raise CannotContain(f"missing: apt-get install --no-install-recommends {' '.join(missing)}")


def guarded(name: str, text: str) -> str:
    """A shell command that runs the text, unchanged, in /root/perenne of the root with that badge, and nowhere else."""
    whose = f'[ "$(cat /{BADGE})" = {shlex.quote(name)} ] || {{ echo "this is not {name}" >&2; exit 99; }}'
    return f"{whose}; cd /root/perenne; exec {SHELL} {shlex.quote(text)}"


@dataclass
class Machine:
    """name: its host name. root: where its Debian lies. cgroup: of its own, below that of this process."""

    name: str
    root: Path
    party: Party
    log: Path
    cgroup: str = field(default_factory=lambda: f"{_CGROUP}{os.getpid()}-{secrets.token_hex(4)}")
    running: Running | None = None

    def boot(self) -> None:
        """Returns once everything that is to start at boot was started. Raises DidNotStart."""
        places = _make_cgroups(self.cgroup)
        nspawn = [
            *("systemd-nspawn", "--quiet", "--boot", f"--directory={self.root}", f"--machine={self.name}"),
            *("--register=no", "--keep-unit", "--network-namespace-path=/proc/self/ns/net", "--link-journal=no"),
            *("--resolv-conf=off", "--timezone=off"),
        ]
        # nspawn keeps its locks below /run: a /run of its own leaves nothing behind.
        inside = f"mount -t tmpfs tmpfs /run; exec {shlex.join(nspawn)}"
        apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-euc", inside]
        enter = "\n".join(f"echo 0 >{shlex.quote(str(place / 'cgroup.procs'))}" for place in places)
        words = [*self.party.namespace.wrapper, "sh", "-euc", f"{enter}\nexec {shlex.join(apart)}"]
        running = self.running = start(words, self.log, self.root.parent)
        wait_until(lambda: self._up(running), [running], f"{self.name} has booted", BOOT_S)

    def _up(self, running: Running) -> bool:
        if _leader(running.pid) is None:
            return False
        return self.run("systemctl is-system-running || true", 30).stdout.strip() in ("running", "degraded")

    def run(self, text: str, timeout: float) -> subprocess.CompletedProcess[str]:
        """As root, in the directory that the document names. Raises subprocess.TimeoutExpired."""
        assert self.running is not None
        leader = _leader(self.running.pid)
        if leader is None:
            raise CannotContain(f"{self.name} is off")
        enter = ["nsenter", f"--target={leader}", "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd"]
        words = [*enter, "env", "-i", *_VARIABLES, "bash", "-euc", guarded(self.name, text)]
        return subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False
        )

    def await_off(self) -> None:
        """Raises DidNotStart when it does not switch itself off."""
        assert self.running is not None
        running, self.running = self.running, None
        wait_until(lambda: _gone(running), [], f"{self.name} is off", OFF_S)
        _remove_cgroups(self.cgroup)

    def kill(self) -> None:
        """As if the current failed. Returns when nothing of it is left."""
        if self.running is None:
            return
        running, self.running = self.running, None
        for child in _below(running.pid)[1:2]:  # what waits for it then ends by itself, and has buried it
            os.kill(child, signal.SIGKILL)
            wait_until(lambda: _gone(running), [], f"{self.name} is off", OFF_S)
        running.kill()
        wait_until(lambda: not _members(self.cgroup), [], f"everything in {self.name} has ended", OFF_S)
        _remove_cgroups(self.cgroup)

    def processes(self) -> Iterator[Path]:
        """Of everything that runs inside, the directories in /proc."""
        assert self.running is not None
        for pid in _below(self.running.pid):
            if _levels(pid) == _levels(os.getpid()) + 2:
                yield Path("/proc", str(pid))


def _gone(running: Running) -> bool:
    running.reap()
    return not running.alive


def _status(pid: int, key: str) -> list[str]:
    """Empty when the process has ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return line.split()[1:]
    return []


def _levels(pid: int) -> int:
    return len(_status(pid, "NSpid"))


def _below(pid: int) -> list[int]:
    """The process and all its descendants."""
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (parent := _status(int(entry), "PPid")):
            parents[int(entry)] = int(parent[0])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def _leader(pid: int) -> int | None:
    """The machine's process 1: two levels of process ids deeper than this process."""
    own = _levels(os.getpid())
    for one in _below(pid):
        ids = _status(one, "NSpid")
        if len(ids) == own + 2 and ids[-1] == "1":
            return one
    return None


def _cgroups(name: str) -> list[Path]:
    """Where a cgroup of that name lies below the one of this process, in each hierarchy."""
    own: dict[str, str] = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own[controllers] = path.lstrip("/")
    found: list[Path] = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split()[:3]
        if kind not in ("cgroup", "cgroup2"):
            continue
        place = Path(before.split()[4])
        for controllers, path in own.items():
            parts = set(controllers.split(",")) if controllers else {""}
            if (kind == "cgroup2" and not controllers) or (kind == "cgroup" and parts <= set(options.split(","))):
                found.append(place / path / name)
    return found


def _make_cgroups(name: str) -> list[Path]:
    places = _cgroups(name)
    for place in places:
        place.mkdir(exist_ok=True)
        for setting in ("cpuset.cpus", "cpuset.mems"):
            if (place / setting).exists() and not (place / setting).read_text().strip():
                (place / setting).write_text((place.parent / setting).read_text())
    return places


def sweep() -> None:
    """Remove the cgroups of runs that were killed: nothing is in them any more. Raises OSError if there is."""
    for place in {place for parent in _cgroups("") for place in parent.glob(f"{_CGROUP}*")}:
        if not Path("/proc", place.name.removeprefix(_CGROUP).partition("-")[0]).exists():
            _remove_cgroups(place.name)


def _members(name: str) -> list[str]:
    return [
        pid
        for place in _cgroups(name)
        for file in (place.rglob("cgroup.procs") if place.exists() else ())
        for pid in file.read_text().split()
    ]


def _remove_cgroups(name: str) -> None:
    """Raises OSError when something is still in them."""
    for place in filter(Path.exists, _cgroups(name)):
        for directory, _, _ in os.walk(place, topdown=False):
            os.rmdir(directory)


def interrupt_on_terms() -> None:
    """SIGTERM and SIGHUP end this process as Ctrl-C does: with everything cleared away. In the background as well."""

    def interrupt(number: int, _: object) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
