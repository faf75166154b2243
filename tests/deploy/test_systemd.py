"""The units are accepted by systemd itself, shut the node in, and leave it enough time."""

import re
import shutil
import subprocess
from configparser import RawConfigParser
from pathlib import Path

import pytest

from perenne.config_reading import load_config
from perenne.node import DRAIN_S, HAND_OVER_S
from tests.chart.rendering import ROOT

UNITS = ROOT / "deploy" / "systemd"
NAMES = ("perenne.service", "perenne-zookeeper.service")
needs_systemd = pytest.mark.needs("systemd-analyze")
EXPOSURE = 2.0
"""Of 10, as `systemd-analyze security` counts."""


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, timeout=60, check=False)


def installed(directory: Path, *, dropins: bool) -> Path:
    """The units as on a machine on which the programs lie elsewhere."""
    program = directory / "perenne"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for name in NAMES:
        text = (UNITS / name).read_text()
        text = re.sub(r"^ExecStart=\S+", f"ExecStart={program}", text, flags=re.MULTILINE)
        (directory / name).write_text(text)
    if dropins:
        shutil.copytree(UNITS / "perenne.service.d.example", directory / "perenne.service.d")
    return directory / NAMES[0]


@needs_systemd
@pytest.mark.parametrize("dropins", [False, True], ids=["alone", "with-drop-ins"])
def test_systemd_accepts_the_units(tmp_path: Path, dropins: bool) -> None:
    unit = installed(tmp_path, dropins=dropins)
    done = analyze("verify", "--man=no", str(unit), str(unit.parent / NAMES[1]))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_systemd
def test_a_misspelt_word_would_be_seen(tmp_path: Path) -> None:
    unit = installed(tmp_path, dropins=True)
    dropin = unit.parent / "perenne.service.d" / "tier.conf"
    dropin.write_text(dropin.read_text().replace("LoadCredential", "LoadCredentials"))
    done = analyze("verify", "--man=no", str(unit))
    assert "Unknown key 'LoadCredentials'" in done.stderr


@needs_systemd
@pytest.mark.parametrize("name", NAMES)
def test_a_node_is_shut_in(name: str) -> None:
    done = analyze("security", "--offline=yes", f"--threshold={EXPOSURE * 10:.0f}", str(UNITS / name))
    assert done.returncode == 0, done.stdout


def service(file: Path) -> dict[str, str]:
    parser = RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(file)
    return dict(parser["Service"])


def test_there_is_time_to_hand_over_and_to_drain() -> None:
    unit = service(UNITS / NAMES[0])
    assert unit["Type"] == "notify"
    assert int(unit["TimeoutStopSec"]) >= HAND_OVER_S + DRAIN_S + 4
    assert int(unit["WatchdogSec"]) > 20, "the node ends itself before"


def test_the_credential_is_where_the_node_looks(tmp_path: Path) -> None:
    dropin = service(UNITS / "perenne.service.d.example" / "tier.conf")
    name, _, source = dropin["LoadCredential"].partition(":")
    assert source.startswith("/etc/perenne/")
    variable, _, value = dropin["Environment"].partition("=")
    (tmp_path / name).touch()
    config = load_config(None, {variable: value.replace("%d", str(tmp_path))})
    assert config.tier.credentials_file == tmp_path / "s3"
