"""Goal: both examples of HAProxy lead to nodes that take stores, also after a leader was killed.

Method: HAProxy itself with deploy/haproxy, only ports and addresses exchanged, in front of three real nodes. Times and
keepalived are for script/rehearse-routing.
"""

import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from perenne.dimse.sender import AssociationAborted, AssociationRejected
from perenne.local.cluster import LocalCluster, LocalNode
from perenne.local.processes import free_ports, start, wait_until
from tests.deploy.balancers import DEPLOY, NAMES
from tests.integration import rig
from tests.needs import program


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Generator[LocalCluster]:
    with rig.running_cluster(tmp_path_factory.mktemp("switching") / "cluster") as found:
        yield found


def adapted(text: str, nodes: list[LocalNode], entry: LocalNode, health: int) -> str:
    """The example for this machine: loopback, other ports, no other user."""
    text = re.sub(r"^ +(chroot|user|group) .*\n", "", text, flags=re.MULTILINE)
    for name, node in zip(NAMES, nodes, strict=True):
        text = text.replace(f"{name}:11112", f"127.0.0.1:{node.dicom_port} port {node.http_port}")
        text = text.replace(f"{name}:8080", f"127.0.0.1:{node.http_port} port {node.http_port}")
    for example, port in ((":11112", entry.dicom_port), (":8080", entry.http_port), ("127.0.0.1:8404", health)):
        assert f"bind {example}\n" in text
        text = text.replace(f"bind {example}\n", f"bind 127.0.0.1:{port}\n")
    return text


@contextmanager
def behind(example: str, nodes: list[LocalNode], directory: Path) -> Generator[LocalNode]:
    """What a sender sees of HAProxy with this example: one node."""
    directory.mkdir()
    haproxy = program("haproxy")
    assert haproxy is not None
    dicom, http, health = free_ports(3)
    entry = LocalNode(example, directory, dicom, http, 0)
    file = directory / "haproxy.cfg"
    file.write_text(adapted((DEPLOY / "haproxy" / example).read_text(), nodes, entry, health))
    running = start([haproxy, "-db", "-f", str(file)], directory / "haproxy.log", directory)
    try:
        wait_until(entry.ready, [running], "HAProxy has found a node")
        assert LocalNode("health", directory, 0, health, 0).get("/alive")[0] == 200, "as keepalived asks"
        yield entry
    finally:
        running.kill()


def stored(entry: LocalNode, one: tuple[str, bytes]) -> bool:
    """As a sender does it: whoever is hung up on sends again."""
    try:
        return rig.store(entry, one)[0][0] == 0
    except (OSError, AssociationAborted, AssociationRejected):
        return False


@pytest.mark.needs("haproxy")
def test_senders_come_through_before_and_after_a_leader_is_killed(cluster: LocalCluster, tmp_path: Path) -> None:
    first = rig.leader(cluster)
    nodes = sorted(cluster.nodes, key=lambda node: node is first)  # the leader last: whoever asks wrongly finds another
    sent = dict(rig.made(number) for number in range(4))
    before, after = list(sent.items())[:2], list(sent.items())[2:]
    with (
        behind("leader-only.cfg", nodes, tmp_path / "leader-only") as leading,
        behind("any-node.cfg", nodes, tmp_path / "any-node") as any_node,
    ):
        cluster.wait_for(leading.leads, "HAProxy leads to the leader")
        assert leading.status()["node"] == first.id
        assert [stored(entry, one) for entry, one in zip((leading, any_node), before, strict=True)] == [True, True]
        rig.signalled(first.running).kill()
        cluster.wait_for(lambda: cluster.leader() is not None, "another node leads")
        cluster.wait_for(leading.leads, "HAProxy leads to the new leader")
        second = rig.leader(cluster)
        assert leading.status()["node"] == second.id != first.id
        for entry, one in zip((leading, any_node), after, strict=True):
            cluster.wait_for(lambda entry=entry, one=one: stored(entry, one), f"{entry.id}: a store")  # type: ignore[misc]
        assert any_node.ready()
        assert any_node.status()["node"] != first.id
    cluster.wait_for(lambda: all(rig.instances(node) == len(sent) for node in cluster.nodes if node.alive), "indexed")
    rig.assert_kept(cluster, set(sent), sent)
