"""Carries out deploy/Containerfile in debootstrapped roots, as an engine would: RUN in a chroot, and COPY."""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from tests.deploy.containerfile import Stage

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


def build(stages: list[Stage], base: Path, context: Path, directory: Path, binds: list[str], say: Say) -> Path:
    """The root of the last stage. Raises StepFailed."""
    roots: dict[str, Path] = {}
    for number, stage in enumerate(stages, 1):
        root = directory / f"stage-{number}"
        shutil.rmtree(root, ignore_errors=True)
        subprocess.run(["cp", "-a", str(base), str(root)], check=True)
        for instruction in stage.instructions:
            if instruction.word == "RUN":
                say(f"{stage.name or 'final'}: RUN {instruction.rest[:90]}…")
                _run(root, instruction.rest, binds)
            elif instruction.word == "COPY":
                say(f"{stage.name or 'final'}: COPY {instruction.rest}")
                _copy(root, instruction.rest, context, roots)
        roots[stage.name] = root
    return roots[""]


def _run(root: Path, command: str, binds: list[str]) -> None:
    """In a mount namespace of its own: whatever is mounted goes away with it."""
    bring_along(root)  # each time: a package may have written its own certificates since
    kept = {name: value for name, value in os.environ.items() if name.upper().startswith(_VARIABLES)}
    mounts = [f'mount -t proc proc "{root}/proc"', f'mount --rbind /dev "{root}/dev"']
    for bind in binds:
        mounts += [f'mkdir -p "{root}{bind}"', f'mount --bind "{bind}" "{root}{bind}"']
    script = "\n".join(["set -eu", *mounts, f'exec chroot "{root}" /bin/sh -c "$STEP"'])
    environment = {**kept, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "STEP": command}
    _done(["unshare", "--mount", "sh", "-c", script], environment, command)


def _copy(root: Path, rest: str, context: Path, roots: Mapping[str, Path]) -> None:
    *options, source, target = rest.split()
    place = context
    for option in options:
        name, _, stage = option.partition("=")
        if name != "--from":
            raise StepFailed(f"COPY {option} is not understood")
        place = roots[stage]
    there = root / target.lstrip("/")
    there.parent.mkdir(parents=True, exist_ok=True)
    _done(["cp", "-a", "--no-preserve=ownership", str(place / source.lstrip("/")), str(there)], os.environ, rest)


def _done(words: list[str], environment: Mapping[str, str], what: str) -> None:
    done = subprocess.run(words, env=dict(environment), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        end = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
        raise StepFailed(f"{what}\n{end}")
