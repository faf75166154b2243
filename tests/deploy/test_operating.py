"""What docs/operating.md has an administrator type can be typed: files, verbs, options and settings are there.

That it works is for `script/prove-operating` to show.
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from perenne.cli.commands import app
from perenne.config_reading import load_config
from tests.chart.rendering import ROOT
from tests.deploy.operating import DOCUMENT, MACHINES, Block, NotUnderstood, blocks, commands, ports, written

TEXT = DOCUMENT.read_text()
STEPS = blocks(TEXT)
CONFIG = "/etc/perenne/node.toml"
COPYING = {"cp", "install", "cat", "grep"}
"""Commands that read files; of the first two the last word is where they go."""


def words(command: str) -> list[str]:
    return shlex.split(command)


def read_files(command: str) -> Iterator[str]:
    """Of the repository: a command's relative paths that are read."""
    if command.split()[0] not in COPYING:
        return
    found = words(re.sub(r"<<\w+|(?<!=)>+ *\S+", "", command))
    plain = [word for word in found[1:] if not word.startswith("-") and not word.isdigit()]
    if found[0] in ("cp", "install"):
        plain = plain[:-1]
    elif found[0] == "grep":
        plain = plain[1:]
    yield from (word for word in plain if not word.startswith("/"))


def understood(arguments: list[str]) -> bool:
    """By the program itself, which looks at every word before it helps."""
    return CliRunner().invoke(app, [*arguments, "--help"]).exit_code == 0


def configuration(steps: list[Block]) -> str:
    (text,) = (step.text for step in steps if CONFIG in step.text and "<<EOF" in step.text)
    return written(text, CONFIG)


def test_every_block_says_where_it_runs() -> None:
    assert len(STEPS) > 15
    assert {name for step in STEPS for name in step.machines} == set(MACHINES)
    off = [step.machines for step in STEPS if step.goes_off]
    assert off
    assert off == [step.machines for step in STEPS if step.power_on], "whatever is switched off is switched on again"


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ("```\nls\n```", "no comment above"),
        ("<!-- on: n1 -->\nls", "no block follows"),
        ("<!-- on: n1 -->\n```\nls", "does not end"),
        ("<!-- on: everywhere -->\n```\nls\n```", "does not say where"),
        ("<!-- on: n1; as in Nowhere -->", "0 sections"),
    ],
)
def test_a_block_without_a_place_is_an_error(broken: str, why: str) -> None:
    with pytest.raises(NotUnderstood, match=why):
        blocks(f"## Here\n{broken}\n", "Here")


def test_the_same_commands_are_read_as_are_run() -> None:
    text = "## Here\n<!-- on: n1 n2; needs indexes -->\n```\na \\\n  b | c || d    # e\ncat >f <<EOF\nx\nEOF\n```\n"
    (step,) = blocks(text, "Here")
    assert step == Block(("n1", "n2"), "a \\\n  b | c || d    # e\ncat >f <<EOF\nx\nEOF\n", 2, needs_indexes=True)
    assert list(commands(step.text)) == ["a    b", "c", "d", "cat >f <<EOF"]
    assert written(step.text, "f") == "x\n"


def test_whatever_is_copied_is_in_the_repository() -> None:
    wanted = {file for step in STEPS for command in commands(step.text) for file in read_files(command)}
    assert {"perenne", "deploy/systemd/perenne.service", "deploy/zookeeper/tls.cfg"} < wanted
    assert "deploy/requirements.txt" in " ".join(step.text for step in STEPS)
    missing = sorted(file for file in wanted if not (ROOT / file).exists())
    assert missing == []


def test_the_program_is_copied_whole() -> None:
    (copied,) = (c for step in STEPS for c in commands(step.text) if c.startswith("cp -r"))
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert set(read_files(copied)) == packages


def test_every_verb_and_every_option_exists() -> None:
    typed = [words(c)[1:] for step in STEPS for c in commands(step.text) if c.startswith("perenne ")]
    assert {"certs", "config", "status", "await-in-sync", "switchover", "export"} <= {found[0] for found in typed}
    assert [found for found in typed if not understood(found)] == []
    for wrong in (["stauts"], ["status", "--confg", "x"], ["config", "chekc", "x"]):
        assert not understood(wrong)


def test_the_configuration_passes_its_check(tmp_path: Path) -> None:
    """With files as `perenne certs` makes them: the check reads them."""
    run = [sys.executable, "-m", "perenne.cli"]
    subprocess.run([*run, "certs", str(tmp_path / "ca"), "n1=n1.pacs.example"], check=True, capture_output=True)
    (tmp_path / "ca" / "n1").rename(tmp_path / "tls")
    (tmp_path / "http.token").write_text("0123456789abcdef\n")
    (tmp_path / "zookeeper.owner").write_text("perenne:0123456789abcdef\n")
    text = configuration(STEPS).replace("$(hostname)", "n1").replace("/etc/perenne", str(tmp_path))
    file = tmp_path / "node.toml"
    file.write_text(text.replace("/var/lib/perenne", str(tmp_path / "data")))
    done = subprocess.run([*run, "config", "check", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    config = load_config(file, {})
    assert (config.coordination.tls, config.http.tls) == (True, True)
    assert config.tls.certificate_file is not None
    listening = {config.dimse.port, config.dimse.tls_port, config.http.port, config.peer.port}
    assert listening < ports(TEXT)


def _settings(text: str) -> dict[str, str]:
    return dict(re.findall(r"^([\w.]+)=(.+)$", text, re.MULTILINE))


def test_zookeeper_listens_where_the_nodes_look_and_nowhere_in_the_clear() -> None:
    alone, locked = ((ROOT / "deploy" / "zookeeper" / name).read_text() for name in ("zoo.cfg", "tls.cfg"))
    settings, secure = _settings(alone), _settings(locked)
    assert settings.pop("clientPort") == "2181"
    assert len(settings) > 10
    assert not settings.keys() & secure.keys()
    hosts = [settings[f"server.{number}"].partition(":")[0] for number in (1, 2, 3)]
    wanted = ",".join(f"{host}:{secure['secureClientPort']}" for host in hosts)
    assert f'zookeeper = "{wanted}"' in configuration(STEPS)
    assert (secure["sslQuorum"], secure["ssl.clientAuth"]) == ("true", "need")
    text = " ".join(step.text for step in STEPS)
    for place in {secure["ssl.keyStore.location"], secure["ssl.trustStore.location"]}:
        assert f"{Path(place).parent}/" in text
