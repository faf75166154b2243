"""Compaction as an operator does it, on a real cluster: the bytes are gone from every disk, and nothing else is."""

import json
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from perenne.cli.commands import app
from perenne.local.cluster import LocalNode
from perenne.local.processes import wait_until
from storage.disk import RealDisk
from storage.index import Index
from storage.indexer import Indexer
from storage.log import Log, LogIdentity
from tests.integration import rig
from tests.integration.rig import made, running_cluster, signalled, store
from tests.integration.test_deletes import OLD, STUDY, Operator, read, scan_of_2010

UNDO = "[retention]\nundo_days = {days}\n\n"
KEPT = 32


def image(number: int) -> tuple[str, bytes]:
    return made(number, filler=random.Random(number).randbytes(150_000))


def on_disk(node: LocalNode, data: bytes) -> bool:
    """Whether a piece out of the middle of these bytes lies anywhere in a data directory."""
    piece = data[100_000:100_064]
    return any(piece in path.read_bytes() for path in node.data_dir.rglob("*") if path.is_file())


def left(node: LocalNode) -> int:
    return int(node.status()["compaction"]["left"])


def compacted(node: LocalNode) -> int:
    return int(node.status()["compaction"]["instances"])


def listed(node: LocalNode) -> list[str]:
    names: list[str] = []
    for segment in sorted((node.data_dir / "log").glob("*.tar")):
        done = subprocess.run(["tar", "tf", str(segment)], capture_output=True, text=True, check=True)
        assert done.stderr == ""
        names += done.stdout.splitlines()
    return names


def index_of(node: LocalNode, *, anew: bool) -> list[tuple[object, ...]]:
    """What the index of a stopped node says, as it is or built from its log."""
    disk = RealDisk(node.data_dir)
    identity = json.loads((node.data_dir / "node.json").read_text())
    log, report = Log.open(disk, LogIdentity(identity["cluster_id"], 4 << 20), host_rebooted=False, spares=0)
    assert not report.damaged
    index = Index.open(disk, "anew.sqlite" if anew else "index.sqlite")
    Indexer(log, index).advance(log.end)
    assert not index.holes
    found = index.everything()
    index.close()
    log.close()
    return found


@pytest.mark.timeout(120)
def test_what_was_deleted_is_gone_from_every_disk_and_nothing_else_is(tmp_path: Path) -> None:
    images = [image(number) for number in range(KEPT)]
    gone, stay = images[3:9], images[:3] + images[9:]
    with running_cluster(tmp_path / "c", 2, UNDO.format(days=0)) as cluster:
        first, second = rig.leader(cluster), rig.follower(cluster)
        wanted = scan_of_2010(first)
        assert {status for status, _ in store(first, *images)} == {0}
        anna = Operator(cluster, "Anna")
        named = [word for uid, _ in gone for word in ("--instance", uid)]
        request = anna.types("delete", *named, "--reason", "wrong patient", "--yes")["request"]
        other = anna.types("delete", "--study", OLD, "--reason", "old", "--yes")["request"]
        anna.types("retention", "hold", "add", OLD, "--even-if-absent", "--reason", "a claim")
        plan = anna.types("compact", "--dry-run")
        assert (plan["instances"], plan["held"]) == (len(gone), 1) and plan["bytes"] > 6 * 150_000
        assert all(on_disk(node, data) for node in cluster.nodes for _, data in gone)
        done = anna.types("compact", "--yes")
        assert (done["instances"], done["left"]) == (len(gone), 0)
        cluster.wait_for(lambda: compacted(second) == len(gone), "the follower does it by itself")
        for node in cluster.nodes:
            assert not any(on_disk(node, data) for _, data in gone), "no byte of them is left"
            assert all(on_disk(node, data) for _, data in stay)
            stubs = [name for name in listed(node) if name.endswith(".deleted.txt")]
            assert sorted(stubs) == sorted(f"{STUDY}/{STUDY}.0/{uid}.dcm.deleted.txt" for uid, _ in gone)
            assert b"perenne_compacted_instances_total 6.0" in node.get("/metrics")[1]
            assert f"{OLD}/{OLD}.0/{wanted}.dcm" in listed(node), "what is on hold stays, though its segment is new"
        assert anna.types("delete", "undo", other, "--yes")["back"] == 1
        refused = anna.types("delete", "undo", request, "--yes", code=1)
        assert "6 instances were compacted on 20" in refused["cause"]

        signalled(second.running).kill()
        shutil.rmtree(second.data_dir)
        cluster.start_node(second)
        cluster.wait_for(
            lambda: second.ready() and rig.instances(second) == len(stay) + 1 and rig.damaged(second) == 0,
            "a wiped node catches up",
        )
        assert not any(on_disk(second, data) for _, data in gone)
        cluster.wait_for(lambda: read(cluster, gone[0][0]) == {410}, "deleted, says every node")
        for uid, data in stay:
            assert read(cluster, uid) == {200} and on_disk(second, data)
        assert store(second, gone[0])[0][0] == 0, "sent again it is a new one"
        cluster.wait_for(lambda: read(cluster, gone[0][0]) == {200}, "and served")
        for node in cluster.nodes:
            signalled(node.running).kill()
    assert index_of(first, anew=False) == index_of(first, anew=True) == index_of(second, anew=True)


