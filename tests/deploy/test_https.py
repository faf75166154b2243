"""Goal: what the examples say of nodes with https is true: HAProxy finds them, and the health check does.

Method: HAProxy itself with deploy/haproxy, its plain line exchanged for the one below it, before a real node with
certificates of `perenne certs`.
"""

import asyncio
import re
from pathlib import Path

import pytest

from perenne.alive import alive
from perenne.authority import AUTHORITY
from perenne.local.processes import Running, free_ports, start, wait_until
from tests.deploy.balancers import DEPLOY, NAMES
from tests.monitoring.real_node import node_in
from tests.needs import program

PLAIN = re.compile(r"^    default-server check port .*\n", re.MULTILINE)


def over_tls(text: str, dicom: int, http: int, entry: int, authority: Path) -> str:
    """As the comment in the example says; and for this machine."""
    text = PLAIN.sub("", text)
    text = text.replace("    # default-server check check-ssl ", "    default-server check check-ssl ")
    text = text.replace("/etc/haproxy/authority.pem", str(authority))
    text = re.sub(r"^ +(chroot|user|group) .*\n", "", text, flags=re.MULTILINE)
    for name in NAMES:
        text = text.replace(f"{name}:11112", f"127.0.0.1:{dicom} port {http}")
        text = text.replace(f"{name}:8080", f"127.0.0.1:{http} port {http}")
    for example, port in zip((":8080", ":11112", "127.0.0.1:8404"), (entry, *free_ports(2)), strict=True):
        text = text.replace(f"bind {example}\n", f"bind 127.0.0.1:{port}\n")
    return text


def sees_a_node(example: str, directory: Path, dicom: int, http: int) -> None:
    (entry,) = free_ports(1)
    file = directory / example
    authority = directory / "ca" / AUTHORITY
    file.write_text(over_tls((DEPLOY / "haproxy" / example).read_text(), dicom, http, entry, authority))
    haproxy = program("haproxy")
    assert haproxy is not None
    running: Running = start([haproxy, "-db", "-f", str(file)], directory / f"{example}.log", directory)
    try:
        wait_until(lambda: not alive(entry), [running], f"{example}: HAProxy leads to the node")
    finally:
        running.kill()


@pytest.mark.needs("haproxy")
def test_haproxy_and_the_health_check_find_a_node_over_https(tmp_path: Path) -> None:
    async def play() -> None:
        async with node_in(tmp_path) as node:
            port = node.http.port
            for example in ("any-node.cfg", "leader-only.cfg"):
                await asyncio.to_thread(sees_a_node, example, tmp_path, node.dimse.port, port)
            assert await asyncio.to_thread(alive, port) == ""
        assert "does not answer" in await asyncio.to_thread(alive, port)

    asyncio.run(play())
