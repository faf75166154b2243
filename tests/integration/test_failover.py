"""The promise on real processes: DCMTK sends, leaders die, plain tar finds every acknowledged instance twice."""

import shutil
import signal
from pathlib import Path

from perenne.local.processes import Running
from tests.integration import rig


def ended(process: Running) -> bool:
    process.reap()
    return not process.alive


def test_the_leader_is_killed_while_a_follower_receives(tmp_path: Path) -> None:
    files = rig.folder_of_files(tmp_path / "in")
    sent = rig.as_sent(files, tmp_path / "witness")
    with rig.running_cluster(tmp_path / "cluster") as cluster:
        first, receiver = rig.leader(cluster), rig.follower(cluster)
        sending = rig.Sending(files, receiver.dicom_port, tmp_path / "report.txt")
        cluster.wait_for(lambda: rig.instances(receiver) >= 40, "the transfer is under way")
        rig.signalled(first.running).kill()
        output = sending.finish()
        assert "abort" not in output.lower(), output
        acknowledged = sending.acknowledged()
        assert len(acknowledged) > 300
        assert rig.leader(cluster) is not first
        rig.assert_kept(cluster, acknowledged, sent)
        syntaxes = {sample.transfer_syntax for sample in rig.sendable() if sample.sop_instance_uid in acknowledged}
        assert len(syntaxes) >= 10, syntaxes


def test_a_stopped_leader_steps_down_and_is_not_believed(tmp_path: Path) -> None:
    files = rig.folder_of_files(tmp_path / "in", copies=200)
    late = tmp_path / "late"
    rig.slices(late, 30, first=50_000)
    sent = rig.as_sent(files, tmp_path / "witness")
    sent |= rig.as_sent(late, tmp_path / "witness-late")
    with rig.running_cluster(tmp_path / "cluster") as cluster:
        first, receiver = rig.leader(cluster), rig.follower(cluster)
        epoch = int(receiver.status()["epoch"])
        sending = rig.Sending(files, receiver.dicom_port, tmp_path / "report.txt")
        cluster.wait_for(lambda: rig.instances(receiver) >= 40, "the transfer is under way")
        rig.signalled(first.running).signal(signal.SIGSTOP)
        into_the_void = rig.Sending(late, first.dicom_port, tmp_path / "late.txt")
        output = sending.finish()
        assert "abort" not in output.lower(), output
        rig.signalled(first.running).signal(signal.SIGCONT)
        into_the_void.finish()
        cluster.wait_for(lambda: first.status()["role"] == "follower", "the old leader follows")
        assert int(receiver.status()["epoch"]) > epoch
        cluster.wait_for(lambda: len(rig.in_sync(cluster)) == 3, "all nodes are in sync again")
        acknowledged = sending.acknowledged() | into_the_void.acknowledged()
        assert len(acknowledged) > 200
        rig.assert_kept(cluster, acknowledged, sent)


def test_a_follower_is_killed_wiped_and_filled_again(tmp_path: Path) -> None:
    files = rig.folder_of_files(tmp_path / "in", copies=200)
    more = tmp_path / "more"
    rig.slices(more, 200, first=60_000)
    sent = rig.as_sent(files, tmp_path / "witness") | rig.as_sent(more, tmp_path / "witness-more")
    with rig.running_cluster(tmp_path / "cluster") as cluster:
        lost = rig.follower(cluster)
        first = rig.leader(cluster)
        sending = rig.Sending(files, first.dicom_port, tmp_path / "report.txt")
        cluster.wait_for(lambda: rig.instances(first) >= 40, "the transfer is under way")
        rig.signalled(lost.running).kill()
        sending.finish()
        cluster.wait_for(lambda: len(rig.in_sync(cluster)) == 2, "the set goes on without it")
        shutil.rmtree(lost.data_dir)
        while_away = rig.Sending(more, first.dicom_port, tmp_path / "more.txt")
        while_away.finish()
        acknowledged = sending.acknowledged() | while_away.acknowledged()
        assert len(while_away.acknowledged()) == 200
        cluster.start_node(lost)
        cluster.wait_for(lambda: len(rig.in_sync(cluster)) == 3, "the wiped node is filled and in sync")
        holdings = rig.extracted(lost)
        assert all(holdings[uid] == sent[uid] for uid in acknowledged)
        rig.assert_kept(cluster, acknowledged, sent)


def test_a_node_told_to_end_hands_over_and_a_second_process_is_refused(tmp_path: Path) -> None:
    with rig.running_cluster(tmp_path / "cluster") as cluster:
        first = rig.leader(cluster)
        second = rig.follower(cluster)
        twin = cluster.nodes.index(second)
        running = rig.signalled(second.running)
        cluster.start_node(second)
        intruder = rig.signalled(cluster.nodes[twin].running)
        cluster.wait_for(lambda: ended(intruder), "the second process gives up")
        assert "another process" in intruder.tail().lower() or "lock" in intruder.tail().lower(), intruder.tail()
        second.running = running
        rig.signalled(first.running).signal(signal.SIGTERM)
        cluster.wait_for(lambda: (found := cluster.leader()) is not None and found is not first, "another leads")
        process = rig.signalled(first.running)
        cluster.wait_for(lambda: ended(process), "the node ended")
        assert '"the node stopped"' in process.log.read_text()
