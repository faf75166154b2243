"""The namespaces that faults use: what is cut is cut, one that cuts nothing is noticed, and nothing is left of them."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from perenne.local.processes import is_zombie
from tests.faults import namespaces
from tests.faults.arena import FaultFailed, Unavailable
from tests.faults.namespaces import Network

pytestmark = pytest.mark.needs(*namespaces.TOOLS)


@pytest.fixture
def network() -> Generator[Network]:
    try:
        made = Network(["a", "b", "c"])
    except Unavailable as why:
        pytest.skip(str(why))
    try:
        yield made
    finally:
        made.close()


def _reaches(network: Network, source: str, target: str, seconds: float) -> bool:
    there = network.party(target)
    network.party(source).send(b"hello", there)
    return bool(select.select([there.probes], [], [], seconds)[0]) and b"hello" in there.arrived()


def test_a_cut_goes_one_way_and_heals(network: Network) -> None:
    network.cut("a", "b")
    assert not _reaches(network, "a", "b", 0.2)
    assert _reaches(network, "b", "a", 10)
    assert _reaches(network, "a", "c", 10)
    assert network.verify() == 1, "the packet of this test, and none but the probe beside it"
    network.heal()
    assert _reaches(network, "a", "b", 10)


@pytest.mark.parametrize(("verdict", "why"), [("accept", "a packet passed"), ("return", "a packet passed")])
def test_a_cut_that_drops_nothing_is_noticed(
    network: Network, monkeypatch: pytest.MonkeyPatch, verdict: str, why: str
) -> None:
    monkeypatch.setattr(namespaces, "VERDICT", verdict)
    network.cut("a", "b")
    assert select.select([network.party("b").probes], [], [], 10)[0]
    with pytest.raises(FaultFailed, match=why):
        network.verify()


def test_a_rule_that_strikes_nobody_is_noticed(network: Network) -> None:
    network.cut("a", "b")
    network.party("b").namespace.run("nft", "flush", "chain", "inet", "perenne", "cut")
    with pytest.raises(FaultFailed, match="no packet from a to b was dropped"):
        network.verify()


def test_the_network_of_the_machine_stays_as_it_is() -> None:
    def everything() -> list[str]:
        commands = (["ip", "-j", "address"], ["ip", "-j", "route"], ["nft", "list", "ruleset"], ["ip", "netns"])
        return [subprocess.run(one, capture_output=True, text=True, check=False).stdout for one in commands]

    try:
        here = os.readlink(namespaces.OWN)
        before = everything()
        made = Network(["a", "b"])
    except (Unavailable, OSError) as why:
        pytest.skip(str(why))
    made.cut("a", "b")
    assert everything() == before
    with made.hub.entered():
        assert os.readlink(namespaces.OWN) != here
    assert os.readlink(namespaces.OWN) == here
    made.close()
    assert everything() == before


KILLED = """
import os, signal, subprocess
from tests.faults.namespaces import Network
network = Network(["a", "b"])
inside = subprocess.Popen([*network.party("a").namespace.wrapper, "sh", "-c", "echo inside; exec sleep 600"],
    stdout=subprocess.PIPE)
assert inside.stdout is not None and inside.stdout.readline()
print(inside.pid, os.readlink(f"/proc/{inside.pid}/ns/net"), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_nothing_is_left_of_a_run_that_was_killed(network: Network) -> None:
    root = Path(__file__).parents[2]
    killed = subprocess.run([sys.executable, "-c", KILLED], cwd=root, stdout=subprocess.PIPE, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    pid, namespace = killed.stdout.split()
    assert namespace != os.readlink(namespaces.OWN)
    descriptor = os.pidfd_open(int(pid)) if Path(f"/proc/{pid}").exists() else None
    if descriptor is not None:
        assert select.select([descriptor], [], [], 10)[0], "what ran inside ended as well"
        os.close(descriptor)
    holders = [
        path for path in Path("/proc").glob("[0-9]*") if not is_zombie(int(path.name)) and _at(path) == namespace
    ]
    assert holders == []


def _at(process: Path) -> str:
    try:
        return os.readlink(process / "ns/net")
    except OSError:
        return ""
