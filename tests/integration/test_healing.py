"""Damage that nobody has met yet: found by the scrub, mended from a peer or from the tier."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from perenne.config import TierConfig
from perenne.config_tier import blocking_store
from perenne.local.cluster import LocalCluster, LocalNode
from storage.digest import part10_meta_length
from tests.integration import rig
from tests.integration.rig import damaged, rot, running_cluster, store
from tests.integration.test_damage import big, get, kill, other

SCRUB = "[scrub]\nlight_every_ms = 1000\ndeep_every_ms = 1000\nper_second_bytes = 0\n"
NEVER = "[scrub]\nlight_every_ms = 0\ndeep_every_ms = 0\n"


@pytest.fixture
def san(tmp_path: Path) -> Path:
    mount = tmp_path / "san"
    mount.mkdir()
    blocking_store(TierConfig(kind="directory", directory=mount), {}).prepare()
    return mount


def tier(mount: Path) -> str:
    return f'[tier]\nkind = "directory"\ndirectory = "{mount}"\n'


def scrub(node: LocalNode) -> dict[str, Any]:
    facts: dict[str, Any] = node.status()["scrub"]
    return facts


def metric(node: LocalNode, name: str) -> float:
    lines = node.get("/metrics")[1].decode().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(f"{name} ")))


def test_the_scrub_finds_what_nobody_reads_and_the_other_node_mends_it(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "c", nodes=2, extra=SCRUB) as cluster:
        first = rig.leader(cluster)
        second = other(cluster, first)
        sent = [big(number) for number in range(1, 80)]  # more than one segment
        assert {status for status, _ in store(first, *sent)} == {0}
        cluster.wait_for(lambda: all(rig.instances(node) == 79 for node in cluster.nodes), "both have indexed them")
        rot(first, sent[2][1])
        rot(second, sent[60][1])
        for node in (first, second):
            cluster.wait_for(lambda node=node: scrub(node)["repaired"] == 1, "found and mended")  # type: ignore[misc]
            log = (node.directory / "node.log").read_text()
            assert "the scrub found damaged records" in log
            assert "a damaged record was repaired" in log
            assert damaged(node) == 0
            assert scrub(node)["damaged"] == 1 and not scrub(node)["differs"] and not scrub(node)["faults"]
            assert metric(node, "perenne_repaired_total") == 1
            assert metric(node, 'perenne_verified_age_seconds{depth="deep"}') >= 0
            saved = list((node.data_dir / "lost+found").glob("*-damaged.bin"))
            assert len(saved) == 1 and b"rotten" in saved[0].read_bytes()
        held = {node.id: rig.extracted(node) for node in cluster.nodes}
        assert all(held[node.id][uid] == data for node in cluster.nodes for uid, data in sent)


def altered(mount: Path, data: bytes) -> None:
    """Change an instance in the bucket; twice, and nothing was changed."""
    for path in (mount / "log").rglob("*.tar"):
        at = path.read_bytes().find(data[:40_000])
        if at > 0:
            path.chmod(0o644)
            with path.open("r+b") as file:
                file.seek(at + 60_000)
                byte = file.read(1)[0]
                file.seek(at + 60_000)
                file.write(bytes([byte ^ 1]))


def whole(cluster: LocalCluster) -> bool:
    return bool(rig.leader(cluster).status()["tier"]["behind"] == 0)


def audit(cluster: LocalCluster) -> dict[str, Any]:
    facts: dict[str, Any] = rig.leader(cluster).status()["tier"]["audit"]
    return facts


def objects(mount: Path) -> dict[str, Path]:
    return {path.name: path for path in (mount / "log").rglob("*.tar")}


def test_what_the_tier_loses_is_noticed_and_put_again(tmp_path: Path, san: Path) -> None:
    with running_cluster(tmp_path / "c", nodes=2, extra=SCRUB + tier(san)) as cluster:
        leader, sent = rig.leader(cluster), [big(number) for number in range(1, 80)]
        assert {status for status, _ in store(leader, *sent)} == {0}
        cluster.wait_for(lambda: whole(cluster), "the bucket has followed")
        sealed = lambda: leader.status()["tier"]["packing"]["segments"] >= 1  # noqa: E731
        cluster.wait_for(sealed, "a segment is one object")
        before = {name: path.read_bytes() for name, path in objects(san).items()}
        packed, newest = min(before), max(before)
        assert packed != newest
        for name in (packed, newest):
            objects(san)[name].unlink()
        cluster.wait_for(lambda: audit(cluster)["found"] >= 2, "both are missed")
        cluster.wait_for(lambda: not audit(cluster)["missing"], "and put again")
        assert objects(san)[packed].read_bytes() == before[packed]
        assert metric(leader, "perenne_tier_objects_lost_total") == audit(cluster)["found"]
        done = rig.perenne("verify", "--tier", "--deep", "--config", str(leader.config))
        assert done.returncode == 0, done.stdout

        path = objects(san)[packed]
        path.chmod(0o644)
        os.truncate(path, path.stat().st_size - 5000)
        cluster.wait_for(lambda: audit(cluster)["altered"], "what was cut is named")
        cluster.wait_for(lambda: audit(cluster)["why"], "and why it is not put again")
        assert metric(leader, "perenne_tier_objects_missing") == 1
        done = rig.perenne("status", "--cluster", str(cluster.directory / "cluster.json"))
        assert done.returncode == 1 and "copy such a one away and delete it" in " ".join(done.stdout.split())
        path.unlink()
        cluster.wait_for(lambda: not audit(cluster)["missing"] and not audit(cluster)["altered"], "deleted, it is back")
        assert objects(san)[packed].read_bytes() == before[packed]


def test_a_read_is_answered_from_the_tier_when_the_disk_is_bad_and_the_peer_is_gone(tmp_path: Path, san: Path) -> None:
    with running_cluster(tmp_path / "c", nodes=2, extra=NEVER + tier(san)) as cluster:
        first, sent = rig.leader(cluster), [big(1), big(2), big(3)]
        assert {status for status, _ in store(first, *sent)} == {0}
        cluster.wait_for(lambda: whole(cluster), "the bucket has followed")
        kill(other(cluster, first))
        cluster.wait_for(lambda: "tier" in first.status()["in_sync"], "the tier takes its place")
        for uid, data in sent[:2]:
            assert get(first, uid) == data
            rot(first, data)
        altered(san, sent[1][1])
        assert get(first, sent[0][0]) == sent[0][1], "answered by the first request"
        status, content = first.get(f"/instances/{sent[1][0]}", timeout=15)
        assert status == 503, content[part10_meta_length(content) :][:100]
        assert damaged(first) == 1
        log = (first.directory / "node.log").read_text()
        assert '"from": "tier"' in log

        asked = ("repair", "--cluster", str(cluster.directory / "cluster.json"), "--node", first.id)
        done = rig.perenne(*asked, "--dry-run", "--json")
        left = json.loads(done.stdout)[first.id]["left"]
        assert (done.returncode, len(left)) == (1, 1)
        done = rig.perenne(*asked)
        assert done.returncode == 1 and f"1 damaged, 0 repaired, 1 left: {left[0]}" in done.stdout
        altered(san, sent[1][1])  # undone
        done = rig.perenne(*asked)
        assert (done.returncode, done.stdout) == (0, f"{first.id}: 1 damaged, 1 repaired, 0 left\n")
        done = rig.perenne(*asked)
        assert done.returncode == 0 and "nothing is known to be damaged" in done.stdout, "it does not say: none"
        assert get(first, sent[1][0]) == sent[1][1]
        assert rig.extracted(first)[sent[0][0]] == sent[0][1]
