"""The recipes of docs/recovery.md, as a person types them, on one real cluster that survives all of them."""

import json
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from perenne.cli.commands import app
from perenne.local.cluster import LocalCluster, LocalNode
from perenne.local.processes import free_ports, start
from storage.digest import part10_meta_length
from tests.integration import rig


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with rig.running_cluster(tmp_path_factory.mktemp("recovery")) as running:
        yield running


class Kept:
    """What was acknowledged so far: nothing of it may be missing after any recipe."""

    def __init__(self) -> None:
        self.sent: dict[str, bytes] = {}

    def store(self, cluster: LocalCluster, count: int = 3) -> None:
        made = [rig.made(len(self.sent) + number, filler=bytes(2000)) for number in range(count)]
        for one in made:
            cluster.wait_for(partial(self._stored, cluster, one), "it is stored")
        self.sent |= dict(made)

    @staticmethod
    def _stored(cluster: LocalCluster, one: tuple[str, bytes]) -> bool:
        found = cluster.leader()
        return found is not None and rig.store(found, one)[0][0] == 0

    def check(self, node: LocalNode) -> None:
        for uid, data in self.sent.items():
            status, content = node.get(f"/instances/{uid}", timeout=10)
            assert status == 200, uid
            assert content[part10_meta_length(content) :] == data


@pytest.fixture(scope="module")
def kept() -> Kept:
    return Kept()


def run(cluster: LocalCluster, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "--zookeeper", f"127.0.0.1:{cluster.zookeeper_port}", "--json"])


def verb(cluster: LocalCluster, *arguments: str, code: int = 0) -> dict[str, Any]:
    done = run(cluster, *arguments)
    assert done.exit_code == code, (done.stdout, done.stderr, done.exception)
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def verb_of(cluster: LocalCluster, *arguments: str) -> None:
    """One that has no --json."""
    done = CliRunner().invoke(app, [*arguments, "--zookeeper", f"127.0.0.1:{cluster.zookeeper_port}"])
    assert done.exit_code == 0, done.output


def plain(*arguments: str) -> dict[str, Any]:
    """One that finds ZooKeeper in a configuration."""
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, (done.output, done.exception)
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def granted(cluster: LocalCluster, *arguments: str) -> dict[str, Any]:
    """Ask until it is not refused: on a busy machine a node loses its session, and does not answer for a moment."""
    said: list[str] = []

    def asked() -> bool:
        done = run(cluster, *arguments)
        said.append(done.stdout)
        return done.exit_code == 0

    cluster.wait_for(asked, f"{' '.join(arguments)} is granted")
    facts: dict[str, Any] = json.loads(said[-1])
    return facts


def agreed(cluster: LocalCluster, *arguments: str) -> dict[str, Any]:
    """First without effect; then with the cluster id as the answer.

    Which of several nodes with the same log goes on may differ: one that is busy for a moment does not count as fit.
    """
    planned = granted(cluster, *arguments, "--dry-run")
    assert planned["result"] == "nothing was changed"
    assert cluster.leader() is None
    done = granted(cluster, *arguments, "--yes", planned["cluster"])
    assert done["lost"] == planned["lost"]
    return done


def healthy(cluster: LocalCluster) -> None:
    everybody = {node.id for node in cluster.nodes}
    cluster.wait_for(lambda: rig.in_sync(cluster) == everybody, "all nodes are in sync")


def keeper_data(cluster: LocalCluster) -> Path:
    return cluster.directory / "zookeeper" / "data"


def stop_zookeeper(cluster: LocalCluster) -> None:
    rig.signalled(cluster.zookeeper).kill()


def nobody_leads(cluster: LocalCluster, reason: str) -> None:
    cluster.wait_for(
        lambda: (
            cluster.leader() is None
            and any(reason in str(n.status()["not_standing"]) for n in cluster.nodes if n.alive)
        ),
        f"nobody leads: {reason}",
    )


def kill(node: LocalNode) -> None:
    rig.signalled(node.running).kill()


def incarnation(node: LocalNode) -> str:
    return str(json.loads((node.data_dir / "node.json").read_text())["incarnation"])


def ended(cluster: LocalCluster, node: LocalNode, reason: str) -> None:
    """The process said why, and ended with exit code 0."""
    process = rig.signalled(node.running)

    def over() -> bool:
        process.reap()
        return not process.alive

    cluster.wait_for(over, f"{node.id} ends")
    assert reason in process.tail()


def replaced(cluster: LocalCluster, node: LocalNode) -> None:
    """Put an empty disk into a node and start it; the verb says when it is in sync."""
    old = incarnation(node)
    shutil.rmtree(node.data_dir)
    cluster.start_node(node)
    assert verb(cluster, "node", "replace", node.id, "--seconds", "60")["incarnation"] != old


def test_zookeeper_lost_its_data(cluster: LocalCluster, kept: Kept) -> None:
    healthy(cluster)
    kept.store(cluster)
    stop_zookeeper(cluster)
    keeper_data(cluster).rename(cluster.directory / "old-zookeeper")
    cluster.start_zookeeper()
    nobody_leads(cluster, "the cluster state is gone")
    done = agreed(cluster, "coordination", "rebuild")
    assert (done["lost"]["records"], done["more_may_be_lost"], done["left_out"]) == (0, False, [])
    healthy(cluster)
    kept.check(rig.leader(cluster))
    kept.store(cluster)
    assert "nothing is lost" in verb(cluster, "coordination", "rebuild", code=1)["reasons"][0]


