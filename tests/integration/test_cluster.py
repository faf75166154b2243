"""Three nodes from the outside: any node answers for all, one that stops hands over, one that was away catches up."""

import asyncio
import signal
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from perenne.bench.load import CT, EXPLICIT_LE
from perenne.dimse.sender import AssociationAborted, Sender
from perenne.local.cluster import LocalCluster, LocalNode
from perenne.local.processes import Running
from storage.digest import part10_meta_length
from tests.integration import rig
from tests.integration.rig import made, perenne, running_cluster, store


def ended(process: Running) -> bool:
    process.reap()
    return not process.alive


def read(node: LocalNode, uid: str) -> tuple[int, bytes]:
    status, content = node.get(f"/instances/{uid}", timeout=15)
    return status, content[part10_meta_length(content) :] if status == 200 else content


def alone(cluster: LocalCluster, node: LocalNode) -> None:
    """Kill the others at once: whatever is asked now, nobody can be asked."""
    for other in cluster.nodes:
        if other is not node:
            rig.signalled(other.running).kill()


def test_any_node_serves_an_instance_and_absent_is_said_by_a_leader_only(tmp_path: Path) -> None:
    first = made(1)
    with running_cluster(tmp_path / "c") as cluster:
        receiver = rig.follower(cluster)
        assert store(receiver, first)[0][0] == 0
        for node in cluster.nodes:
            assert read(node, first[0]) == (200, first[1])
            assert read(node, "1.2.3.4")[0] == 404
        behind = next(node for node in cluster.nodes if node is not rig.leader(cluster) and node is not receiver)
        rig.signalled(behind.running).signal(signal.SIGSTOP)
        second = made(2, filler=bytes(100_000))
        cluster.wait_for(lambda: len(rig.in_sync(cluster)) == 2, "the stopped node has left the set")
        assert store(receiver, second)[0][0] == 0
        rig.signalled(behind.running).signal(signal.SIGCONT)
        cluster.wait_for(lambda: read(behind, second[0]) == (200, second[1]), "the leader lends it, or it caught up")
        cluster.wait_for(lambda: rig.instances(receiver) == 2, "the receiver heard that both are committed")
        alone(cluster, receiver)
        assert read(receiver, second[0]) == (200, second[1])
        cluster.wait_for(lambda: read(receiver, "1.2.3.4")[0] == 503, "nobody can say absent any more")


def test_a_node_that_stops_hands_over_and_its_association_ends_well(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "c") as cluster:
        first = rig.leader(cluster)
        other = rig.follower(cluster)

        async def send() -> tuple[int, int]:
            """Return how many were stored through the node that stops, and through another meanwhile."""
            to_first = await Sender.associate("127.0.0.1", first.dicom_port, [(CT, [EXPLICIT_LE])])
            to_other = await Sender.associate("127.0.0.1", other.dicom_port, [(CT, [EXPLICIT_LE])])
            here = there = 0
            try:
                while True:
                    uid, data = made(1000 + here)
                    assert (await to_first.store(CT, uid, EXPLICIT_LE, [data])).status == 0
                    here += 1
                    if here == 20:
                        rig.signalled(first.running).signal(signal.SIGTERM)
            except AssociationAborted:
                pass  # between two operations: what was under way was answered
            async with to_other:
                for number in range(2000, 2040):
                    uid, data = made(number)
                    there += (await to_other.store(CT, uid, EXPLICIT_LE, [data])).status == 0
            return here, there

        here, there = asyncio.run(send())
        assert here >= 20
        assert there == 40
        process = rig.signalled(first.running)
        cluster.wait_for(lambda: ended(process), "the process ends")
        assert rig.leader(cluster) is not first
        lines = (first.directory / "node.log").read_text().splitlines()
        assert "the node stopped" in lines[-1]
        held = rig.extracted(other)
        assert all(made(1000 + number)[0] in held for number in range(here))


