"""Two nodes and a directory as the tier; one node evicts. It serves, leads and fills an empty peer all the same."""

import shutil
from pathlib import Path
from typing import Any

from perenne.config import TierConfig
from perenne.config_tier import blocking_store
from perenne.local.cluster import LocalNode
from storage.digest import part10_meta_length
from tests.integration import rig


def capacity(node: LocalNode) -> dict[str, Any]:
    facts: dict[str, Any] = node.status()["capacity"]
    return facts


def served(node: LocalNode, uid: str) -> bytes | None:
    status, content = node.get(f"/instances/{uid}", timeout=15)
    return content[part10_meta_length(content) :] if status == 200 else None


def test_a_node_that_evicts_serves_leads_and_fills_an_empty_peer(tmp_path: Path) -> None:
    mount, files = tmp_path / "san", tmp_path / "in"
    mount.mkdir()
    blocking_store(TierConfig(kind="directory", directory=mount), {}).prepare()
    tier = f'[tier]\nkind = "directory"\ndirectory = "{mount}"\n'
    rig.slices(files, 300, first=10_000)
    sent = rig.as_sent(files, tmp_path / "witness")
    with rig.running_cluster(tmp_path / "cluster", nodes=2, extra=tier) as cluster:
        first, second = rig.leader(cluster), rig.follower(cluster)
        rig.signalled(second.running).kill()
        second.extra = "evict_below_free_bytes = 1000000000000000\n"  # the section before it is [storage]
        cluster.start_node(second)
        cluster.wait_for(lambda: rig.in_sync(cluster) == {first.id, second.id}, "the follower is back")
        sending = rig.Sending(files, first.dicom_port, tmp_path / "report.txt")
        sending.finish()
        acknowledged = sending.acknowledged()
        assert len(acknowledged) == 300
        cluster.wait_for(lambda: capacity(second)["tier_only_segments"] > 0, "the follower evicts")
        assert capacity(first)["tier_only_segments"] == 0
        assert capacity(first)["both_segments"] > 0
        assert all(served(second, uid) == sent[uid] for uid in list(acknowledged)[:5])

        rig.signalled(first.running).kill()
        shutil.rmtree(first.data_dir)
        cluster.wait_for(second.leads, "the node that evicts leads, with the tier")
        assert all(served(second, uid) == sent[uid] for uid in acknowledged)
        assert capacity(second)["ranges_read"] > 0
        cluster.start_node(first)
        cluster.wait_for(lambda: rig.in_sync(cluster) == {first.id, second.id}, "the empty peer is filled")
        whole = rig.extracted(first)
        assert all(whole[uid] == sent[uid] for uid in acknowledged)
