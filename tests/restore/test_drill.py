"""`perenne drill`: what it restores it proves, it leaves nothing behind, and the node tells how the last one went."""

import asyncio
import json
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import cast

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from typer.testing import CliRunner

from monitoring.drill import DrillMetrics
from perenne.cli.commands import app
from perenne.drillcomparing import compared_with
from perenne.nodeaccess import NodeAccess
from replication.coordination.port import ClusterRecord
from replication.tier.keys import Run
from replication.tier.manifest import claim_for
from storage.digest import digests_of
from storage.disk import RealDisk
from storage.log import Log
from storage.metadata import NodeIdentity, write_identity
from storage.position import LogPosition, RecordHeader, RecordKind
from tests.restore.archive import IDENTITY, Archive, groups, put
from tests.tier.rig import directory_reached


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A node's directory with its configuration, and a tier with 132 records."""
    archive = Archive.begin(tmp_path / "data", IDENTITY)
    archive.epoch(1)
    archive.instances(70)
    archive.epoch(4)
    archive.instances(60)
    asyncio.run(put(directory_reached(tmp_path / "san").store, archive.log, groups(archive.log, 20)))
    archive.sealed()
    (tmp_path / "node.toml").write_text(
        f'[node]\nid = "n1"\ndata_dir = "{tmp_path}/data"\n[cluster]\nsegment_bytes = {IDENTITY.segment_bytes}\n'
        f'[tier]\nkind = "directory"\ndirectory = "{tmp_path}/san"\n'
    )
    return tmp_path


def drill(place: Path, *more: str) -> tuple[int, dict[str, object]]:
    done = CliRunner().invoke(app, ["drill", "--config", str(place / "node.toml"), "--json", *more])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    facts: dict[str, object] = json.loads(done.stdout) if done.stdout.startswith("{") else {"cause": done.output}
    assert not list(place.glob("perenne-drill-*")), "nothing is left behind"
    return done.exit_code, facts


def metrics(place: Path) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(DrillMetrics(place / "data" / "drill.json"))
    lines = generate_latest(registry).decode().splitlines()
    return {line.split()[0]: float(line.split()[1]) for line in lines if not line.startswith("#")}


def runs(place: Path) -> list[Run]:
    log, _ = Log.open(RealDisk(place / "data"), IDENTITY, host_rebooted=False, spares=0)
    names = [Run(log.epochs()[0].epoch, 21, 40, log.point_at(40).chain[:8])]  # type: ignore[union-attr]  # it is there
    log.close()
    return names


@pytest.mark.parametrize("choice", [("--newest", "3"), ("--sample", "5"), ("--all",)])
def test_a_drill_passes_and_is_noted(place: Path, choice: tuple[str, ...]) -> None:
    assert metrics(place)["perenne_drill_last_success_timestamp_seconds"] == 0
    code, facts = drill(place, *choice)
    assert (code, facts["passed"], facts["wrong"]) == (0, True, []), facts
    assert facts["of_records"] == 132
    assert facts["records"] == {"--newest": 41, "--all": 132}.get(choice[0], facts["records"])
    found = metrics(place)
    assert found["perenne_drill_passed"] == 1
    assert found["perenne_drill_last_success_timestamp_seconds"] > 1_700_000_000
    assert found["perenne_drill_bytes"] == facts["bytes"]


@pytest.mark.parametrize("choice", [("--sample", "132"), ("--all",)])
def test_a_drill_fails_on_what_a_restore_would_lack(place: Path, choice: tuple[str, ...]) -> None:
    assert drill(place, *choice)[0] == 0
    before = metrics(place)
    (run,) = runs(place)
    path = place / "san" / run.key
    data = bytearray(path.read_bytes())
    data[30_000] ^= 1
    path.write_bytes(data)
    code, facts = drill(place, *choice)
    assert code == 1 and run.key in str(facts["wrong"]), facts
    path.unlink()
    code, facts = drill(place, *choice)
    assert code == 1 and facts["missing"] == [{"first": 21, "last": 40, "why": []}]
    after = metrics(place)
    name = "perenne_drill_last_success_timestamp_seconds"
    assert after["perenne_drill_passed"] == 0 and after[name] == before[name]


