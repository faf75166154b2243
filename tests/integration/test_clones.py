"""Goal: of a node and a copy of it, as of a virtual machine that was cloned, one takes part at a time.

Method: a real cluster of two; the disk of one is copied, and a second process runs on it beside the first.
"""

import shutil
import signal
from pathlib import Path

from perenne.local.cluster import LocalNode
from perenne.local.processes import free_ports, wait_until
from tests.integration import rig
from tests.integration.test_failover import ended


def test_a_copy_of_a_node_waits_and_the_node_ends_once_the_copy_has_its_place(tmp_path: Path) -> None:
    """Both would confirm records as the one member that they are to the leader, each some of them."""
    with rig.running_cluster(tmp_path / "cluster", nodes=2) as cluster:
        node = rig.follower(cluster)
        rig.signalled(node.running).kill()
        dicom, http, peer = free_ports(3)
        clone = LocalNode(node.id, tmp_path / "clone", dicom, http, peer)
        shutil.copytree(node.data_dir, clone.data_dir)
        cluster.start_node(node)
        cluster.wait_for(lambda: node.ready() and len(rig.in_sync(cluster)) == 2, "who was killed is back")
        try:
            cluster.start_node(clone)
            copied = rig.signalled(clone.running)
            wait_until(lambda: "another process runs as this node" in copied.log.read_text(), [copied], "it waits")
            assert clone.get("/livez")[0] == 0 and node.ready()
            first = rig.made(1)
            assert rig.store(rig.leader(cluster), first) == [(0, "")]
            assert instances(node) == 1

            original = rig.signalled(node.running)
            original.signal(signal.SIGSTOP)
            wait_until(clone.ready, [copied], "the copy has its place")
            original.signal(signal.SIGCONT)
            wait_until(lambda: ended(original), [copied], "who was away ends")
            assert f"another process runs as {node.id}" in original.log.read_text()
            cluster.wait_for(lambda: len(rig.in_sync(cluster)) == 2, "the copy is in sync")
            assert rig.store(rig.leader(cluster), rig.made(2)) == [(0, "")]
            assert instances(clone) == 2
        finally:
            if clone.running is not None:
                clone.running.kill()


def instances(node: LocalNode) -> int:
    """Distinct instances that its log holds, whether or not it has been told that they are committed."""
    return len(rig.extracted(node))
