"""Runs the simulator and the tests against copies of the source that lack one guard each.

A guard that nothing notices is either needless, and then the list says why it is kept, or untested.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.simulation.guard import Guard
from tests.simulation.guards import GUARDS

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("perenne", "monitoring", "replication", "storage", "tests")
SCENARIOS = (
    "tests/simulation/test_regressions.py",
    "tests/simulation/test_traps.py",
    "tests/simulation/test_tier_traps.py",
    "tests/simulation/test_absence.py",
)
TESTS = ("tests/core", "tests/storage", "tests/replication")


def snapshot(directory: Path) -> None:
    """Copy the source as it is now: whoever goes on working meanwhile is not judged."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, directory / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", directory)


USAGE = 4
"""pytest's exit code for a test that is not there."""


def noticed_by(guard: Guard, runs: int, base: Path, quick: bool, by_seed: bool = False) -> str:
    """Name the first seed or test that fails without the guard; empty when nothing does, or not the test that the guard
    names. by_seed: ask random seeds alone.
    """
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name) / "source"
        shutil.copytree(base, copy)
        source = (copy / guard.file).read_text()
        if source.count(guard.old) != 1:
            return f"THE LIST IS WRONG: {source.count(guard.old)} places"
        (copy / guard.file).write_text(source.replace(guard.old, guard.new))
        if by_seed:
            return _simulated(copy, runs)
        if guard.shown_by:
            return _tested(copy, [guard.shown_by])
        return (
            _tested(copy, SCENARIOS)
            or (_simulated(copy, runs) if runs else "")
            or ("" if quick else _tested(copy, TESTS))
        )


def _simulated(copy: Path, runs: int) -> str:
    arguments = ["-m", "tests.simulation", "--seed", "0", "--runs", str(runs), "--until-violation"]
    try:
        done = _python(copy, arguments, 1200)
    except subprocess.TimeoutExpired:
        return "the simulator, which does not come to an end"
    lines = [line for line in done.stdout.splitlines() if line.startswith("script/simulate --seed")]
    if lines:
        command, _, said = lines[0].partition("  # ")
        return f"seed {command.split()[2]}: {said[:90]}"
    return "" if done.returncode == 0 else f"the simulator: {done.stderr[-90:]}"


def _tested(copy: Path, tests: Sequence[str]) -> str:
    arguments = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--timeout=100", *tests]
    try:
        done = _python(copy, arguments, 1200)
    except subprocess.TimeoutExpired:
        return "the tests, which do not come to an end"
    lines = done.stdout.splitlines()
    failed = [line for line in lines if line.startswith(("FAILED ", "ERROR: ", "ERROR tests/"))]  # and not a log's
    if done.returncode == USAGE:
        raise SystemExit(f"THE LIST IS WRONG: {failed[0] if failed else done.stderr[-200:]}")
    if failed:
        return f"`{failed[0].split(' ')[1]}`"
    return "" if done.returncode == 0 else f"the tests, which end with {done.returncode}: {done.stdout[-90:]}"


def _python(copy: Path, arguments: Sequence[str], seconds: int) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )


def main(arguments: list[str]) -> int:
    """Return 1 when a guard was not noticed."""
    parser = argparse.ArgumentParser("script/mutants", description=__doc__)
    parser.add_argument("--runs", type=int, default=300, help="seeds per mutant that names no test; 0 for none")
    parser.add_argument("--by-seed", action="store_true", help="no tests: what these seeds alone notice of each")
    parser.add_argument("--only", default="", help="guards whose name contains this")
    parser.add_argument("--skip", type=int, default=0, help="go on after this many guards")
    parser.add_argument("--quick", action="store_true", help="the guard's own test, scenarios and seeds only")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--markdown", action="store_true", help="a table for docs/proof.md")
    options = parser.parse_args(arguments)
    guards = [guard for guard in GUARDS if options.only in guard.name][options.skip :]
    if not guards:
        parser.error(f"no guard has {options.only!r} in its name; tests/simulation/guards*.py name them")
    begun = time.monotonic()
    missed = kept = 0
    with tempfile.TemporaryDirectory() as base, ThreadPoolExecutor(options.jobs) as pool:
        snapshot(Path(base))
        broken = not options.by_seed and _tested(
            Path(base), sorted({*SCENARIOS, *(guard.shown_by for guard in guards if guard.shown_by)})
        )
        if broken:
            sys.stdout.write(f"with every guard in its place {broken} fails: what fails without one says nothing\n")
            return 1
        count = len(guards)
        found = pool.map(
            noticed_by,
            guards,
            [int(options.runs)] * count,
            [Path(base)] * count,
            [bool(options.quick)] * count,
            [bool(options.by_seed)] * count,
        )
        for guard, by in zip(guards, found, strict=True):
            kept += not by and bool(guard.needless)
            missed += not by and not guard.needless
            by = by or (f"kept although {guard.needless}" if guard.needless else "")
            line = (
                f"| {guard.name} | {by or '**nothing**'} |" if options.markdown else f"{guard.name}: {by or 'NOTHING'}"
            )
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
    seconds = time.monotonic() - begun
    sys.stdout.write(f"{len(guards)} guards, {missed} not noticed, {kept} needless and kept, {seconds:.0f} s\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
