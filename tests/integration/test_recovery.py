"""The recipes of docs/recovery.md, as a person types them, on one real cluster that survives all of them."""

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from perenne.cli.commands import app
from perenne.local.cluster import LocalCluster, LocalNode
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

    def check(self, node: LocalNode, *, without: frozenset[str] = frozenset()) -> None:
        for uid, data in self.sent.items():
            if uid not in without:
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


def agreed(cluster: LocalCluster, *arguments: str) -> dict[str, Any]:
    """First without effect, until everybody has noticed that nobody leads; then with the cluster id as the answer."""
    cluster.wait_for(lambda: run(cluster, *arguments, "--dry-run").exit_code == 0, "there is a plan")
    planned = verb(cluster, *arguments, "--dry-run")
    assert planned["result"] == "nothing was changed"
    assert cluster.leader() is None
    done = verb(cluster, *arguments, "--yes", planned["cluster"])
    assert done["chosen"] == planned["chosen"]
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
        lambda: cluster.leader() is None and any(reason in str(n.status()["not_standing"]) for n in cluster.nodes),
        f"nobody leads: {reason}",
    )


def test_zookeeper_lost_its_data(cluster: LocalCluster, kept: Kept) -> None:
    healthy(cluster)
    kept.store(cluster)
    stop_zookeeper(cluster)
    shutil.rmtree(keeper_data(cluster))
    cluster.start_zookeeper()
    cluster.wait_for(lambda: cluster.leader() is None, "nobody leads")
    done = agreed(cluster, "coordination", "rebuild")
    assert (done["lost"]["records"], done["more_may_be_lost"], done["left_out"]) == (0, False, [])
    healthy(cluster)
    kept.check(rig.leader(cluster))
    kept.store(cluster)
    assert "nothing is lost" in verb(cluster, "coordination", "rebuild", code=1)["reasons"][0]
