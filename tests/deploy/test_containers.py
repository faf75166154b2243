"""The stand-ins of the rehearsals: a container without an engine is locked in, and a probe counts as it should."""

import os
import time
from pathlib import Path

import pytest

from perenne.local.processes import Running, wait_until
from tests.chart.rendering import ROOT
from tests.deploy.container import CannotContain, Container, check_rights, execute, image_of_this_machine
from tests.deploy.probes import Probe

USER = 10001


def container(directory: Path, *command: str) -> Container:
    try:
        check_rights()
    except CannotContain as error:
        pytest.skip(str(error))
    directory.chmod(0o755)
    data = directory / "data"
    data.mkdir()
    os.chown(data, USER, USER)
    return Container(
        image=image_of_this_machine(directory, ROOT),
        place=directory / "root",
        command=command,
        user=USER,
        environment={"PATH": "/opt/perenne/bin:/usr/bin:/bin", "NAME": "n 1"},
        binds=[(data, "/var/lib/perenne", False), (Path("/etc/hostname"), "/etc/hosts", True)],
    )


def started(one: Container, directory: Path) -> Running:
    running = one.start(directory / "log")
    wait_until((directory / "data" / "up").exists, [running], "it is up")
    return running


def test_a_container_is_locked_in(tmp_path: Path) -> None:
    one = container(tmp_path, "sh", "-c", "touch /var/lib/perenne/up; exec sleep 600")
    running = started(one, tmp_path)
    try:
        for place in ("/", "/opt/perenne", "/usr", "/etc"):
            done = execute(running, one, ["touch", f"{place}/x"], 30)
            assert "Read-only file system" in done.stderr, place
        done = execute(running, one, ["touch", "/etc/hosts"], 30)
        assert done.returncode != 0
        shown = execute(running, one, ["sh", "-c", 'id -u; pwd; echo "$NAME"; touch /tmp/x && rm /tmp/x'], 30).stdout
        assert shown.split("\n") == [str(USER), "/", "n 1", ""]
        status = Path(f"/proc/{running.pid}/status").read_text()
        for word in ("CapEff", "CapPrm", "CapBnd"):
            assert f"{word}:\t0000000000000000" in status
        assert "NoNewPrivs:\t1" in status
        assert not (tmp_path / "root" / "usr").exists(), "its mounts are its own"
        assert execute(running, one, ["perenne", "--version"], 60).returncode == 0
    finally:
        running.kill()


def test_a_probe_gives_up_after_its_threshold_and_not_before() -> None:
    probe = Probe({"periodSeconds": 2, "failureThreshold": 2})
    now = time.monotonic()
    probe.count(False, now)
    assert not probe.given_up
    probe.count(True, now)
    probe.count(False, now)
    assert not probe.given_up
    probe.count(False, now)
    assert probe.given_up
    assert probe.due == now + 2
