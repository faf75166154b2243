"""Two nodes and a real bucket: the follower dies, then the leader with its disk; nothing acknowledged is lost."""

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


@pytest.fixture(params=["s3", "directory"])
def tier(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The `[tier]` section of every node, for a store that is ready."""
    if request.param == "directory":
        mount = tmp_path / "san"
        mount.mkdir()
        blocking_store(TierConfig(kind="directory", directory=mount), {}).prepare()
        yield f'[tier]\nkind = "directory"\ndirectory = "{mount}"\n'
        return
    store = start_store(tmp_path / "seaweedfs")
    try:
        credentials = tmp_path / "credentials"
        keys = f"aws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
        credentials.write_text(f"[default]\n{keys}")
        settings = TierConfig(endpoint=store.endpoint, bucket="perenne", credentials_file=credentials)
        blocking_store(settings, {}).prepare()
        yield (f'[tier]\nendpoint = "{store.endpoint}"\nbucket = "perenne"\ncredentials_file = "{credentials}"\n')
    finally:
        store.kill()


def tier_facts(node: LocalNode) -> dict[str, Any]:
    facts: dict[str, Any] = node.status()["tier"]
    return facts


def packing(node: LocalNode) -> dict[str, Any]:
    facts: dict[str, Any] = tier_facts(node)["packing"]
    return facts


def peak_mebibytes(node: LocalNode) -> int:
    """The most memory that the process ever had, as the kernel counts it."""
    status = Path(f"/proc/{rig.signalled(node.running).pid}/status").read_text()
    return next(int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def behind(cluster: LocalCluster) -> object:
    return tier_facts(rig.leader(cluster))["behind"]


def test_the_tier_takes_a_lost_followers_place_and_gives_back_a_lost_leaders_log(tmp_path: Path, tier: str) -> None:
    few, files, more = tmp_path / "few", tmp_path / "in", tmp_path / "more"
    rig.slices(few, 10, first=30_000)
    rig.slices(files, 120, first=10_000)
    rig.slices(more, 120, first=20_000)
    sent = rig.as_sent(files, tmp_path / "witness") | rig.as_sent(more, tmp_path / "witness-more")
    sent |= rig.as_sent(few, tmp_path / "witness-few")
    with rig.running_cluster(tmp_path / "cluster", nodes=2, extra=tier) as cluster:
        first, second = rig.leader(cluster), rig.follower(cluster)
        # These are small objects before their segment is sealed, whatever the bucket's pace: it must replace them.
        begun = rig.Sending(few, first.dicom_port, tmp_path / "few.txt")
        begun.finish()
        cluster.wait_for(lambda: behind(cluster) == 0, "the bucket has followed the first few")
        sending = rig.Sending(files, first.dicom_port, tmp_path / "report.txt")
        sending.finish()
        acknowledged = begun.acknowledged() | sending.acknowledged()
        assert len(acknowledged) == 130
        cluster.wait_for(lambda: behind(cluster) == 0, "the bucket has followed")
        cluster.wait_for(lambda: packing(first)["segments"] > 0, "a sealed segment is one object")
        cluster.wait_for(lambda: packing(first)["replaced"] > 0, "what it replaces is deleted")

        rig.signalled(second.running).kill()
        cluster.wait_for(lambda: "tier" in first.status()["in_sync"], "the tier takes the follower's place")
        alone = rig.Sending(more, first.dicom_port, tmp_path / "more.txt")
        alone.finish()
        assert len(alone.acknowledged()) == 120
        acknowledged |= alone.acknowledged()
        assert tier_facts(first)["counted_upto"] == first.status()["positions"]["committed"]

        large = rig.made(1, filler=bytes(100_000_000))
        assert rig.store(first, large)[0][0] == 0
        acknowledged, sent = acknowledged | {large[0]}, sent | {large[0]: large[1]}
        assert peak_mebibytes(first) < 300

        rig.signalled(first.running).kill()
        shutil.rmtree(first.data_dir)
        cluster.start_node(second)
        cluster.wait_for(second.leads, "the follower takes over from the bucket")
        assert peak_mebibytes(second) < 300
        holdings = rig.extracted(second)
        assert all(holdings[uid] == sent[uid] for uid in acknowledged)

        cluster.start_node(first)
        cluster.wait_for(lambda: rig.in_sync(cluster) == {first.id, second.id}, "two nodes hold everything again")
        rig.assert_kept(cluster, acknowledged, sent)
