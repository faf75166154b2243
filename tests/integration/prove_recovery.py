"""`script/prove-recovery`: both recipes that bring a log back from the bucket, on real nodes and a directory."""

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from perenne.cli.commands import app
from perenne.config import TierConfig
from perenne.config_tier import blocking_store
from perenne.local.cluster import LocalCluster, LocalNode
from storage.digest import part10_meta_length
from tests.integration import rig


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def verb(*arguments: str, code: int = 0) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == code, (done.output, done.exception)
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def store(cluster: LocalCluster, sent: dict[str, bytes], count: int) -> None:
    more = [rig.made(len(sent) + number, filler=bytes(20_000)) for number in range(count)]
    assert {status for status, _ in rig.store(rig.leader(cluster), *more)} == {0}
    sent |= dict(more)
    cluster.wait_for(lambda: rig.leader(cluster).status()["tier"]["behind"] == 0, "the bucket has followed")


def check(cluster: LocalCluster, node: LocalNode, sent: dict[str, bytes]) -> None:
    def served(uid: str, data: bytes) -> bool:
        status, content = node.get(f"/instances/{uid}", timeout=10)
        assert status in (200, 503), (uid, status)
        return status == 200 and content[part10_meta_length(content) :] == data

    for uid, data in sent.items():
        cluster.wait_for(lambda uid=uid, data=data: served(uid, data), f"{node.id} serves {uid}")  # type: ignore[misc]


def agreed(cluster: LocalCluster, *words: str) -> dict[str, Any]:
    cluster.wait_for(
        lambda: CliRunner().invoke(app, [*words, "--json", "--dry-run"]).exit_code == 0, f"{words[0]} has a plan"
    )
    planned = verb(*words, "--dry-run")
    assert planned["chosen"] == "tier", planned
    done = verb(*words, "--yes", planned["cluster"])
    say(f"  {done['result']}; known to be lost: {done['lost']['records']} records")
    assert done["lost"]["records"] == 0
    return done


def survivor_of(cluster: LocalCluster, sent: dict[str, bytes]) -> LocalNode:
    """One node misses what is stored; the others are lost with their disks."""
    survivor = rig.follower(cluster)
    rig.signalled(survivor.running).kill()
    cluster.wait_for(lambda: survivor.id not in rig.in_sync(cluster), "the set goes on without it")
    store(cluster, sent, 20)
    for node in cluster.nodes:
        if node is not survivor:
            rig.signalled(node.running).kill()
            shutil.rmtree(node.data_dir)
    return survivor


def given_up(cluster: LocalCluster, survivor: LocalNode) -> list[str]:
    return [word for node in cluster.nodes if node is not survivor for word in ("--without", node.id)]


def wait_until_asked(cluster: LocalCluster, survivor: LocalNode) -> None:
    """It knows the others from a life before, and ZooKeeper, which is empty, does not."""
    words = ["coordination", "rebuild", "--config", str(survivor.config), "--dry-run", "--json"]
    lost = {node.id for node in cluster.nodes if node is not survivor}

    def named() -> bool:
        reasons: list[str] = json.loads(CliRunner().invoke(app, words).stdout)["reasons"]
        return {reason.partition(" does not answer")[0] for reason in reasons} == lost

    cluster.wait_for(named, "those who are lost are named")


def healed(cluster: LocalCluster, survivor: LocalNode, sent: dict[str, bytes]) -> None:
    for node in cluster.nodes:
        if node is not survivor:
            cluster.start_node(node)
    everybody = {node.id for node in cluster.nodes}
    cluster.wait_for(lambda: rig.in_sync(cluster) >= everybody, "all nodes are in sync")
    for node in cluster.nodes:
        check(cluster, node, sent)
    say(f"  all {len(sent)} instances are served by every node")


def prove(directory: Path) -> None:
    mount = directory / "san"
    mount.mkdir()
    blocking_store(TierConfig(kind="directory", directory=mount), {}).prepare()
    tier = f'[tier]\nkind = "directory"\ndirectory = "{mount}"\n'
    sent: dict[str, bytes] = {}
    with rig.running_cluster(directory / "cluster", extra=tier) as cluster:
        store(cluster, sent, 20)

        say("those in sync are lost with their disks; a node that was not in sync is left, and a bucket that followed")
        survivor = survivor_of(cluster, sent)
        cluster.start_node(survivor)
        words = ("failover", "--accept-loss", "--config", str(survivor.config), *given_up(cluster, survivor))
        agreed(cluster, *words)
        healed(cluster, survivor, sent)

        say("the same, and ZooKeeper is lost as well")
        survivor = survivor_of(cluster, sent)
        rig.signalled(cluster.zookeeper).kill()
        shutil.rmtree(cluster.directory / "zookeeper" / "data")
        cluster.start_zookeeper()
        cluster.start_node(survivor)
        wait_until_asked(cluster, survivor)
        words = (
            "coordination",
            "rebuild",
            "--accept-loss",
            "--config",
            str(survivor.config),
            *given_up(cluster, survivor),
        )
        agreed(cluster, *words)
        healed(cluster, survivor, sent)
    say("proven")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="perenne-recovery-") as name:
        prove(Path(name))
