"""`perenne check-journal`: what senders were told is compared with what every node serves."""

import json
from pathlib import Path

from perenne.journal import ACKNOWLEDGED, BROKEN, DELETED, OFFERED, Event, Journal, digest_of, events, owed
from perenne.local.processes import wait_until
from tests.integration.rig import SOLO, made, perenne, signalled, standalone, store


def test_the_checker_tells_kept_from_lost_altered_and_unavailable(tmp_path: Path) -> None:
    with standalone(tmp_path / "n", SOLO) as node:
        wait_until(node.ready, [signalled(node.running)], "the node takes stores")
        instances = [made(number, filler=bytes(number * 1000)) for number in range(5)]
        assert {status for status, _ in store(node, *instances)} == {0}
        address = f"127.0.0.1:{node.http_port}"
        path = tmp_path / "journal.jsonl"
        journal = Journal(path)
        for uid, data in instances:
            journal.note(OFFERED, uid, dataset=digest_of(data))
            journal.note(ACKNOWLEDGED, uid, dataset=digest_of(data))
        journal.note(OFFERED, "1.2.3.9", dataset="00")
        journal.note(BROKEN, "1.2.3.9", dataset="00")

        kept = perenne("check-journal", str(path), address)
        assert (kept.returncode, kept.stdout) == (
            0,
            "5 acknowledged, 5 answers from 1 nodes: 0 lost, 0 altered, 0 unavailable\n",
        )
        journal.note(ACKNOWLEDGED, "1.2.3.4", dataset=digest_of(b"never sent"))
        lost = perenne("check-journal", str(path), address, "--json")
        assert lost.returncode == 1
        assert json.loads(lost.stdout)["lost"] == [{"node": f"http://{address}", "uid": "1.2.3.4"}]
        journal.note(DELETED, "1.2.3.4")
        assert perenne("check-journal", str(path), address).returncode == 0

        other = tmp_path / "other.jsonl"
        claims = Journal(other)
        claims.note(ACKNOWLEDGED, instances[0][0], dataset=digest_of(b"other bytes"))
        altered = perenne("check-journal", str(other), address)
        assert altered.returncode == 1
        assert f"altered: {instances[0][0]}" in altered.stdout
        journal.close()
        claims.close()
    silent = perenne("check-journal", str(path), address)
    assert silent.returncode == 3
    assert "6 unavailable" in silent.stdout  # the deleted one as well


def test_a_journal_whose_writer_died_in_a_line_counts_up_to_there(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.note(OFFERED, "1.2", dataset="aa")
    journal.note(ACKNOWLEDGED, "1.2", dataset="aa")
    journal.close()
    with path.open("a") as file:
        file.write('{"event":"acknowledged","uid":"1.3"')
    assert {uid: debt.datasets for uid, debt in owed(events(path)).items()} == {"1.2": {"aa"}}
    with path.open("a") as file:
        file.write("\n")
    spoilt = perenne("check-journal", str(path), "127.0.0.1:1")
    assert spoilt.returncode == 2
    assert "line 3 is no event" in spoilt.stderr


def test_both_versions_of_a_conflict_are_owed_and_a_delete_ends_the_debt() -> None:
    history = [
        Event(OFFERED, "1", 0.0, "aa"),
        Event(ACKNOWLEDGED, "1", 1.0, "aa"),
        Event(OFFERED, "1", 2.0, "bb"),
        Event(ACKNOWLEDGED, "1", 3.0, "bb"),
    ]
    assert owed(history)["1"].datasets == {"aa", "bb"}
    assert owed([*history, Event(DELETED, "1", 4.0)])["1"].datasets == set()