def test_a_node_that_was_away_catches_up_by_whole_segments(tmp_path: Path) -> None:
    """Segments are of 4 MiB here, so 30 MB make several whole ones."""
    with running_cluster(tmp_path / "c") as cluster:
        away = rig.follower(cluster)
        rig.signalled(away.running).kill()
        cluster.wait_for(lambda: len(rig.in_sync(cluster)) == 2, "the set goes on without it")
        sent = [made(number, filler=number.to_bytes(4, "big") * 75_000) for number in range(100)]
        assert {status for status, _ in store(rig.leader(cluster), *sent)} == {0}
        cluster.start_node(away)
        cluster.wait_for(lambda: len(rig.in_sync(cluster)) == 3, "it is in sync again")
        log = (away.directory / "node.log").read_text()
        assert "took over a whole segment" in log
        held = rig.extracted(away)
        assert all(held[uid] == data for uid, data in sent)
        assert store(away, sent[0])[0][0] == 0
        cluster.wait_for(lambda: rig.instances(away) == 100, "it indexed what it took over, and nothing twice")
        rig.signalled(away.running).stop()
        verified = perenne("log", "verify", str(away.data_dir))
        assert verified.returncode == 0, verified.stdout
        ours, theirs = (_records(node) for node in (away, rig.leader(cluster)))
        assert ours == theirs[: len(ours)]


def _records(node: LocalNode) -> list[str]:
    return perenne("log", "ls", "--json", str(node.data_dir)).stdout.splitlines()


def test_stores_go_on_while_zookeeper_is_away_but_nobody_says_absent(tmp_path: Path) -> None:
    """What every member of the set confirmed is safe without ZooKeeper; a change of the set has to wait for it."""
    with running_cluster(tmp_path / "c") as cluster:
        receiver = rig.follower(cluster)
        assert read(receiver, "1.2.3.4")[0] == 404
        rig.signalled(cluster.zookeeper).signal(signal.SIGSTOP)
        cluster.wait_for(lambda: read(receiver, "1.2.3.4")[0] == 503, "the leader is not sure to lead any more")
        assert store(receiver, made(1))[0][0] == 0
        assert all(node.get("/livez")[0] == 200 for node in cluster.nodes)
        lost = next(node for node in cluster.nodes if node is not receiver and not node.leads())
        rig.signalled(lost.running).kill()
        assert store(receiver, made(2))[0][0] == 0xA700, "the set cannot be made smaller now"
        rig.signalled(cluster.zookeeper).signal(signal.SIGCONT)
        cluster.wait_for(lambda: store(receiver, made(3))[0][0] == 0, "stores are taken again")
        cluster.start_node(lost)
        cluster.wait_for(lambda: len(rig.in_sync(cluster)) == 3, "all nodes are in sync")
        for number in (1, 3):
            cluster.wait_for(lambda: read(lost, made(number)[0]) == (200, made(number)[1]), "it is there")  # noqa: B023


def test_zookeeper_killed_and_started_again_loses_nothing(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "c") as cluster:
        receiver = rig.follower(cluster)
        assert store(receiver, made(1))[0][0] == 0
        rig.signalled(cluster.zookeeper).kill()
        cluster.start_zookeeper()
        cluster.wait_for(lambda: len(rig.in_sync(cluster)) == 3, "all nodes are in sync")
        cluster.wait_for(lambda: store(receiver, made(2))[0][0] == 0, "stores are taken again")
        for node in cluster.nodes:
            assert read(node, made(1)[0]) == (200, made(1)[1])


def test_a_switchover_moves_the_lead_and_stores_go_on(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "c") as cluster:
        first, target = rig.leader(cluster), rig.follower(cluster)
        hosts = f"127.0.0.1:{cluster.zookeeper_port}"
        done = perenne("switchover", "--zookeeper", hosts, "--to", target.id)
        assert (done.returncode, done.stdout.strip()) == (0, f"{target.id} leads")
        cluster.wait_for(target.leads, "the target leads")
        assert store(first, made(1))[0][0] == 0
        nobody = perenne("switchover", "--zookeeper", hosts, "--to", "n9", "--seconds", "5")
        assert nobody.returncode == 1
        assert "failed" in nobody.stdout
        cluster.wait_for(lambda: rig.in_sync(cluster) == {n.id for n in cluster.nodes}, "all nodes are in sync")
        table = perenne("status", "--cluster", str(cluster.directory / "cluster.json"))
        assert table.returncode == 0, table.stdout
        assert all(node.id in table.stdout for node in cluster.nodes)


