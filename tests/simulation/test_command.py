"""The command line of the simulator: what a person starts, interrupts and starts again."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_a_seed_says_the_hash_of_its_trace() -> None:
    said, _ = simulate("--small", "--seed", "302", "--trace").communicate(timeout=60)
    assert f"seed 302: trace hash {run(Order(302, small=True)).trace_hash:08x}" in said.splitlines()
