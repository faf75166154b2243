"""Damage that a node knows of (ADR 0006), on real processes and disks."""

import shutil
import signal
from pathlib import Path

from perenne.local.cluster import LocalCluster, LocalNode
from storage.digest import part10_meta_length
from tests.integration import rig
from tests.integration.rig import damaged, made, rot, running_cluster, store


def get(node: LocalNode, uid: str) -> bytes | None:
    status, content = node.get(f"/instances/{uid}", timeout=15)
    return content[part10_meta_length(content) :] if status == 200 else None


def big(number: int) -> tuple[str, bytes]:
    return made(number, filler=number.to_bytes(4, "big") * 20_000)


def other(cluster: LocalCluster, node: LocalNode) -> LocalNode:
    return next(each for each in cluster.nodes if each is not node)


def kill(node: LocalNode) -> None:
    rig.signalled(node.running).kill()


def test_an_instance_sent_again_after_its_copy_rotted_survives_the_loss_of_the_other_node(tmp_path: Path) -> None:
    """The review's case: two nodes, damage at the leader, the same instance again, and then the other disk is lost."""
    with running_cluster(tmp_path / "c", nodes=2) as cluster:
        first, sent = rig.leader(cluster), big(1)
        second = other(cluster, first)
        assert store(first, sent)[0][0] == 0
        cluster.wait_for(lambda: all(rig.instances(node) == 1 for node in cluster.nodes), "both have indexed it")
        rot(first, sent[1])
        assert get(first, sent[0]) == sent[1], "the other node lends it"
        cluster.wait_for(lambda: store(first, sent)[0][0] == 0, "it is stored again")
        kill(second)
        shutil.rmtree(second.data_dir)
        assert get(first, sent[0]) == sent[1]
        assert rig.extracted(first)[sent[0]] == sent[1]


def test_damage_is_known_after_a_kill_and_repaired_when_the_other_node_is_back(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "c", nodes=2) as cluster:
        first, sent = rig.leader(cluster), [big(1), big(2)]
        second = other(cluster, first)
        assert {status for status, _ in store(first, *sent)} == {0}
        cluster.wait_for(lambda: all(rig.instances(node) == 2 for node in cluster.nodes), "both have indexed them")
        kill(second)
        rot(first, sent[0][1])
        assert get(first, sent[0][0]) is None
        assert damaged(first) == 1
        kill(first)
        cluster.start_node(first)
        cluster.wait_for(lambda: first.get("/livez")[0] == 200, "it is up again")
        assert damaged(first) == 1
        cluster.start_node(second)
        cluster.wait_for(lambda: damaged(first) == 0, "it is repaired")
        cluster.wait_for(lambda: get(first, sent[0][0]) == sent[0][1], "it is served again")
        cluster.wait_for(lambda: store(first, big(3))[0][0] == 0, "stores are taken again")
        assert "a damaged record was repaired" in (first.directory / "node.log").read_text()


def test_a_leader_that_cannot_read_its_own_newest_record_lets_the_other_lead(tmp_path: Path) -> None:
    """docs/proof.md, 33. The record was never acknowledged, and nobody else ever had it."""
    with running_cluster(tmp_path / "c", nodes=2) as cluster:
        first, alone = rig.leader(cluster), big(2)
        second = other(cluster, first)
        assert store(first, big(1))[0][0] == 0
        rig.signalled(second.running).signal(signal.SIGSTOP)
        assert store(first, alone)[0][0] != 0
        kill(second)
        kill(first)
        cluster.start_node(first)
        cluster.wait_for(lambda: cluster.leader() is first, "it leads, by its longer log")
        rot(first, alone[1])
        cluster.start_node(second)
        cluster.wait_for(lambda: cluster.leader() is second, "the other one leads")
        cluster.wait_for(lambda: store(first, big(3))[0][0] == 0, "stores are taken again")
        cluster.wait_for(lambda: damaged(first) == 0, "what was damaged is out of the log")
        saved = b"".join(path.read_bytes() for path in (first.data_dir / "lost+found").iterdir() if path.is_file())
        assert b"rotten" in saved
        assert get(first, big(1)[0]) == big(1)[1]


def test_a_wiped_node_is_filled_although_the_leader_cannot_read_everything(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "c") as cluster:
        first, wiped = rig.leader(cluster), rig.follower(cluster)
        third = next(node for node in cluster.nodes if node not in (first, wiped))
        sent = [big(number) for number in range(80)]  # several whole segments
        assert {status for status, _ in store(first, *sent)} == {0}
        kill(wiped)
        cluster.wait_for(lambda: len(rig.in_sync(cluster)) == 2, "the set goes on without it")
        shutil.rmtree(wiped.data_dir)
        for _, data in (sent[5], sent[70]):
            rot(first, data)
        cluster.start_node(wiped)
        cluster.wait_for(lambda: len(rig.in_sync(cluster)) == 3, "all nodes are in sync")
        kill(third)
        held = rig.extracted(wiped)
        assert all(held[uid] == data for uid, data in sent)


def test_a_node_without_its_promise_does_not_start(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "c") as cluster:
        node = rig.follower(cluster)
        process = rig.signalled(node.running)
        process.signal(signal.SIGKILL)
        kill(node)
        (node.data_dir / "promise").unlink()
        cluster.start_node(node)
        log = node.directory / "node.log"
        cluster.wait_for(lambda: "the file `promise` is missing" in log.read_text(), "it says what is missing")
        assert not (node.data_dir / "promise").exists()
        shutil.rmtree(node.data_dir)
        cluster.start_node(node)
        cluster.wait_for(lambda: len(rig.in_sync(cluster)) == 3, "it is back as a new incarnation")
