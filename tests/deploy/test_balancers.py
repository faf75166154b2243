"""HAProxy and keepalived accept their examples, and ask for what a node answers."""

import re
import subprocess
from pathlib import Path
from unittest.mock import Mock

import pytest
from starlette.routing import Route

from monitoring.http import application
from perenne.config import Config
from tests.deploy.balancers import ADDRESSES, DEPLOY, NAMES, VIRTUAL
from tests.needs import program

HAPROXY, KEEPALIVED = program("haproxy"), program("keepalived")
WAYS = {"any-node.cfg": "/readyz", "leader-only.cfg": "/leader"}
needs_haproxy = pytest.mark.needs("haproxy")
needs_keepalived = pytest.mark.needs("keepalived")


def example(name: str) -> str:
    return (DEPLOY / "haproxy" / name).read_text()


def complaints(text: str, directory: Path) -> str:
    """What HAProxy says against a file; its names are not asked of a name server."""
    assert HAPROXY is not None
    file = directory / "haproxy.cfg"
    file.write_text(re.sub(r"n\d\.pacs\.example", "127.0.0.1", text))
    words = [HAPROXY, "-c", "-f", str(file)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    return "" if done.returncode == 0 and "WARNING" not in done.stderr else done.stderr


@needs_haproxy
@pytest.mark.parametrize("name", WAYS)
def test_haproxy_accepts_the_examples(name: str, tmp_path: Path) -> None:
    assert complaints(example(name), tmp_path) == ""
    assert "Fatal errors found" in complaints(example(name).replace("redispatch", "redispach"), tmp_path)


@pytest.mark.parametrize(("name", "path"), WAYS.items())
def test_it_asks_for_what_a_node_answers_where_a_node_answers(name: str, path: str) -> None:
    text = example(name)
    answered = {route.path for route in application(Mock()).routes if isinstance(route, Route)}
    assert set(re.findall(r"http-check send meth GET uri (\S+)", text)) == {path} <= answered
    config = Config()
    assert {int(port) for port in re.findall(r"default-server check port (\d+)", text)} == {config.http.port}
    servers = re.findall(r"^ +server \S+ (\S+):(\d+)$", text, re.MULTILINE)
    assert {host for host, _ in servers} == set(NAMES)
    assert {int(port) for _, port in servers} == {config.dimse.port, config.http.port}
    assert "monitor-uri /alive" in text


@needs_keepalived
@pytest.mark.parametrize("name", ADDRESSES)
def test_keepalived_accepts_the_examples(name: str, tmp_path: Path) -> None:
    text = (DEPLOY / "keepalived" / f"{name}.conf").read_text()
    assert found_by_keepalived(text, tmp_path) == ""
    assert "nopreemt" in found_by_keepalived(text.replace("nopreempt", "nopreemt"), tmp_path)


def found_by_keepalived(text: str, directory: Path) -> str:
    assert KEEPALIVED is not None
    file, log = directory / "keepalived.conf", directory / "log"
    file.write_text(text)
    log.unlink(missing_ok=True)
    # It ends itself with a signal when nothing is wrong; only what it writes tells.
    words = [KEEPALIVED, f"--config-test={log}", "-f", str(file)]
    subprocess.run(words, capture_output=True, timeout=60, check=False, start_new_session=True)
    return log.read_text() if log.exists() else "it did not look at the file"


def test_the_machines_of_the_address_are_twins() -> None:
    one, other = ((DEPLOY / "keepalived" / f"{name}.conf").read_text().splitlines() for name in ADDRESSES)
    differ = [(a.split()[0], b.split()[0]) for a, b in zip(one, other, strict=True) if a != b]
    assert [a for a, _ in differ[1:]] == ["router_id", "priority", "unicast_src_ip", ADDRESSES["lb2"]]
    assert any(VIRTUAL in line for line in one)
    check = DEPLOY / "keepalived" / "check-haproxy"
    assert f"/usr/local/lib/perenne/{check.name}" in "\n".join(one)
    assert check.stat().st_mode & 0o111
