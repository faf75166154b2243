"""Goal: a test whose program is missing is skipped on a desk and fails in CI, and script/setup brings every program."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.needs import ESSENTIAL, PACKAGES, in_ci, program, require

ROOT = Path(__file__).parent.parent
UNITS = "tests/deploy/test_systemd.py::test_a_misspelt_word_would_be_seen"


def sources() -> dict[str, str]:
    found = {str(path.relative_to(ROOT)): path.read_text() for path in sorted((ROOT / "tests").rglob("test_*.py"))}
    assert len(found) > 80, "the walk sees them"
    return {name: text for name, text in found.items() if ROOT / name != Path(__file__)}


@pytest.mark.parametrize(("ci", "code", "outcome"), [("1", 1, "1 error"), ("false", 0, "1 skipped")])
def test_a_missing_program_skips_on_a_desk_and_fails_in_ci(tmp_path: Path, ci: str, code: int, outcome: str) -> None:
    """A whole run of pytest, which finds no program at all."""
    assert (program("systemd-analyze") or "").startswith("/usr/bin"), "elsewhere the path below would not hide it"
    environment = {**os.environ, "CI": ci, "PATH": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", UNITS]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    assert outcome in done.stdout
    assert "systemd-analyze missing: script/setup installs systemd" in done.stdout


def test_a_program_that_is_there_is_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "1")
    require("tar")
    monkeypatch.delenv("CI")
    assert not in_ci()


def test_every_program_that_is_named_is_installed_by_setup() -> None:
    named = {
        name for text in sources().values() for marks in re.findall(r"needs\(([^)]*)\)", text) for name in words(marks)
    }
    assert {"promtool", "haproxy", "storescu"} <= named
    assert named <= PACKAGES.keys()
    setup = set((ROOT / "script" / "setup").read_text().split())
    assert set(PACKAGES.values()) - ESSENTIAL <= setup | {word.rstrip(";") for word in setup}


def words(marks: str) -> list[str]:
    return re.findall(r'"([^"]+)"', marks)


def test_nobody_looks_for_programs_by_himself() -> None:
    assert [
        name for name, text in sources().items() if re.search(r"mark\.skipif|shutil\.which|importorskip", text)
    ] == []


def test_ci_says_so() -> None:
    assert re.search(r"\bCI=", (ROOT / ".ci" / "run").read_text())
