"""Deleting as operators do it, on a real cluster: two persons, holds, rules, and the way back."""

import asyncio
import json
import struct
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from perenne.bench.load import CT, EXPLICIT_LE
from perenne.cli.commands import app
from perenne.dimse.sender import Sender
from perenne.journal import ACKNOWLEDGED, DELETED, DELETING, OFFERED, Journal, digest_of
from perenne.local.cluster import LocalCluster, LocalNode
from perenne.local.processes import wait_until
from storage.digest import part10_meta_length
from tests.integration import rig
from tests.integration.rig import SOLO, made, running_cluster, signalled, standalone, store

TWO = '[retention]\napproval = "two-person"\nrules = "modality=US age=10y since=study"\ngrace_days = 0\n\n'
STUDY = "1.2.826.0.1.3680043.10.1337.77"


class Operator:
    """Somebody with a shell."""

    def __init__(self, cluster: LocalCluster, name: str) -> None:
        self._where = ("--zookeeper", f"127.0.0.1:{cluster.zookeeper_port}", "--json")
        self._name = name

    def types(self, *words: str, code: int = 0, unnamed: bool = False) -> dict[str, Any]:
        """Run one verb; check its exit code, and return its document."""
        named = () if unnamed or words[-1] == "list" else ("--as", self._name)
        done = CliRunner().invoke(app, [*words, *named, *self._where])
        assert done.exit_code == code, (words, done.output, done.exception)
        found: dict[str, Any] = json.loads(done.stdout)
        return found


def read(cluster: LocalCluster, uid: str) -> set[int]:
    """What the nodes answer, all of them."""
    return {node.get(f"/instances/{uid}", timeout=15)[0] for node in cluster.nodes}


def test_two_persons_delete_a_study_and_one_brings_it_back(tmp_path: Path) -> None:
    images = [made(number, filler=bytes(number * 1000)) for number in range(1, 5)]
    journal = Journal(tmp_path / "journal.jsonl")
    with running_cluster(tmp_path / "c", 2, TWO) as cluster:
        assert {status for status, _ in store(cluster.nodes[1], *images)} == {0}
        for uid, data in images:
            journal.note(OFFERED, uid, dataset=digest_of(data))
            journal.note(ACKNOWLEDGED, uid, dataset=digest_of(data))
        anna, berg = Operator(cluster, "Anna"), Operator(cluster, "Dr. Berg")

        held = ("retention", "hold")
        anna.types(*held, "add", STUDY, "--reason", "court order")
        assert anna.types(*held, "list")["holds"][0]["by"] == "Anna"
        wish = ("delete", "--study", STUDY, "--reason", "wrong patient", "--yes")
        assert "on legal hold" in anna.types(*wish, code=1)["cause"]
        anna.types(*held, "remove", STUDY, "--reason", "settled")

        mistyped = ("--study", "1.2.3.4.5")
        assert anna.types("delete", "--study", STUDY, *mistyped, "--dry-run", code=1)["nothing_under"] == ["1.2.3.4.5"]
        plan = anna.types("delete", "--study", STUDY, "--dry-run")
        assert {item["instance"] for item in plan["items"]} == {uid for uid, _ in images}
        request = anna.types(*wish)["request"]
        assert read(cluster, images[0][0]) == {200}, "a request deletes nothing"
        mine = Operator(cluster, "  anna ").types("delete", "approve", request, "--yes", code=1)
        assert "a second person" in mine["cause"]
        late = made(9)
        assert store(cluster.nodes[0], late)[0][0] == 0
        for uid, _ in images:
            journal.note(DELETING, uid)
        assert berg.types("delete", "approve", request, "--yes")["deleted"] == 4
        for uid, _ in images:
            journal.note(DELETED, uid)
        assert anna.types("delete", "list")["requests"][0]["state"] == "approved by Dr. Berg"
        cluster.wait_for(lambda: all(read(cluster, uid) == {410} for uid, _ in images), "every node says: deleted")
        assert read(cluster, late[0]) == {200}, "it came after the request"
        checked = rig.perenne("check-journal", str(tmp_path / "journal.jsonl"), *(urls(cluster)))
        assert (checked.returncode, checked.stdout) == (
            0,
            "0 acknowledged, 4 deleted, 0 of them back, 8 answers from 2 nodes: 0 lost, 0 altered, 0 unavailable\n",
        )

        sender = Journal(tmp_path / "sender.jsonl")  # it knows nothing of the delete
        sender.note(ACKNOWLEDGED, images[0][0], dataset=digest_of(images[0][1]))
        sender.close()
        checked = rig.perenne("check-journal", str(tmp_path / "sender.jsonl"), *(urls(cluster)))
        assert checked.returncode == 1 and "somebody deleted it there (HTTP 410): 1 times" in checked.stdout

        assert store(cluster.nodes[1], images[0])[0][0] == 0
        cluster.wait_for(lambda: read(cluster, images[0][0]) == {200}, "it was stored again, and is a new one")
        back = rig.perenne("check-journal", str(tmp_path / "journal.jsonl"), *(urls(cluster)))
        assert back.returncode == 1 and f"returned: {images[0][0]}" in back.stdout
        assert anna.types("delete", "undo", request, "--yes")["back"] == 3
        for uid, data in images:
            _, content = cluster.nodes[0].get(f"/instances/{uid}", timeout=15)
            assert content[part10_meta_length(content) :] == data
        nothing = anna.types("delete", "undo", request, "--yes", code=1)
        assert "not back already" in nothing["cause"]

        rules = ("--config", str(cluster.nodes[0].config))
        old = scan_of_2010(cluster.nodes[0])
        due = anna.types("retention", "plan", *rules, unnamed=True)["due"]
        assert [(row["study"], row["study_date"]) for row in due] == [(OLD, "20100102")], "the others say no modality"
        (kept,) = anna.types("retention", "run", *rules, "--yes")["requests"]
        berg.types("delete", "approve", kept, "--yes")
        cluster.wait_for(lambda: read(cluster, old) == {410}, "what was due is deleted")
        assert anna.types("retention", "plan", *rules, unnamed=True)["due"] == []
    journal.close()


