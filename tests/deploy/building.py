"""Carries out deploy/Containerfile in debootstrapped roots, as an engine would: RUN in a chroot, and COPY."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.deploy.containerfile import Stage
from tests.deploy.debian import Say, StepFailed, done, run_in


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
                run_in(root, instruction.rest, binds)
            elif instruction.word == "COPY":
                say(f"{stage.name or 'final'}: COPY {instruction.rest}")
                _copy(root, instruction.rest, context, roots)
        roots[stage.name] = root
    return roots[""]


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
    done(["cp", "-a", "--no-preserve=ownership", str(place / source.lstrip("/")), str(there)], os.environ, rest)
