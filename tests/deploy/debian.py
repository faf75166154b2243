"""A bare Debian 12 in a directory, and steps in it that may reach this machine's package indexes."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

_OUTSIDE: Final = (
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/pip.conf",
    "/etc/xdg/pip",
    "/etc/apt/sources.list",
    "/etc/apt/sources.list.d",
    "/etc/apt/apt.conf.d",
    "/etc/apt/auth.conf.d",
    "/etc/ssl/certs",
    "/usr/share/keyrings",
    "/root/.config/pip",
    "/root/.pip",
    "/root/.netrc",
)
"""What a machine may need to reach its package indexes."""
_VARIABLES: Final = ("PIP_", "SSL_CERT_FILE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY")
Say = Callable[[str], None]


class StepFailed(Exception):
    """The text names the step and ends with what it said."""


def first_mirror() -> str:
    """Of the sources that have Debian 12. Raises StepFailed."""
    places = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    for text in (place.read_text() for place in places if place.suffix in (".list", ".sources") and place.is_file()):
        found = re.search(r"^(?:URIs:|deb(?: \[[^\]]*\])?) *(https?:\S+)", text, re.MULTILINE)
        if found is not None and re.search(r"\bbookworm\b", text):
            return found[1]
    raise StepFailed("no apt source of Debian 12 found: name a --mirror")


def debootstrapped(directory: Path, mirror: str, say: Say, packages: Sequence[str] = ()) -> Path:
    """A root with these packages as well; the one that was made there before. Raises StepFailed."""
    base = directory / "base"
    if (base / "done").exists():
        return base
    if shutil.which("debootstrap") is None:
        raise StepFailed("debootstrap is missing: apt-get install debootstrap")
    directory.mkdir(parents=True, exist_ok=True)
    say("debootstrap a minimal bookworm")
    included = f"--include={','.join(('ca-certificates', *packages))}"
    words = ["debootstrap", "--variant=minbase", included, "bookworm", str(base), mirror]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise StepFailed(f"debootstrap: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    (base / "done").touch()
    return base


def bring_along(root: Path) -> None:
    """Show the new root how this machine reaches its package indexes."""
    for name in _OUTSIDE:
        source, target = Path(name), root / name.lstrip("/")
        if source.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target, ignore_dangling_symlinks=True)
        elif source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            shutil.copy(source, target)
    for source in (root / "etc/apt/sources.list.d").glob("*"):
        if "bookworm" not in source.read_text():
            source.unlink()  # not Debian's
    if any((root / "etc/apt/sources.list.d").glob("*")) and not Path("/etc/apt/sources.list").exists():
        (root / "etc/apt/sources.list").unlink(missing_ok=True)


def run_in(root: Path, command: str, binds: Sequence[str], shell: str = "/bin/sh -c") -> None:
    """In a mount namespace of its own: whatever is mounted goes away with it. Raises StepFailed."""
    bring_along(root)  # each time: a package may have written its own certificates since
    kept = {name: value for name, value in os.environ.items() if name.upper().startswith(_VARIABLES)}
    mounts = [f'mount -t proc proc "{root}/proc"', f'mount --rbind /dev "{root}/dev"']
    for bind in binds:
        mounts += [f'mkdir -p "{root}{bind}"', f'mount --bind "{bind}" "{root}{bind}"']
    script = "\n".join(["set -eu", *mounts, f'exec chroot "{root}" {shell} "$STEP"'])
    environment = {
        **kept,
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "DEBIAN_FRONTEND": "noninteractive",
        "STEP": command,
    }
    done(["unshare", "--mount", "sh", "-c", script], environment, command)


def done(words: list[str], environment: Mapping[str, str], what: str) -> None:
    """Raises StepFailed, with the end of what was said."""
    ended = subprocess.run(words, env=dict(environment), capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        end = "\n".join((ended.stdout + ended.stderr).splitlines()[-30:])
        raise StepFailed(f"{what}\n{end}")