def test_zookeeper_runs_on_an_old_copy(cluster: LocalCluster, kept: Kept) -> None:
    stop_zookeeper(cluster)
    shutil.rmtree(keeper_data(cluster))
    (cluster.directory / "old-zookeeper").rename(keeper_data(cluster))
    cluster.start_zookeeper()
    nobody_leads(cluster, "the cluster state went back from change")
    agreed(cluster, "coordination", "rebuild")
    healthy(cluster)
    kept.check(rig.leader(cluster))
    kept.store(cluster)


def test_a_disk_is_lost_and_replaced(cluster: LocalCluster, kept: Kept) -> None:
    lost = rig.follower(cluster)
    kill(lost)
    cluster.wait_for(lambda: lost.id not in rig.in_sync(cluster), "the set goes on without it")
    kept.store(cluster)
    assert verb(cluster, "node", "replace", lost.id, "--dry-run")["barred"]["incarnation"] == incarnation(lost)
    assert "not in sync after" in verb(cluster, "node", "replace", lost.id, "--seconds", "0.1", code=1)["result"]
    replaced(cluster, lost)
    healthy(cluster)
    kept.check(lost)


def test_a_node_is_added_and_retired(cluster: LocalCluster, kept: Kept) -> None:
    dicom, http, peer = free_ports(3)
    new = LocalNode("n4", cluster.directory / "n4", dicom, http, peer)
    new.directory.mkdir()
    model = str(cluster.nodes[0].config)
    ports = ["--dicom-port", str(dicom), "--http-port", str(http), "--peer-port", str(peer)]
    words = ["node", "add", "n4", "--config", model, "--data-dir", str(new.data_dir), "--output", str(new.config)]
    assert f"port = {peer}" in plain(*words, *ports, "--dry-run")["text"]
    assert not new.config.exists()
    assert plain(*words, *ports, "--no-wait")["result"] == "written"
    command = [sys.executable, "-m", "perenne.cli", "node", "--config", str(new.config)]
    new.running = start(command, new.directory / "node.log", new.directory)
    try:
        assert plain(*words, *ports, "--seconds", "60")["result"] == "n4 is in sync"
        kept.check(new)
        kept.store(cluster)
        cluster.nodes.append(new)
        verb_of(cluster, "switchover", "--to", "n4")
        cluster.wait_for(new.leads, "the new node leads")
        kept.store(cluster)
        assert verb(cluster, "node", "retire", "n4", "--dry-run")["retires"]["incarnation"] == incarnation(new)
        assert verb(cluster, "node", "retire", "n4")["result"].startswith("n4 is retired")
        ended(cluster, new, '"the node stopped"')
        assert verb(cluster, "node", "retire", "n4")["result"] == "n4 is retired"
    finally:
        new.running.kill()
        cluster.nodes.remove(new)
    healthy(cluster)
    kept.check(rig.leader(cluster))


def test_an_old_copy_of_a_disk_is_put_back(cluster: LocalCluster, kept: Kept) -> None:
    back = rig.follower(cluster)
    kill(back)
    cluster.wait_for(lambda: back.id not in rig.in_sync(cluster), "the set goes on without it")
    old = cluster.directory / "old-disk"
    shutil.copytree(back.data_dir, old)
    cluster.start_node(back)
    healthy(cluster)
    kept.store(cluster)
    kill(back)
    cluster.wait_for(lambda: back.id not in rig.in_sync(cluster), "the set goes on without it")
    shutil.rmtree(back.data_dir)
    old.rename(back.data_dir)
    cluster.start_node(back)
    healthy(cluster)
    kept.check(back)


def test_the_only_survivor_is_not_eligible(cluster: LocalCluster, kept: Kept) -> None:
    survivor = rig.follower(cluster)
    kill(survivor)
    cluster.wait_for(lambda: survivor.id not in rig.in_sync(cluster), "the set goes on without it")
    refused = run(cluster, "node", "retire", rig.leader(cluster).id)
    assert refused.exit_code == 1
    assert "only 1 of 2 copies would be left" in refused.stderr
    before = set(kept.sent)
    kept.store(cluster)
    verb_of(cluster, "switchover")
    # The new leader notes in the cluster state how far everything was committed
    gone = [node for node in cluster.nodes if node is not survivor]
    left = [word for node in gone for word in ("--without", node.id)]
    assert "leads" in verb(cluster, "failover", "--accept-loss", *left, "--dry-run", code=1)["reasons"][0]
    disks = {node.id: incarnation(node) for node in gone}
    for node in gone:
        kill(node)
        node.data_dir.rename(node.directory / "old-disk")
    cluster.start_node(survivor)
    nobody_leads(cluster, "not in the in-sync set")
    assert "does not answer" in str(verb(cluster, "failover", "--accept-loss", "--dry-run", code=1)["reasons"])
    assert "nothing was changed" in run(cluster, "failover", "--accept-loss", *left).stderr
    done = agreed(cluster, "failover", "--accept-loss", *left)
    assert (done["chosen"], done["leader"]) == (survivor.id, survivor.id)
    assert done["lost"]["records"] >= 3
    assert {one["node"]: one["incarnation"] for one in done["left_out"]} == disks
    for uid in set(kept.sent) - before:
        del kept.sent[uid]
    (gone[0].directory / "old-disk").rename(gone[0].data_dir)
    cluster.start_node(gone[0])
    ended(cluster, gone[0], "was retired with this data directory")
    shutil.rmtree(gone[0].data_dir)
    for node in gone:
        cluster.start_node(node)
    healthy(cluster)
    kept.check(survivor)
    kept.store(cluster)
    kept.check(gone[0])