def test_a_full_disk_takes_a_follower_out_of_the_set_and_the_others_go_on(tmp_path: Path) -> None:
    small = tmp_path / "c" / "n3"
    small.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(small)], check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        with running_cluster(tmp_path / "c") as cluster:
            full = next(node for node in cluster.nodes if node.id == "n3")
            if full.leads():
                hosts = f"127.0.0.1:{cluster.zookeeper_port}"
                assert perenne("switchover", "--zookeeper", hosts).returncode == 0
                cluster.wait_for(lambda: cluster.leader() not in (None, full), "another node leads")
            sent = [made(number, filler=bytes(500_000)) for number in range(100)]
            left = list(sent)

            def stored() -> bool:
                """One after the other; what is refused while the set changes is offered again."""
                while left and store(rig.leader(cluster), left[-1])[0][0] == 0:
                    left.pop()
                return not left

            cluster.wait_for(stored, "everything is stored")
            cluster.wait_for(lambda: "n3" not in rig.in_sync(cluster), "the full node has left the set")
            assert full.get("/livez")[0] == 200
            assert "nearly full" in full.get("/readyz")[1].decode()
            subprocess.run(["mount", "-o", "remount,size=256m", str(small)], check=True)
            cluster.wait_for(lambda: len(rig.in_sync(cluster)) == 3, "with room it is in sync again, by itself")
            assert store(full, made(1000))[0][0] == 0
            held = rig.extracted(full)
            assert all(held[uid] == data for uid, data in sent)
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_a_record_that_rots_at_one_node_is_served_from_another(tmp_path: Path) -> None:
    """Neither altered nor "there is no such instance": not by the node with the damage, though it leads."""
    with running_cluster(tmp_path / "c") as cluster:
        sent = [made(number, filler=number.to_bytes(4, "big") * 20_000) for number in range(8)]
        assert {status for status, _ in store(rig.leader(cluster), *sent)} == {0}
        cluster.wait_for(lambda: all(rig.instances(node) == 8 for node in cluster.nodes), "all have indexed them")
        for node, (_, data) in zip((rig.leader(cluster), rig.follower(cluster)), sent, strict=False):
            rig.rot(node, data)
        for node in cluster.nodes:
            assert [read(node, uid) for uid, _ in sent] == [(200, data) for _, data in sent]
        cluster.wait_for(lambda: not any(map(rig.damaged, cluster.nodes)), "what rotted is repaired from another node")
        for node in cluster.nodes:
            held = rig.extracted(node)
            assert all(held[uid] == data for uid, data in sent)
            assert read(node, sent[0][0]) == (200, sent[0][1])
        cluster.wait_for(lambda: len(rig.in_sync(cluster)) == 3, "all nodes are in sync")


def test_an_index_that_lies_serves_nothing_wrong_and_is_made_anew(tmp_path: Path) -> None:
    """One character of one UID flips, in the table and in SQLite's own index of it: quick_check finds nothing."""
    with running_cluster(tmp_path / "c") as cluster:
        sent = [made(number, filler=bytes(number)) for number in range(10, 20)]
        assert {status for status, _ in store(rig.leader(cluster), *sent)} == {0}
        cluster.wait_for(lambda: all(rig.instances(node) == 10 for node in cluster.nodes), "all have indexed them")
        liar = rig.leader(cluster)
        rig.signalled(liar.running).stop()
        with closing(sqlite3.connect(liar.data_dir / "index.sqlite")) as index, index:
            index.execute("UPDATE instance SET sop_instance_uid = ? WHERE sop_instance_uid = ?", ("1.5", sent[0][0]))
            index.execute(
                "UPDATE instance SET sop_instance_uid = ? WHERE sop_instance_uid = ?", (sent[2][0], sent[1][0])
            )
            index.execute("DELETE FROM instance WHERE sop_instance_uid = ? AND sequence > 4", (sent[2][0],))
        cluster.start_node(liar)
        cluster.wait_for(lambda: len(rig.in_sync(cluster)) == 3, "all nodes are in sync")
        hosts = f"127.0.0.1:{cluster.zookeeper_port}"
        switchover = ("switchover", "--zookeeper", hosts, "--to", liar.id)
        # The set may name it still from before it was stopped
        cluster.wait_for(lambda: perenne(*switchover).returncode == 0, "the lead is handed over")
        cluster.wait_for(lambda: cluster.leader() is liar, "the node with the lying index leads")
        for uid, data in sent:
            cluster.wait_for(lambda: read(liar, uid)[0] != 503, "it can tell")  # noqa: B023
            assert read(liar, uid) == (200, data)
        log = (liar.directory / "node.log").read_text()
        assert "the index names another record" in log
        cluster.wait_for(lambda: rig.instances(liar) == 10, "its index is made anew")
        for node in cluster.nodes:
            assert [read(node, uid) for uid, _ in sent] == [(200, data) for _, data in sent]
        cluster.wait_for(lambda: read(liar, "1.5")[0] == 404, "it can say again what is absent")