@pytest.mark.timeout(120)
def test_nothing_goes_before_its_time(tmp_path: Path) -> None:
    images = [image(number) for number in range(KEPT)]
    with running_cluster(tmp_path / "c", 2, UNDO.format(days=30)) as cluster:
        assert {status for status, _ in store(cluster.nodes[0], *images)} == {0}
        anna = Operator(cluster, "Anna")
        request = anna.types("delete", "--instance", images[3][0], "--reason", "blurred", "--yes")["request"]
        plan = anna.types("compact", "--dry-run")
        assert plan["instances"] == 0 and "can be undone for 30 days" in plan["why_not"]
        assert anna.types("compact", "--yes")["instances"] == 0
        assert anna.types("delete", "undo", request, "--yes")["back"] == 1


@pytest.mark.timeout(120)
def test_stubs_arrive_record_by_record_where_a_segment_is_damaged(tmp_path: Path) -> None:
    images = [image(number) for number in range(KEPT)]
    gone, stay = images[3:9], images[:3] + images[9:]
    with running_cluster(tmp_path / "c", 3, UNDO.format(days=0)) as cluster:
        first, wiped = rig.leader(cluster), rig.follower(cluster)
        assert {status for status, _ in store(first, *images)} == {0}
        anna = Operator(cluster, "Anna")
        named = [word for uid, _ in gone for word in ("--instance", uid)]
        anna.types("delete", *named, "--reason", "wrong patient", "--yes")
        assert anna.types("compact", "--yes")["left"] == 0
        signalled(wiped.running).kill()
        cluster.wait_for(lambda: len(rig.in_sync(cluster)) == 2, "the set goes on without it")
        shutil.rmtree(wiped.data_dir)
        rig.rot(first, stay[5][1])
        cluster.start_node(wiped)
        cluster.wait_for(
            lambda: len(rig.in_sync(cluster)) == 3 and wiped.ready() and rig.damaged(wiped) == 0, "it is filled"
        )
        assert "a segment was refused" in (wiped.directory / "node.log").read_text()
        cluster.wait_for(lambda: rig.damaged(first) == 0, "what was damaged is repaired")
        held = rig.extracted(wiped)
        assert all(held[uid] == data for uid, data in stay) and not held.keys() & {uid for uid, _ in gone}
        assert len([name for name in listed(wiped) if name.endswith(".deleted.txt")]) == len(gone)


@pytest.mark.timeout(60)
def test_a_standalone_node_compacts_through_its_data_directory(tmp_path: Path) -> None:
    images = [image(number) for number in range(KEPT)]
    extra = rig.SOLO + "segment_bytes = 4194304\n\n" + UNDO.format(days=0)
    with rig.standalone(tmp_path / "n", extra) as node:
        wait_until(node.ready, [signalled(node.running)], "the node takes stores")
        assert {status for status, _ in store(node, *images)} == {0}
        where = ("--config", str(node.config), "--json", "--as", "Anna", "--yes")
        for words in (("delete", "--instance", images[3][0], "--reason", "blurred"), ("compact",)):
            done = CliRunner().invoke(app, [*words, *where])
            assert done.exit_code == 0, (done.output, done.exception)
        assert json.loads(done.output)["instances"] == 1
        assert not on_disk(node, images[3][1]) and on_disk(node, images[4][1])
