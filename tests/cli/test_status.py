"""Goal: `perenne status` and `/status` call nothing "ok" that needs a person. Method: made-up answers of nodes."""

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from monitoring.health import judge
from perenne.cli import status
from perenne.cli.commands import app
from perenne.nodeaccess import NodeAccess
from tests.monitoring.real_node import node_in


def node(name: str, **changed: Any) -> dict[str, Any]:
    """A healthy member of three, led by n1."""
    leads = name == "n1"
    facts: dict[str, Any] = {
        "node": name,
        "role": "leader" if leads else "follower",
        "leader": "n1",
        "in_sync": ["n1", "n2", "n3"],
        "positions": {"committed": 7, "end": 7},
        "lags": [{"replica": n, "in_sync": True, "records": 0} for n in ("n2", "n3")] if leads else [],
        "instances": 5,
        "conflicts": [],
        "conflict_count": 0,
        "disk": {"free_bytes": 2**30, "damaged_records": 0},
        "lost_and_found": 0,
        "refusal": None,
        "frozen": None,
        "fenced": None,
        "not_standing": None,
    }
    return facts | changed


def shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *nodes: dict[str, Any]
) -> tuple[int, str, dict[str, Any]]:
    answers = {f"http://{number}": facts for number, facts in enumerate(nodes)}

    def ask(address: str, access: NodeAccess) -> dict[str, Any]:
        return answers[address]

    monkeypatch.setattr(status, "_ask", ask)
    code = status.show(list(answers), NodeAccess(), as_json=False)
    table = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert status.show(list(answers), NodeAccess(), as_json=True) == code
    return code, table, json.loads(capsys.readouterr().out)


def test_a_healthy_cluster_is_ok(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, facts = shown(monkeypatch, capsys, node("n1"), node("n2"), node("n3"))
    assert (code, facts["health"]) == (0, "ok")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"disk": {"free_bytes": 1, "damaged_records": 2}}, "2 damaged records"),
        ({"lost_and_found": 3}, "3 files in lost+found"),
        ({"lags": [{"replica": "n3", "in_sync": False, "records": 9}]}, "n3 not in sync"),
        ({"in_sync": ["n2", "n3"]}, "not in sync"),
        ({"coordination": {"connected": False, "fresh_seconds": 60.0}}, "no connection to ZooKeeper"),
    ],
)
def test_what_needs_a_person_is_degraded(
    changed: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, table, facts = shown(monkeypatch, capsys, node("n1", **changed), node("n2"), node("n3"))
    assert (code, facts["health"]) == (1, "degraded")
    assert reason in facts["nodes"][0]["reasons"]
    assert "degraded" in table


def test_without_a_leader_each_node_shows_what_it_knows_and_why_it_does_not_lead(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    alone: dict[str, Any] = {"role": "follower", "leader": None, "refusal": "no leader is known", "lags": []}
    one = node("n1", **alone, in_sync=["n1", "n2"], not_standing="the log has damaged or unsettled records")
    two = node("n2", **alone, in_sync=["n1"], not_standing="not in the in-sync set")
    code, table, facts = shown(monkeypatch, capsys, one, two)
    assert code == 2
    assert "yes, knows n1 n2" in table
    assert "no, knows n1" in table
    assert "cannot lead: the log has damaged or unsettled records" in facts["nodes"][0]["reasons"]
    assert judge(two) == ("cannot store", ["no leader is known", "cannot lead: not in the in-sync set"])


def test_the_tier_has_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    tier = {"mode": "standby", "in_sync": False, "behind": 3, "failed": None}
    code, table, _ = shown(monkeypatch, capsys, node("n1", tier=tier), node("n2", tier=tier))
    assert "tier (standby): follows, 3 records behind, answers" in table
    assert code == 0
    gone = tier | {"failed": "it is full"}
    code, table, _ = shown(monkeypatch, capsys, node("n1", tier=gone))
    assert code == 1 and "it is full" in table
    packed = tier | {"orphans": 2, "packing": {"kept": 7, "spoiled": 1}}
    code, table, facts = shown(monkeypatch, capsys, node("n1", tier=packed))
    assert code == 1 and "2 orphans, 7 replaced objects that the bucket keeps, 1 segments with another" in table
    assert "1 segment has another content" in facts["nodes"][0]["reasons"][0]


def test_a_node_that_evicts_has_a_line_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    held = {"local_segments": 3, "tier_only_segments": 8, "tier_only_bytes": 2**31, "why_not": None}
    code, table, _ = shown(monkeypatch, capsys, node("n1"), node("n2", capacity=held))
    assert code == 0 and "n2: 3 segments here, 8 (2.0 GiB) in the tier only" in table
    stuck = held | {"tier_only_segments": 0, "why_not": "only 0 of 1 other members keep all"}
    code, table, _ = shown(monkeypatch, capsys, node("n1"), node("n2", capacity=stuck))
    assert code == 1 and "nothing is evicted: only 0 of 1 other" in table and "segments here" not in table


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "No such file"),
        ("no json", "no cluster.json"),
        ("{}", "no cluster.json"),
        ('{"nodes": []}', "no cluster"),
    ],
)
def test_a_cluster_file_that_cannot_be_used_is_named(tmp_path: Path, content: str | None, why: str) -> None:
    file = tmp_path / "cluster.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(status.NoCluster, match=why) as caught:
        status.addresses([], file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("address", ["http://n1:99999", "http://[::1", "ftp://n1:11112", "n1:0", "http://:8080"])
def test_what_is_no_address_of_a_node_is_refused_and_not_asked(tmp_path: Path, address: str) -> None:
    """Of the journal's checker exit code 1, which a traceback has too, says that something is lost."""
    journal = tmp_path / "journal.jsonl"
    journal.write_text('{"event":"acknowledged","uid":"1.1","at":1.0,"dataset":"aa"}\n')
    for words in (["check-journal", str(journal), address], ["status", address]):
        done = CliRunner().invoke(app, words)
        assert (done.exit_code, done.stdout) == (2, "")
        assert f"{address!r} is not http://HOST:PORT" in done.stderr


def test_who_asks_wrongly_is_told_how_to_ask(tmp_path: Path) -> None:
    """A node that speaks https, and one port where nobody speaks TLS."""

    def asked(*words: str) -> str:
        done = CliRunner().invoke(app, ["status", "--json", *words])
        assert done.exit_code == 2
        return str(json.loads(done.stdout)["nodes"][0]["error"])

    async def play() -> None:
        async with node_in(tmp_path) as node:
            port = node.http.port
            assert "it may speak https" in await asyncio.to_thread(asked, f"http://127.0.0.1:{port}")
            assert "give --config" in await asyncio.to_thread(asked, f"https://127.0.0.1:{port}")
            assert "it may speak plain http" in await asyncio.to_thread(asked, f"https://127.0.0.1:{spoken}")

    with ThreadingHTTPServer(("127.0.0.1", 0), Wants) as plain:
        spoken = plain.server_address[1]
        threading.Thread(target=plain.serve_forever, daemon=True).start()
        asyncio.run(play())
        assert "it wants a token" in asked(f"http://127.0.0.1:{spoken}")
        plain.shutdown()


class Wants(BaseHTTPRequestHandler):
    """Somebody who wants a token."""

    def do_GET(self) -> None:
        self.send_error(401)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is written."""
