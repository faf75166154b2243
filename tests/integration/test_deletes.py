"""Deleting as operators do it, on a real cluster: two persons, holds, rules, and the way back."""

import json
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from perenne.cli.commands import app
from perenne.journal import ACKNOWLEDGED, DELETED, DELETING, OFFERED, Journal, digest_of
from perenne.local.cluster import LocalCluster
from storage.digest import part10_meta_length
from tests.integration import rig
from tests.integration.rig import made, running_cluster, store

TWO = '[retention]\napproval = "two-person"\nrules = "modality=US age=1d since=arrival"\ngrace_days = 0\n\n'
STUDY = "1.2.826.0.1.3680043.10.1337.77"


class Operator:
    """Somebody with a shell."""

    def __init__(self, cluster: LocalCluster, name: str) -> None:
        self._where = ("--zookeeper", f"127.0.0.1:{cluster.zookeeper_port}", "--json")
        self._name = name

    def types(self, *words: str, code: int = 0) -> dict[str, Any]:
        """Run one verb; check its exit code, and return its document."""
        named = () if words[-1] == "list" else ("--as", self._name)
        done = CliRunner().invoke(app, [*words, *named, *self._where])
        assert done.exit_code == code, (words, done.output, done.exception)
        found: dict[str, Any] = json.loads(done.output)
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

        due = CliRunner().invoke(app, ["retention", "plan", "--config", str(cluster.nodes[0].config), "--json"])
        assert (due.exit_code, json.loads(due.output)["studies"]) == (0, 0), "it says no modality: it stays"
    journal.close()


def urls(cluster: LocalCluster) -> list[str]:
    return [f"127.0.0.1:{node.http_port}" for node in cluster.nodes]
