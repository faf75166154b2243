"""Goal: the first installation is locked, and whoever is refused for want of a secret is told what makes it."""

import re
from pathlib import Path

import helm_python
import pytest
from typer.testing import CliRunner

from perenne.cli.commands import app
from tests.chart.rendering import documents, one, render
from tests.chart.test_notes import notes


def test_nothing_is_installed_unlocked_unless_somebody_says_so() -> None:
    """And what is refused says what to type: the very command whose secret the pods then mount."""
    with pytest.raises(helm_python.HelmError) as refused:
        documents(render({"tls": {}}))
    said = str(refused.value)
    (command,) = (line.strip() for line in said.splitlines() if "perenne certs" in line)
    assert "kubectl -n pacs create secret generic perenne-secrets --from-file=perenne-ca/secret" in said
    assert "--set tls.secretName=perenne-secrets" in said and "--set tls.enabled=false" in said
    three = documents(render({"tls": {"secretName": "perenne-secrets"}}))
    names = [f"{d['metadata']['name']}-{n}" for d in three if d["kind"] == "StatefulSet" for n in range(3)]
    assert [word.partition("=")[0] for word in command.split()[4:]] == sorted(names)
    elsewhere = notes({"zookeeper": {"external": "zk1:2281,zk2:2281,zk3:2281"}})
    assert "zookeeper-0=" not in elsewhere and "perenne-2=perenne-2." in elsewhere


def test_the_secret_that_is_to_be_made_has_every_key_that_pods_mount(tmp_path: Path) -> None:
    """And ZooKeeper's pods see no key of a node, no token and no password."""
    (command,) = (line.split() for line in notes({}).splitlines() if line.startswith("  perenne certs "))
    command[2] = str(tmp_path / command[2])
    done = CliRunner().invoke(app, command[1:])
    assert done.exit_code == 0, done.output
    keys = {file.name for file in (tmp_path / "perenne-ca" / "secret").iterdir()}
    made = documents(render({}))
    pods = [d["spec"].get("template", d)["spec"] for d in made if d["kind"] in ("StatefulSet", "Pod")]
    volumes = [volume["secret"] for pod in pods for volume in pod["volumes"] if "secret" in volume]
    items = [item["key"] for volume in volumes for item in volume.get("items", ())]
    assert {"authority.pem", "token", "credentials", "perenne-zookeeper-2-key-and-certificate.pem"} == {
        key for key in items if not re.search(r"-[01]-", key)
    }
    assert set(items) <= keys and {f"perenne-{n}{part}.pem" for n in range(3) for part in ("", "-key")} < keys
    keeper = one(made, "StatefulSet", "perenne-zookeeper")["spec"]["template"]["spec"]
    (shown,) = (volume["secret"]["items"] for volume in keeper["volumes"] if "secret" in volume)
    assert {item["key"] for item in shown} == {
        "authority.pem",
        *(f"perenne-zookeeper-{n}-key-and-certificate.pem" for n in range(3)),
    }