OLD = "1.2.826.0.1.3680043.10.1337.78"


def scan_of_2010(node: LocalNode) -> str:
    """Store an ultrasound image of a study of its own; return its UID."""
    uid = f"{OLD}.1"

    def element(group: int, tag: int, vr: bytes, text: str) -> bytes:
        value = text.encode() + (b"\0" if vr == b"UI" else b" ") * (len(text) % 2)
        return struct.pack("<HH2sH", group, tag, vr, len(value)) + value

    names = [element(8, 0x16, b"UI", CT), element(8, 0x18, b"UI", uid), element(8, 0x20, b"DA", "20100102")]
    names += [element(8, 0x60, b"CS", "US"), element(0x20, 0x0D, b"UI", OLD), element(0x20, 0x0E, b"UI", f"{OLD}.0")]
    assert store(node, (uid, b"".join(names) + struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OW", 0, 4) + b"1234"))[0][0] == 0
    return uid


def urls(cluster: LocalCluster) -> list[str]:
    return [f"127.0.0.1:{node.http_port}" for node in cluster.nodes]


def sent_as(calling_ae: str, node: LocalNode, image: tuple[str, bytes]) -> int | None:
    async def send() -> int | None:
        context = [(CT, [EXPLICIT_LE])]
        async with await Sender.associate("127.0.0.1", node.dicom_port, context, calling_ae=calling_ae) as sender:
            return (await sender.store(CT, image[0], EXPLICIT_LE, [image[1]])).status

    return asyncio.run(send())


def test_a_standalone_node_deletes_through_its_data_directory(tmp_path: Path) -> None:
    images = [made(number) for number in range(3)]
    with standalone(tmp_path / "n", SOLO) as node:
        wait_until(node.ready, [signalled(node.running)], "the node takes stores")
        assert {status for status, _ in store(node, *images)} == {0}
        where = ("--config", str(node.config), "--json")

        def typed(*words: str) -> dict[str, Any]:
            done = CliRunner().invoke(app, [*words, *where])
            assert done.exit_code == 0, (words, done.output, done.exception)
            found: dict[str, Any] = json.loads(done.output)
            return found

        request = typed("delete", "--instance", images[0][0], "--reason", "blurred", "--as", "Anna", "--yes")["request"]
        assert [node.get(f"/instances/{uid}", timeout=15)[0] for uid, _ in images] == [410, 200, 200]
        assert [sent_as(calling, node, images[0]) for calling in ("IMPORT", "PERENNE-LOST")] == [0x0124, 0x0124]
        assert typed("delete", "undo", request, "--as", "Anna", "--yes")["back"] == 1
        assert node.get(f"/instances/{images[0][0]}", timeout=15)[0] == 200
        assert not list((node.data_dir / "ops").iterdir()), "orders are taken away again"
    refused = CliRunner().invoke(app, ["delete", "--study", STUDY, "--yes", *where])
    assert (refused.exit_code, refused.stdout) == (2, ""), "it says no reason"
