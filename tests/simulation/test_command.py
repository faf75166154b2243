"""The command line of the simulator: what a person starts, interrupts and starts again."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.phases import OF_A_NODE, PHASES
from tests.simulation.plan import Order
from tests.simulation.run import run
from tests.simulation.summary import Summary

ROOT = Path(__file__).parents[2]


def simulate(*arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-m", "tests.simulation", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_keeps_what_was_counted_and_resume_counts_each_seed_once(tmp_path: Path, jobs: str) -> None:
    keep = tmp_path / "counts"
    asked = ("--small", "--seed", "300", "--jobs", jobs, "--resume", str(keep))
    begun = simulate(*asked, "--runs", "2000")
    try:
        while not keep.exists():
            assert begun.poll() is None, begun.communicate()
        begun.send_signal(signal.SIGINT)
        said, complained = begun.communicate(timeout=60)
    finally:
        begun.kill()
        begun.wait()
    assert begun.returncode == 130, complained
    assert "goes on from" in said and not complained
    first = Summary.load(keep)
    assert first.clusters == first.next_seed - 300 > 0
    again = simulate(*asked, "--runs", "3")
    assert again.communicate(timeout=60)[0] and again.returncode == 0
    second = Summary.load(keep)
    assert second.clusters == second.next_seed - 300 == first.clusters + 3


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "holds no counts"),
        ("[]", "holds no counts"),
        ('{"clusters": 3}', "holds no counts"),
        ('{"clusters": "3", "violations": {}}', "holds no counts"),
        (None, "Is a directory"),
    ],
)
def test_a_file_of_something_else_is_refused_and_left_alone(
    tmp_path: Path, content: str | None, complaint: str
) -> None:
    keep = tmp_path / "counts"
    if content is None:
        keep.mkdir()
    else:
        keep.write_text(content)
    begun = simulate("--small", "--runs", "1", "--resume", str(keep))
    said, complained = begun.communicate(timeout=60)
    assert begun.returncode == 2 and complaint in complained and "Traceback" not in complained, (said, complained)
    assert keep.is_dir() if content is None else keep.read_text() == content


@pytest.mark.parametrize(
    "arguments",
    [
        ("--runs", "0"),
        ("--jobs", "0"),
        ("--minutes", "-1"),
        ("--seed", "-1"),
        ("--hunt",),
        ("--resume", "nowhere/counts"),
        ("--quarry", "a put is refused@promising"),
    ],
)
def test_a_senseless_command_says_so(arguments: tuple[str, ...]) -> None:
    begun = simulate(*arguments)
    assert "error" in begun.communicate(timeout=60)[1] and begun.returncode == 2


def test_what_can_occur_and_never_did_is_hunted_first() -> None:
    counts = Summary(struck={"kill": {phase: 200 for phase in PHASES if phase not in ("promising", OF_A_NODE)}})
    assert counts.rare() == [("kill", "promising")]
    assert "never: kill@promising" in counts.lines()


def test_what_is_counted_where_it_is_said_to_be_impossible_is_no_count() -> None:
    result = run(Order(302, small=True))
    result.struck["depose", "no leader"] = 1
    with pytest.raises(AssertionError, match="never is"):
        Summary().add(result)


def test_a_head_start_is_part_of_what_a_seed_is_called_by() -> None:
    """Faults begin with the first acknowledgement: seed 40000003 promises nothing before it heals where they do not."""
    late, early = run(Order(40000003)), run(Order(40000003, head_start=True))
    assert not late.before_healing and early.before_healing
    assert early.order.arguments == "--seed 40000003 --head-start"


def test_a_seed_says_the_hash_of_its_trace() -> None:
    said, _ = simulate("--small", "--seed", "302", "--trace").communicate(timeout=60)
    assert f"seed 302: trace hash {run(Order(302, small=True)).trace_hash:08x}" in said.splitlines()
