"""The ports of the local cluster: what one process was given no other is, from the look at a port to its use and after.

A port is free between the two, and while its server is killed and not yet back. Two workers of a test run took the same
one in such a moment, and a node could not start.
"""

import subprocess
import sys

import pytest

from perenne.local import processes
from perenne.local.processes import DidNotStart, free_ports, taken

ANOTHER = (
    "import sys; from perenne.local.processes import free_ports; print(*free_ports(1), flush=True); sys.stdin.read()"
)


def test_no_two_processes_are_given_the_same_port(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ANOTHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as another:
        assert another.stdout is not None
        port = int(another.stdout.readline())
        monkeypatch.setattr(processes, "_PORTS", (port, port + 1))
        assert not taken(port)  # nobody listens there
        with pytest.raises(DidNotStart, match="fewer than 1 ports are free"):
            free_ports(1)
        another.communicate()
    assert free_ports(1) == [port]
    with pytest.raises(DidNotStart):
        free_ports(1)


def test_the_oldest_ports_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_CLAIMS", 2)
    (oldest,) = free_ports(1)
    later = free_ports(2)
    monkeypatch.setattr(processes, "_PORTS", (oldest, oldest + 1))
    assert free_ports(1) == [oldest]
    monkeypatch.setattr(processes, "_PORTS", (later[1], later[1] + 1))
    with pytest.raises(DidNotStart):
        free_ports(1)
