"""Goal: what another archive held is in the cluster afterwards, byte for byte, or named with its reason.

Method: one cluster of two nodes, the command line as an operator types it, and every node asked for every instance.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from perenne.journal import ACKNOWLEDGED, events
from perenne.local.cluster import LocalCluster
from perenne.local.processes import free_ports, wait_until
from storage.digest import part10_meta_length
from tests.integration.rig import extracted, made, sendable, signalled, standalone
from tests.moving.console import perenne
from tests.moving.sources import FILLER, orthanc, part10, slices, tar, tree, zipped


def options(cluster: LocalCluster, journal: Path) -> list[str]:
    return ["--cluster", str(cluster.directory / "cluster.json"), "--journal", str(journal)]


def imported(*arguments: str) -> tuple[int, dict[str, Any]]:
    done = perenne("import", "--json", *arguments)
    assert done.exit_code in (0, 1), done.stderr
    assert done.stderr == ""
    return done.exit_code, json.loads(done.stdout)


def acknowledged(journal: Path) -> Counter[str]:
    """How often each instance was acknowledged."""
    return Counter(event.uid for event in events(journal) if event.event == ACKNOWLEDGED)


def datasets(files: dict[str, bytes]) -> dict[str, bytes]:
    return {uid: content[part10_meta_length(content) :] for uid, content in files.items()}


def assert_held(cluster: LocalCluster, expected: dict[str, bytes]) -> None:
    """Plain tar finds each data set on every node."""
    for node in cluster.nodes:
        held = extracted(node)
        wrong = [uid for uid, data in expected.items() if held.get(uid) != data]
        assert not wrong, f"{node.id}: {len(wrong)} of {len(expected)}"


def test_everything_of_every_kind_of_archive_comes_in_once(cluster: LocalCluster, tmp_path: Path) -> None:
    source = tmp_path / "old"
    source.mkdir()
    files = slices(1000, 80)
    some = list(files.values())
    tree(source / "dcm4chee", some[:20])
    orthanc(source / "orthanc", some[20:40])
    tar(source / "disc.tar.gz", some[40:60], "w:gz")
    zipped(source / "disc.zip", some[60:])
    for number, sample in enumerate(sendable()):
        shutil.copy(sample.path, source / f"sample-{number}")
        files[sample.sop_instance_uid] = sample.path.read_bytes()
    uid, data = made(999, filler=os.urandom(20_000_000))
    (source / "large").write_bytes(part10(data, uid))
    files[uid] = part10(data, uid)
    journal = tmp_path / "journal.jsonl"

    code, first = imported(str(source), *options(cluster, journal), "--verify", "all")
    assert (code, first["acknowledged"], first["stopped"]) == (0, len(files), None), first
    assert first["verified"]["checked"] == 2 * len(files)
    assert not first["verified"]["lost"] and not first["verified"]["altered"]
    assert first["left_out"] == {"not DICOM": 21, "header only": 20}
    assert_held(cluster, datasets(files))
    assert perenne("check-journal", str(journal), *options(cluster, journal)[:2]).exit_code == 0

    code, again = imported(str(source), *options(cluster, journal))
    assert (code, again["acknowledged"], again["already"]) == (0, 0, len(files))
    assert set(acknowledged(journal).values()) == {1}


def test_an_import_that_was_killed_goes_on_where_it_was(cluster: LocalCluster, tmp_path: Path) -> None:
    """Elsewhere an import that broke off is begun anew, or its second half is forgotten (dcm4chee #482, #2105)."""
    files = slices(2000, 300)
    source = tree(tmp_path / "old", list(files.values())[:150])
    tar(source / "rest.tar", list(files.values())[150:])
    journal = tmp_path / "journal.jsonl"
    command = [sys.executable, "-m", "perenne.cli", "import", str(source), *options(cluster, journal)]
    process = subprocess.Popen([*command, "--rate", "0.2"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def enough() -> bool:
        return journal.exists() and journal.read_bytes().count(b"acknowledged") >= 20

    wait_until(enough, [], "some are acknowledged")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = acknowledged(journal)
    assert 20 <= len(before) < len(files)
    with journal.open("ab") as file:
        file.write(b'{"event":"acknowl')  # killed in the middle of a line

    code, second = imported(str(source), *options(cluster, journal))
    assert (code, second["acknowledged"] + second["already"]) == (0, len(files))
    assert second["already"] == len(before)
    assert set(acknowledged(journal)) == set(files)
    assert_held(cluster, datasets(files))
    assert perenne("check-journal", str(journal), *options(cluster, journal)[:2]).exit_code == 0


def test_more_classes_than_one_association_can_name(cluster: LocalCluster, tmp_path: Path) -> None:
    files: dict[str, bytes] = {}
    for number in range(160):
        uid, data = made(3000 + number, filler=FILLER)
        private = f"1.2.826.0.1.3680043.10.1337.9.{number % 140:03d}".encode().ljust(40, b"0")[:33]
        data = (
            data[:6]
            + len(private + b"\0").to_bytes(2, "little")
            + private
            + b"\0"
            + data[data.index(b"\x08\0\x18\0") :]
        )
        files[uid] = part10(data, uid, sop_class=private.decode())
    tree(tmp_path / "old", files.values())
    code, done = imported(str(tmp_path / "old"), *options(cluster, tmp_path / "journal.jsonl"))
    assert (code, done["acknowledged"]) == (0, 160), done
    assert_held(cluster, datasets(files))


def test_one_uid_with_two_contents_keeps_both(cluster: LocalCluster, tmp_path: Path) -> None:
    """Elsewhere the second overwrites the first, is dropped, or takes it along when it goes (dcm4chee #4754, #1945)."""
    (uid, one), (_, other) = made(4000, filler=b"one " * 500), made(4000, filler=b"two " * 500)
    tree(tmp_path / "old", [part10(one, uid), part10(other, uid), part10(one, uid)])
    journal = tmp_path / "journal.jsonl"
    code, done = imported(str(tmp_path / "old"), *options(cluster, journal), "--associations", "1", "--verify", "all")
    assert (code, done["acknowledged"] + done["already"]) == (0, 3)
    for node in cluster.nodes:
        log = b"".join(path.read_bytes() for path in sorted((node.data_dir / "log").glob("*.tar")))
        assert log.count(one) == 1 and log.count(other) == 1


def test_the_next_node_is_asked_when_one_is_not_there(cluster: LocalCluster, tmp_path: Path) -> None:
    tree(tmp_path / "old", slices(5000, 12).values())
    (dead,) = free_ports(1)
    to = ["--to", f"127.0.0.1:{dead}", "--to", f"127.0.0.1:{cluster.nodes[0].dicom_port}"]
    code, done = imported(str(tmp_path / "old"), *to, "--journal", str(tmp_path / "journal.jsonl"))
    assert (code, done["acknowledged"]) == (0, 12)


def test_a_cluster_that_takes_nothing_ends_the_import_and_it_goes_on_later(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    tree(tmp_path / "old", slices(6000, 5).values())
    journal = tmp_path / "journal.jsonl"
    (dead,) = free_ports(1)
    stopped = perenne(
        "import", str(tmp_path / "old"), "--to", f"127.0.0.1:{dead}", "--journal", str(journal), "--patience", "0"
    )
    assert stopped.exit_code == 1
    assert "stopped: " in stopped.stdout and f"goes on from {journal}" in stopped.stdout
    code, done = imported(str(tmp_path / "old"), *options(cluster, journal))
    assert (code, done["acknowledged"]) == (0, 5)


def test_what_the_archive_refuses_is_named_with_its_reason(tmp_path: Path) -> None:
    (uid, one), (_, other) = made(1, filler=b"one "), made(1, filler=b"two ")
    source = tree(tmp_path / "old", [part10(one, uid), part10(other, uid)])
    (source / "cut").write_bytes(part10(one[:60], uid))
    (source / "broken off").write_bytes(part10(one, uid)[:-2])
    journal = tmp_path / "journal.jsonl"
    refusing = '[cluster]\nallow_solo = true\nconflict_policy = "refuse"\n'
    with standalone(tmp_path / "n", refusing) as node:
        wait_until(node.ready, [signalled(node.running)], "the node takes stores")
        arguments = ["import", str(source), "--to", f"127.0.0.1:{node.dicom_port}", "--journal", str(journal)]
        done = perenne(*arguments, "--associations", "1", "--dry-run")
        assert done.exit_code == 1 and "would send         2 of class" in done.stdout
        assert not list(events(journal))
        done = perenne(*arguments, "--associations", "1")
        assert done.exit_code == 1
        assert "1 acknowledged" in done.stdout and "3 refused or unreadable" in done.stdout
        lines = [json.loads(line) for line in (tmp_path / "journal.jsonl.left-out").read_text().splitlines()]
        assert {(line["what"], line.get("status")) for line in lines} == {("refused", 0x0111), ("unreadable", None)}
        broken = next(line for line in lines if line["name"].endswith("broken off"))
        assert (broken["why"], broken["uid"]) == ("it is cut short within its pixel data (7FE0,0010)", uid)
        refused = next(line for line in lines if line["what"] == "refused")
        assert "F000001" in refused["name"] and refused["uid"] == uid


def test_bad_usage_is_said_before_anything_is_read(tmp_path: Path) -> None:
    there = str(tmp_path)
    journal = ["--journal", str(tmp_path / "j")]
    for arguments, said in (
        ([there], "where to?"),
        ([there, "--to", "n1"], "HOST:PORT"),
        ([str(tmp_path / "missing"), "--to", "n1:1"], "no such file"),
        ([there, "--to", "n1:1", "--verify", "all"], "--url"),
        ([there, "--to", "n1:1", "--url", "x:1", "--verify", "some"], "write all, or a number"),
    ):
        done = perenne("import", *arguments, *journal)
        assert (done.exit_code, said in done.stderr) == (2, True), done.stderr
        assert "Traceback" not in done.stderr
