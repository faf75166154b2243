"""Everything is lost but the tier, and the cluster comes back: real nodes, a real ZooKeeper, plain tar as the judge."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from perenne.config import TierConfig
from perenne.config_tier import blocking_store
from perenne.local.cluster import LocalCluster, LocalNode
from perenne.local.seaweedfs import ACCESS_KEY, SECRET_KEY, start_store
from tests.integration import rig

SMALL_OBJECTS = 20


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    """A directory tier, ready."""
    root = tmp_path / "san"
    root.mkdir()
    blocking_store(TierConfig(kind="directory", directory=root), {}).prepare()
    return root


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[str]:
    """The `[tier]` section for a bucket of a real SeaweedFS."""
    store = start_store(tmp_path / "seaweedfs")
    try:
        credentials = tmp_path / "credentials"
        keys = f"aws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
        credentials.write_text(f"[default]\n{keys}")
        settings = TierConfig(endpoint=store.endpoint, bucket="perenne", credentials_file=credentials)
        blocking_store(settings, {}).prepare()
        yield f'[tier]\nendpoint = "{store.endpoint}"\nbucket = "perenne"\ncredentials_file = "{credentials}"\n'
    finally:
        store.kill()


def followed(cluster: LocalCluster) -> bool:
    """Whether the bucket has everything that is committed."""
    return bool(rig.leader(cluster).status()["tier"]["behind"] == 0)


def filled(cluster: LocalCluster, work: Path) -> dict[str, bytes]:
    """Store slices, each acknowledged and in the bucket; return them by UID."""
    files = work / "in"
    rig.slices(files, 60, first=10_000)
    sending = rig.Sending(files, rig.leader(cluster).dicom_port, work / "report.txt")
    sending.finish()
    assert len(sending.acknowledged()) == 60
    cluster.wait_for(lambda: followed(cluster), "the bucket has followed")
    return rig.as_sent(files, work / "witness")


def lost(node: LocalNode) -> None:
    """The node and its disk."""
    rig.signalled(node.running).kill()
    shutil.rmtree(node.data_dir)


def restore(node: LocalNode, *more: str) -> tuple[int, dict[str, Any]]:
    """Exit code and report."""
    done = rig.perenne("restore", "--config", str(node.config), "--json", *more)
    assert "Traceback" not in done.stderr, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, facts


def test_both_nodes_are_lost_and_the_bucket_brings_everything_back(tmp_path: Path, bucket: str) -> None:
    """ZooKeeper is lost with them. docs/recovery.md: everything is lost but the tier."""
    with rig.running_cluster(tmp_path / "cluster", nodes=2, extra=bucket) as cluster:
        sent = filled(cluster, tmp_path)
        one, two = cluster.nodes
        before = rig.extracted(one)
        lost(one)
        lost(two)
        assert cluster.zookeeper is not None
        cluster.zookeeper.kill()
        shutil.rmtree(cluster.directory / "zookeeper")
        cluster.start_zookeeper()

        code, report = restore(one, "--cluster")
        assert (code, report["complete"], report["finished"]) == (0, True, True), report
        assert "in ZooKeeper" in report["coordination"]
        cluster.start_node(one)
        cluster.wait_for(lambda: one.leads() and one.ready(), "the restored node leads and takes stores")
        assert rig.extracted(one) == before == sent
        new = rig.made(1, filler=b"after the disaster")
        assert rig.store(one, new)[0][0] == 0

        cluster.start_node(two)
        cluster.wait_for(lambda: rig.in_sync(cluster) == {one.id, two.id}, "an empty node joins by itself")
        rig.assert_kept(cluster, {*sent, new[0]}, sent | dict([new]))

        served = [f"--node=http://127.0.0.1:{node.http_port}" for node in cluster.nodes]
        done = rig.perenne("drill", "--config", str(one.config), "--sample", "30", *served)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "instances compared" in done.stdout
        lines = one.get("/metrics")[1].decode().splitlines()
        assert any(line.startswith("perenne_drill_last_success_timestamp_seconds 1.") for line in lines)


def test_a_restore_says_what_the_bucket_lacks_and_what_it_would_overwrite(tmp_path: Path, mount: Path) -> None:
    """Both nodes are lost, ZooKeeper is not. docs/recovery.md: the same, and one node's disk is lost."""
    section = f'[tier]\nkind = "directory"\ndirectory = "{mount}"\n'
    with rig.running_cluster(tmp_path / "cluster", nodes=2, extra=section) as cluster:
        sent = filled(cluster, tmp_path)
        one, two = cluster.nodes
        leader, other = rig.leader(cluster), rig.follower(cluster)
        code, plan = restore(one, "--cluster", "--dry-run")
        assert code == 2 and f"run: {one.id}, {two.id}" in plan["refused"] and plan["restorable_upto"] > 60, plan
        lost(other)
        cluster.wait_for(lambda: "tier" in leader.status()["in_sync"], "the tier takes the lost node's place")
        late = rig.made(1)
        assert rig.store(leader, late)[0][0] == 0
        lost(leader)

        code, refusal = restore(one, "--cluster")
        assert code == 2 and "--replace-state" in refusal["cause"]
        assert not list(one.data_dir.glob("*.json")), "nothing was changed"
        change = refusal["cause"].rsplit(" ", 1)[1]
        code, plan = restore(one, "--cluster", "--dry-run")
        assert (code, plan["refused"]) == (2, refusal["cause"])
        code, plan = restore(one, "--cluster", "--dry-run", "--replace-state", change)
        assert (code, plan["refused"]) == (0, "")

        newest = max((mount / "log").rglob("*.tar"))
        newest.rename(tmp_path / "aside.tar")
        code, report = restore(one, "--cluster", "--replace-state", change)
        assert code == 1 and not report["finished"]
        assert any("`tierfloor` says" in text for text in report["lacking"]), report
        assert rig.perenne("node", "--config", str(one.config)).returncode == 1, "no node takes it"

        (tmp_path / "aside.tar").rename(newest)
        code, report = restore(one, "--cluster", "--replace-state", change)
        assert (code, report["this_run"]["resumed"]) == (0, True), report
        assert code == 0 and report["finished"], report
        cluster.start_node(one)
        cluster.wait_for(lambda: one.leads() and one.ready(), "the restored node leads and takes stores")

        assert restore(two)[0] == 0, "one node of a cluster that lives"
        cluster.start_node(two)
        cluster.wait_for(lambda: rig.in_sync(cluster) == {one.id, two.id}, "both hold everything again")
        rig.assert_kept(cluster, {*sent, late[0]}, sent | dict([late]))
        _the_bucket_is_lost(cluster, mount)


def _the_bucket_is_lost(cluster: LocalCluster, mount: Path) -> None:
    """docs/recovery.md: a new one is prepared, the nodes are restarted one after the other, and it fills."""
    for path in mount.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    one, two = cluster.nodes
    assert rig.perenne("tier", "prepare", "--config", str(one.config)).returncode == 0
    for node in (two, one):
        rig.signalled(node.running).stop()
        cluster.start_node(node)
        cluster.wait_for(lambda: rig.in_sync(cluster) == {one.id, two.id}, "both are in sync again")
    cluster.wait_for(lambda: (mount / "log").exists() and followed(cluster), "the new bucket is complete")
    code, plan = restore(one, "--cluster", "--dry-run")
    assert code == 2 and "nodes of this cluster run" in plan["refused"]
    assert not plan["missing"] and plan["restorable_upto"] >= rig.leader(cluster).status()["positions"]["committed"] - 1