def test_the_tier_of_another_cluster_is_no_road_back_for_this_one(place: Path) -> None:
    """It holds everything, and proves; and the node that has this directory would show that its drills pass."""
    write_identity(RealDisk(place / "other"), NodeIdentity("another", "n1", "disk-1"))
    for name in ("node.json", "promise"):
        (place / "other" / name).rename(place / "data" / name)
    assert drill(place, "--all")[0] == 0, "nothing says whose it is"
    (place / "data" / "drill.json").unlink()
    store = directory_reached(place / "san").store
    asyncio.run(claim_for(store, ClusterRecord(IDENTITY.cluster_id, 1, IDENTITY.segment_bytes)))
    code, facts = drill(place, "--all")
    assert code == 2
    assert "the tier belongs to cluster" in str(facts["cause"])
    assert not (place / "data" / "drill.json").exists()


def test_a_drill_is_refused_without_a_clear_wish(place: Path) -> None:
    assert drill(place, "--newest", "3", "--all")[0] == 2
    (place / "node.toml").write_text('[node]\nid = "n1"\n')
    assert drill(place, "--all")[0] == 2


def test_another_content_of_the_uid_is_no_difference_unless_the_node_lacks_ours() -> None:
    ours, current = b"what came back", b"what is current"
    listed = [ours, current]

    class Serves(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            rows = [{"digest": digests_of(RecordKind.INSTANCE, [one]).digest.hex()} for one in listed]
            body = json.dumps({"instances": rows}).encode() if "?instance=1.2&" in self.path else current
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    digests = digests_of(RecordKind.INSTANCE, [ours])
    position, path = LogPosition(1, 2), "study/series/1.2.v2.dcm"
    header = RecordHeader(position, RecordKind.INSTANCE, digests.dataset, digests.digest, 0, path, len(ours))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Serves)
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"127.0.0.1:{server.server_address[1]}"
    (same,) = compared_with([address], [header])
    assert (same.compared, same.differs, same.silent) == (1, [], "")
    listed.remove(ours)
    (other,) = compared_with([address], [header])
    assert (other.compared, other.differs, other.silent) == (1, [f"{path} at {address}: it serves other bytes"], "")
    server.shutdown()
    server.server_close()


def test_what_was_deleted_is_no_difference_and_a_silent_node_is_named_once() -> None:
    class Gone(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(410)

        def log_message(self, format: str, *args: object) -> None:
            pass

    position = LogPosition(1, 2)
    header = RecordHeader(position, RecordKind.INSTANCE, bytes(32), bytes(32), 0, "study/series/1.2.dcm", 1000)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Gone)
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"127.0.0.1:{server.server_address[1]}"
    (gone,) = compared_with([address], [header, header])
    assert (gone.compared, gone.differs, gone.silent) == (2, [], "")
    server.shutdown()
    server.server_close()
    (said,) = compared_with([address], [header, header])
    assert (said.compared, said.differs) == (0, []) and "did not answer" in said.silent


def test_a_node_that_wants_a_token_is_shown_it_and_named_once_where_there_is_none() -> None:
    ours = b"what came back"

    class Locked(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.headers["Authorization"] == "Bearer secret"
            self.send_response(200 if known else 401)
            self.send_header("Content-Length", str(len(ours) if known else 0))
            self.end_headers()
            self.wfile.write(ours if known else b"")

        def log_message(self, format: str, *args: object) -> None:
            pass

    digests = digests_of(RecordKind.INSTANCE, [ours])
    position, path = LogPosition(1, 2), "study/series/1.2.dcm"
    header = RecordHeader(position, RecordKind.INSTANCE, digests.dataset, digests.digest, 0, path, len(ours))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Locked)
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"127.0.0.1:{server.server_address[1]}"
    shown = NodeAccess(headers={"Authorization": "Bearer secret"})
    (allowed,) = compared_with([address], [header, header], shown)
    assert (allowed.compared, allowed.differs, allowed.silent) == (2, [], "")
    (said,) = compared_with([address], [header, header])
    assert (said.compared, said.differs) == (0, []) and "401" in said.silent and "token" in said.silent
    server.shutdown()
    server.server_close()


