"""Containers without an engine: a root of its own, read-only, as another user, without capabilities, in a namespace.

What runs inside sees the paths, the ports and the names of a container; its process is an ordinary child of this one.
Every mount lies in a mount namespace of its own, and goes away with the last process inside.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from perenne.local.processes import Running, start

_SHOWN: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc/ssl", "/etc/java-17-openjdk", "/etc/alternatives")


class CannotContain(Exception):
    """This machine has no namespaces, or no rights to make them; the text says what is missing."""


def check_rights() -> None:
    """Raises CannotContain."""
    if os.geteuid() != 0:
        raise CannotContain("mounts and network namespaces need root: run it with sudo")
    missing = [tool for tool in ("unshare", "nsenter", "setpriv", "chroot", "mount") if shutil.which(tool) is None]
    if missing:
        raise CannotContain(f"needs {', '.join(missing)}: packages util-linux and coreutils")
    done = subprocess.run(["unshare", "-m", "true"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CannotContain(f"no mount namespaces: {done.stderr.strip()}")


@dataclass(frozen=True, slots=True)
class Image:
    """What a container's root begins with. root: a directory to show, or None for an empty one. shown: from, to."""

    root: Path | None
    shown: tuple[tuple[str, str], ...] = ()


def image_of_this_machine(directory: Path, repository: Path) -> Image:
    """The programs of this machine and this repository, below /opt/perenne as in the image."""
    program = directory / "opt-perenne" / "bin"
    program.mkdir(parents=True, exist_ok=True)
    python = Path(sys.executable)
    for name, text in (
        ("python", f'exec "{python}" "$@"'),
        ("perenne", f'exec "{python}" -m perenne.cli "$@"'),
    ):
        file = program / name
        file.write_text(f'#!/bin/sh\nPYTHONPATH="{repository}" PYTHONDONTWRITEBYTECODE=1 {text}\n')
        file.chmod(0o755)
    places = {str(repository), str(Path(sys.prefix).resolve()), sys.base_prefix}
    own = tuple((place, place) for place in sorted(places) if not place.startswith("/usr"))
    shown = tuple((place, place) for place in _SHOWN if Path(place).exists())
    return Image(None, (*shown, *own, (str(program.parent), "/opt/perenne")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """How one process is to run. binds: from, to, read-only. network: the prefix that enters a network namespace."""

    image: Image
    place: Path
    """A directory of this container: its root is mounted there, for itself alone."""
    command: Sequence[str]
    user: int
    environment: Mapping[str, str]
    binds: Sequence[tuple[Path, str, bool]] = ()
    scratch: Sequence[str] = ("/tmp",)
    network: Sequence[str] = ()

    def start(self, log: Path) -> Running:
        """Raises DidNotStart."""
        self.place.mkdir(parents=True, exist_ok=True)
        return start(self.words(), log, self.place)

    def words(self) -> list[str]:
        script = "\n".join(["set -eu", *self._mounts()])
        inside = shlex.join([*locked(self.user), *program(self.environment, self.command)])
        whole = f"{script}\nexec chroot {shlex.quote(str(self.place))} {inside}"
        return [*self.network, "unshare", "--mount", "sh", "-c", whole]

    def _mounts(self) -> list[str]:
        place = str(self.place)
        lines: list[str] = []
        if self.image.root is None:
            lines.append(_line("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", place))
            lines.append(_line("mkdir", f"{place}/etc"))
            lines.append(f"cp /etc/passwd /etc/group /etc/nsswitch.conf /etc/ld.so.cache {shlex.quote(place)}/etc/")
        else:
            lines.append(_line("mount", "--bind", str(self.image.root), place))
        for target in self.scratch:
            lines.append(_line("mkdir", "-p", place + target))
            lines.append(_line("mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", place + target))
        # After /tmp: what is shown may lie below it.
        lines += self._show([(source, target, True) for source, target in self.image.shown])
        lines.append(_line("mkdir", "-p", f"{place}/proc", f"{place}/dev"))
        lines.append(_line("mount", "-t", "proc", "proc", f"{place}/proc"))
        lines.append(_line("mount", "--rbind", "/dev", f"{place}/dev"))
        lines += self._show([(str(source), target, read_only) for source, target, read_only in self.binds])
        again = "remount,ro" if self.image.root is None else "remount,ro,bind"
        return [*lines, _line("mount", "-o", again, place)]

    def _show(self, binds: Sequence[tuple[str, str, bool]]) -> list[str]:
        lines: list[str] = []
        for source, target, read_only in binds:
            there = f"{self.place}{target}"
            if Path(source).is_dir():
                lines.append(_line("mkdir", "-p", there))
            else:
                lines.append(_line("mkdir", "-p", str(Path(there).parent)))
                lines.append(f"[ -e {shlex.quote(there)} ] || touch {shlex.quote(there)}")
            lines.append(_line("mount", "--bind", source, there))
            if read_only:
                lines.append(_line("mount", "-o", "remount,ro,bind", there))
        return lines


def locked(user: int) -> list[str]:
    """What drops everything that the chart's security context drops."""
    ids = ["--reuid", str(user), "--regid", str(user), "--clear-groups"]
    # Another user forgets whose child it is: it is told again to end with this process.
    return ["setpriv", *ids, "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs", "--pdeathsig", "KILL"]


def program(environment: Mapping[str, str], command: Sequence[str]) -> list[str]:
    return ["env", "-i", "-C", "/", *(f"{name}={value}" for name, value in environment.items()), *command]


def execute(
    running: Running, container: Container, command: Sequence[str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run a command in a running container, as hooks and exec probes do. Raises subprocess.TimeoutExpired."""
    enter = ["nsenter", "--target", str(running.pid), "--mount", "--net", "--root"]
    words = [*enter, *locked(container.user), *program(container.environment, command)]
    return subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=False)


def _line(*words: str) -> str:
    return shlex.join(words)
