"""What deploy/ promises: fixed versions, no registry, no root, a health check, and settings that the node knows."""

import ast
import importlib.metadata
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from perenne.cli.commands import app
from perenne.config_reading import load_config
from tests.chart.rendering import CHART, ROOT, documents, one, render
from tests.deploy.containerfile import NotUnderstood, Stage, parse

DEPLOY = ROOT / "deploy"
OWN = ("perenne", "monitoring", "replication", "storage")
FIXED = re.compile(r"[a-z0-9-]+:\d+\.\d+[a-z0-9.-]*")
"""An image name without a registry, and with a version."""


def stages() -> list[Stage]:
    return parse((DEPLOY / "Containerfile").read_text())


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return loaded


def pins(file: Path) -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+==\S+)", file.read_text(), re.MULTILINE))


def test_the_image_is_built_in_stages_from_fixed_versions() -> None:
    build, final = stages()
    assert (build.name, final.name) == ("build", "")
    for stage in (build, final):
        assert FIXED.fullmatch(stage.base)
        for packages in re.findall(r"apt-get install ([^&]*)", " && ".join(stage.every("RUN"))):
            names = [word for word in packages.split() if not word.startswith("-")]
            assert names
            # Certificates are better new than fixed.
            assert all("=" in name or name == "ca-certificates" for name in names)
    assert "--require-hashes" in " ".join(build.every("RUN"))
    assert "pip" not in " ".join(final.every("RUN"))


def test_the_image_runs_without_root_and_says_how_it_is() -> None:
    final = stages()[-1]
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert final.last("USER") == f"{values['runAs']}:{values['runAs']}"
    assert final.health == ["/opt/perenne/bin/python", "-m", "perenne.alive"]  # tests/deploy/test_https.py
    assert final.command == ["/opt/perenne/bin/perenne", "node"]
    assert load_config(None, final.environment).node.data_dir == Path("/var/lib/perenne")
    config = load_config(None, {})
    assert final.last("EXPOSE").split() == [str(p) for p in (config.dimse.port, config.peer.port, config.http.port)]


def test_what_the_image_copies_is_there_and_not_ignored() -> None:
    shown = [line[1:] for line in (ROOT / ".containerignore").read_text().splitlines() if line.startswith("!")]
    copied = [rest.split()[0] for stage in stages() for rest in stage.every("COPY") if not rest.startswith("--from")]
    assert len(copied) == 6
    for source in copied:
        assert (ROOT / source).exists()
        assert source.split("/")[0] in shown


def test_a_word_that_is_not_understood_is_not_passed_over() -> None:
    with pytest.raises(NotUnderstood):
        parse("ARG A=debian:12.1\nFROM ${A}\nONBUILD RUN true\n")


def test_the_image_has_the_versions_that_are_tested() -> None:
    tested, shipped = pins(ROOT / "requirements.txt"), pins(DEPLOY / "requirements.txt")
    assert {pin.partition("==")[0] for pin in shipped} > {"boto3", "kazoo", "pydicom", "uvloop"}
    assert shipped <= tested, "run script/lock"
    assert not any(pin.startswith("pytest==") for pin in shipped)


def test_whatever_the_program_imports_is_shipped() -> None:
    shipped = {pin.partition("==")[0] for pin in pins(DEPLOY / "requirements.txt")}
    providers = importlib.metadata.packages_distributions()
    missing: set[str] = set()
    for file in (path for package in OWN for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            for name in {name.partition(".")[0] for name in names} - set(OWN) - sys.stdlib_module_names:
                if name.startswith("types_"):
                    continue  # for type checkers alone
                distributions = {d.lower().replace("_", "-") for d in providers.get(name, [f"no package for {name}"])}
                if not distributions & shipped:
                    missing.add(f"{file.relative_to(ROOT)}: {name}")
    assert missing == set(), "name it in pyproject.toml, and run script/lock"


def test_compose_starts_three_nodes_that_know_each_other(tmp_path: Path) -> None:
    services = compose()["services"]
    words = services["certs"]["command"]
    assert services["certs"]["volumes"] == [f"certs:{words[1]}"]
    done = CliRunner().invoke(app, [words[0], str(tmp_path), *words[2:]])
    assert done.exit_code == 0, done.output
    nodes = {name: service for name, service in services.items() if name.startswith("n")}
    assert set(nodes) == {"n1", "n2", "n3"}
    for name, service in nodes.items():
        assert "certs:/certs:ro" in service["volumes"]
        assert service["depends_on"]["certs"] == {"condition": "service_completed_successfully"}
        given = {**stages()[-1].environment, **service["environment"]}
        given = {key: value.replace("/certs/", f"{tmp_path}/") for key, value in given.items()}
        config = load_config(None, given, material=True)
        assert config.tls.on and config.coordination.credentials_file is not None
        assert (config.node.id, config.peer.advertise_host, service["hostname"]) == (name, name, name)
        assert config.coordination.zookeeper == "zookeeper:2181"
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        inside = {int(port.rsplit(":", 1)[1]) for port in service["ports"]}
        assert inside == {config.dimse.port, config.http.port}
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert all(FIXED.fullmatch(service["image"]) for service in services.values())


def test_chart_and_compose_name_the_same_zookeeper_without_a_registry() -> None:
    bundled = yaml.safe_load((CHART / "values.yaml").read_text())["zookeeper"]["bundled"]["image"]
    assert FIXED.fullmatch(bundled)
    assert compose()["services"]["zookeeper"]["image"] == bundled


def settings(text: str) -> dict[str, str]:
    """Of an ensemble, but for its servers, its places and its ports."""
    found = dict(re.findall(r"^([\w.]+)=(.*)$", text, re.MULTILINE))
    return {k: v for k, v in found.items() if not re.match(r"server\.|dataDir$|.*\.location$|.*[pP]ort", k)}


def test_the_ensembles_of_chart_and_deploy_are_set_alike() -> None:
    plain, locked = ((DEPLOY / "zookeeper" / name).read_text() for name in ("zoo.cfg", "tls.cfg"))
    for values, text in (({"tls": {"enabled": False}}, plain), ({}, plain + locked)):
        made = documents(render(values))
        inside = settings(one(made, "ConfigMap", "perenne-zookeeper")["data"]["zoo.cfg"])
        # A pod's address is in no certificate; "need" is what it is by default.
        own = {"ssl.quorum.hostnameVerification": "false", "ssl.quorum.clientAuth": "need"} if text != plain else {}
        assert inside == {**settings(text), **own}
    assert len(settings(plain)) > 7 and len(settings(locked)) > 6
