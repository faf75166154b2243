"""Goal: an operator's verb says what is, names who is missing, and foresees what would be refused.

Method: the command line on a real cluster, one node of which is killed.
"""

import json
from pathlib import Path
from typing import Any

from perenne.local.cluster import LocalCluster
from tests.integration.rig import follower, leader, made, running_cluster, signalled, store
from tests.moving.console import perenne

STUDY = "1.2.826.0.1.3680043.10.1337.77"
ABSENT = "1.2.826.0.1.3680043.10.1337.99"


class Typed:
    """Verbs as one operator types them, and what they say."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._where = ("--zookeeper", f"127.0.0.1:{cluster.zookeeper_port}")

    def __call__(self, *words: str, code: int = 0) -> dict[str, Any]:
        done = perenne(*words, *self._where, "--json")
        assert done.exit_code == code, (words, done.output)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def refused(self, *words: str) -> str:
        done = perenne(*words, *self._where)
        assert (done.exit_code, done.stdout) == (2, ""), (words, done.output)
        return done.stderr


def test_what_is_not_there_is_not_said_to_be_done(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "c", 2) as cluster:
        assert store(cluster.nodes[0], made(1))[0][0] == 0
        typed = Typed(cluster)
        hold, why = ("retention", "hold"), ("--reason", "court order")

        assert "no study" in typed(*hold, "add", ABSENT, *why, code=1)["cause"]
        assert "not on hold" in typed(*hold, "remove", STUDY, *why, code=1)["cause"]
        assert typed(*hold, "list")["holds"] == []
        typed(*hold, "add", ABSENT, *why, "--even-if-absent")
        typed(*hold, "add", STUDY, *why)
        assert {held["study"] for held in typed(*hold, "list")["holds"]} == {ABSENT, STUDY}
        for study in (ABSENT, STUDY):
            typed(*hold, "remove", study, *why)
        assert typed(*hold, "list")["holds"] == []

        _add_is_refused_where_somebody_is(cluster, tmp_path)
        _while_a_node_is_down(cluster, typed)


def _add_is_refused_where_somebody_is(cluster: LocalCluster, tmp_path: Path) -> None:
    first, second = cluster.nodes
    free = ("--dicom-port", "1", "--http-port", "2", "--peer-port", "3")

    def added(directory: Path, *ports: str) -> tuple[int, str]:
        where = ("--config", str(first.config), "--data-dir", str(directory), "--output", str(tmp_path / "n9.toml"))
        done = perenne("node", "add", "n9", *where, *ports, "--no-wait")
        return done.exit_code, done.stderr

    assert added(tmp_path / "new") == (1, added(tmp_path / "new")[1])
    for ports, words in (
        ((), f"{first.id} runs on 127.0.0.1 with port"),
        ((*free[:-1], str(second.dicom_port)), f"{second.id} runs on 127.0.0.1 with port {second.dicom_port}"),
        ((*free[:-1], "2"), "one port twice"),
    ):
        code, said = added(tmp_path / "new", *ports)
        assert code == 1 and words in said, said
    for taken, words in ((first.data_dir, "the model's own"), (second.data_dir, f"belongs to node {second.id}")):
        code, said = added(taken, *free)
        assert code == 1 and words in said, said
    assert not (tmp_path / "n9.toml").exists(), "a refused add writes nothing"
    assert added(tmp_path / "new", *free)[0] == 0


def _while_a_node_is_down(cluster: LocalCluster, typed: Typed) -> None:
    stays, goes = leader(cluster), follower(cluster)
    assert typed("switchover", "--dry-run") == {
        "ok": True,
        "dry_run": True,
        "result": f"{stays.id} leads; {goes.id} could take over (nothing was changed)",
    }
    assert leader(cluster) is stays
    signalled(goes.running).kill()
    cluster.wait_for(lambda: stays.status()["in_sync"] == [stays.id] or not stays.ready(), "it is missed")
    wish = ("delete", "--study", STUDY, "--reason", "wrong patient")
    foreseen = typed(*wish, "--dry-run", code=1)
    assert [item["study"] for item in foreseen["items"]] == [STUDY]
    assert foreseen["refused"].startswith(f"not in sync: {goes.id}.")
    refused = perenne(*wish, "--yes", "--zookeeper", f"127.0.0.1:{cluster.zookeeper_port}")
    assert refused.exit_code == 1
    assert f"not in sync: {goes.id}." in refused.stderr and "waiting" not in refused.stderr, "it is said at once"
    assert "kazoo" not in refused.output.lower()

    found = typed("repair", "--dry-run", code=1)
    assert set(found) == {stays.id, goes.id}
    assert "does not run" in found[goes.id]["error"] and found[stays.id]["left"] == []
    assert f"no node n77 is registered: there are {', '.join(sorted((stays.id, goes.id)))}" in typed.refused(
        "repair", "--node", "n77"
    )
    assert "does not run" in typed("switchover", "--dry-run", "--to", goes.id, code=1)["result"]