def test_a_drill_with_a_configuration_shows_its_token(place: Path) -> None:
    """A locked cluster is what the chart installs: a drill that could not ask it would always fail."""
    asked: list[str | None] = []

    class Locked(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.headers["Authorization"])
            self.send_error(410)

        def log_message(self, format: str, *args: object) -> None:
            pass

    (place / "token").write_text("s" * 40 + "\n")
    (place / "token").chmod(0o600)
    with (place / "node.toml").open("a") as file:
        file.write(f'[http]\ntoken_file = "{place}/token"\n')
    server = ThreadingHTTPServer(("127.0.0.1", 0), Locked)
    Thread(target=server.serve_forever, daemon=True).start()
    code, facts = drill(place, "--newest", "1", "--node", f"127.0.0.1:{server.server_address[1]}")
    server.shutdown()
    server.server_close()
    assert (code, facts["differs"]) == (0, []), facts
    assert asked and set(asked) == {f"Bearer {'s' * 40}"}


def test_a_node_that_does_not_answer_says_nothing_against_the_restore(place: Path) -> None:
    with socket.socket() as nobody:  # bound, and not listening
        nobody.bind(("127.0.0.1", 0))
        node = f"127.0.0.1:{nobody.getsockname()[1]}"
        code, facts = drill(place, "--newest", "3", "--node", node)
        told = CliRunner().invoke(app, ["drill", "-c", str(place / "node.toml"), "--newest", "3", "--node", node])
    assert (code, facts["passed"], facts["sound"], facts["compared"], facts["differs"]) == (1, False, True, 0, [])
    (asked,) = cast(list[dict[str, object]], facts["nodes"])
    assert asked["compared"] == 0 and cast(int, asked["of"]) > 20 and "did not answer" in str(asked["silent"])
    assert told.exit_code == 1
    assert f"http://{node} did not answer" in told.stdout
    assert f"0 of {asked['of']} instances could be compared" in told.stdout
    assert "what was restored is proved" in told.stdout and "would not bring everything back" not in told.stdout
    path = place / "san" / runs(place)[0].key
    path.unlink()
    told = CliRunner().invoke(app, ["drill", "-c", str(place / "node.toml"), "--all", "--node", node])
    assert told.exit_code == 1 and "would not bring everything back" in told.stdout
    assert "is proved" not in told.stdout


def test_instances_that_a_node_cannot_give_now_are_not_counted_as_compared() -> None:
    class Busy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_error(503 if "1.3" in self.path else 410)

        def log_message(self, format: str, *args: object) -> None:
            pass

    kind, uids = RecordKind.INSTANCE, ("1.3.1", "1.2", "1.3.2")
    headers = [RecordHeader(LogPosition(1, 2), kind, bytes(32), bytes(32), 0, f"s/s/{uid}.dcm", 9) for uid in uids]
    with ThreadingHTTPServer(("127.0.0.1", 0), Busy) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        (said,) = compared_with([f"127.0.0.1:{server.server_address[1]}"], headers)
        server.shutdown()
    assert (said.compared, said.wanted, said.differs) == (1, 3, [])
    assert said.silent.startswith("says 503")


def test_a_drill_that_brought_nothing_back_does_not_say_that_all_is_verified(place: Path) -> None:
    for path in (place / "san" / "log").rglob("*.tar"):
        content = bytearray(path.read_bytes())
        content[600] ^= 1
        path.write_bytes(content)
    done = CliRunner().invoke(app, ["drill", "--config", str(place / "node.toml"), "--all"])
    assert done.exit_code == 1
    assert "THE DRILL FAILED" in done.stdout
    assert "verified" not in done.stdout and "at this rate" not in done.stdout
