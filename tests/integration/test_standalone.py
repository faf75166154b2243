"""One node without a cluster: what it says, what it keeps, what it shows, and the commands that look at it."""

import json
import signal
import socket
import urllib.error
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from perenne.dimse.pdu import PDV_COMMAND
from perenne.local.cluster import LocalNode
from perenne.local.processes import wait_until
from storage.digest import part10_meta_length
from tests.dimse.helpers import association_request, pdvs, store_command
from tests.integration import rig
from tests.integration.rig import SOLO, made, perenne, standalone, store

REFUSE = 'conflict_policy = "refuse"\n'
NEWEST = 'conflict_policy = "newest"\n'


def ready(node: LocalNode) -> None:
    assert node.running is not None
    wait_until(node.ready, [node.running], "the node takes stores")


def read(node: LocalNode, uid: str) -> bytes:
    status, content = node.get(f"/instances/{uid}")
    assert status == 200, content
    return content[part10_meta_length(content) :]


def indexed(node: LocalNode, count: int) -> None:
    assert node.running is not None
    wait_until(lambda: rig.instances(node) == count, [node.running], f"{count} instances are indexed")


def head(node: LocalNode, path: str) -> tuple[int, bytes]:
    request = urllib.request.Request(f"http://127.0.0.1:{node.http_port}{path}", method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return int(answer.status), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def metrics(node: LocalNode) -> dict[str, float]:
    """Every sample by name and labels."""
    status, body = node.get("/metrics")
    assert status == 200
    samples = [s for family in text_string_to_metric_families(body.decode()) for s in family.samples]
    return {f"{s.name}{json.dumps(s.labels, sort_keys=True) if s.labels else ''}": s.value for s in samples}


def test_without_a_second_copy_it_refuses_and_names_the_ways_out(tmp_path: Path) -> None:
    with standalone(tmp_path / "n") as node:
        running = rig.signalled(node.running)
        wait_until(lambda: b"allow" in node.get("/readyz")[1], [running], "the node says what it lacks")
        (status, comment), *_ = store(node, made(1))
        assert status == 0xA700
        assert "allow_solo" in comment or "allow-solo" in comment, comment
        code, body = node.get("/readyz")
        assert code == 503
        assert b"allow" in body
        assert b"tier" in body
        for line in ("every C-STORE will be refused", "C-STORE answered A700"):
            said = lambda line=line: line in running.log.read_text()  # noqa: E731
            wait_until(said, [running], "the operator is told too: the ports are open before it is said")
        assert node.get("/livez")[0] == 200


def test_it_keeps_what_it_acknowledged_and_tells_the_truth_about_it(tmp_path: Path) -> None:
    one, two, three = made(1, filler=b"\x01\x02" * 500), made(2), made(3, filler=bytes(300_000))
    with standalone(tmp_path / "n", SOLO) as node:
        ready(node)
        first = metrics(node)
        assert [status for status, _ in store(node, one, two, three, one)] == [0, 0, 0, 0]
        assert read(node, one[0]) == one[1]
        assert read(node, three[0]) == three[1]
        indexed(node, 3)
        _health(node)
        last = metrics(node)
        assert first.keys() <= last.keys(), "every series is there from the start"
        assert last["perenne_stored_total"] == 3
        assert last["perenne_duplicates_total"] == 1
        assert last['perenne_store_seconds_count{"status": "0000"}'] == 4
        everything = json.dumps(last) + json.dumps(node.status())
        assert "DOE" not in everything
        assert "PID-4711" not in everything
        _commands(node)
        assert node.running is not None
        node.running.stop()
        log = (node.directory / "node.log").read_text()
        lines = [json.loads(line) for line in log.splitlines()]
        assert lines[-1]["message"] == "the node stopped"
        assert "DOE" not in log
        assert "PID-4711" not in log
        assert one[0] not in log
    with standalone(tmp_path / "n", SOLO) as node:
        ready(node)
        assert read(node, one[0]) == one[1]
        assert store(node, two)[0][0] == 0
        assert rig.instances(node) == 3
    _offline(node, one)


def test_a_node_that_drains_is_alive_and_not_ready(tmp_path: Path) -> None:
    """A load balancer must look elsewhere as soon as nobody new is let in, not when the last sender has gone."""
    with standalone(tmp_path / "n", SOLO) as node, socket.create_connection(("127.0.0.1", node.dicom_port)) as sender:
        ready(node)
        assert node.running is not None
        sender.sendall(association_request())
        assert sender.recv(1) == b"\x02"
        sender.sendall(pdvs(3, PDV_COMMAND, store_command()))
        node.running.signal(signal.SIGTERM)
        wait_until(lambda: node.get("/readyz") == (503, b"the node stops\n"), [node.running], "it is not ready", 5)
        assert node.get("/livez")[0] == 200
        assert node.status()["health"] == "cannot store"


def _health(node: LocalNode) -> None:
    for path, code in (("/livez", 200), ("/readyz", 200), ("/leader", 200), ("/metrics", 200), ("/status", 200)):
        assert node.get(path)[0] == code
        assert head(node, path) == (code, b"")
    assert node.get("/replica?max_lag=5") == (503, b"this node leads\n")
    assert head(node, "/replica") == (503, b"")
    assert node.get("/instances/1.2.3")[0] == 404
    assert head(node, "/instances/1.2.3") == (404, b"")
    assert node.get("/instances/not-a-uid")[0] == 400
    assert node.get("/nothing")[0] == 404
    facts = node.status()
    assert (facts["role"], facts["leader"], facts["in_sync"]) == ("leader", "solo", ["solo"])
    assert facts["positions"]["committed"] == facts["positions"]["end"]


def _commands(node: LocalNode) -> None:
    url = f"127.0.0.1:{node.http_port}"
    table = perenne("status", url)
    assert table.returncode == 0, table.stderr
    assert "solo" in table.stdout
    assert "leader" in table.stdout
    facts = json.loads(perenne("status", "--json", url).stdout)
    assert facts["health"] == "ok"
    assert facts["nodes"][0]["instances"] == 3
    nobody = perenne("status", "127.0.0.1:1")
    assert nobody.returncode == 2
    assert "no answer" in nobody.stdout
    refused = perenne("switchover", "--config", str(node.config))
    assert refused.returncode == 2
    assert "ZooKeeper" in refused.stderr


def _offline(node: LocalNode, one: tuple[str, bytes]) -> None:
    """The commands that need no node, on its directory: first whole, then with one byte flipped."""
    directory = str(node.data_dir)
    names = [json.loads(line) for line in perenne("log", "ls", "--json", directory).stdout.splitlines()]
    assert sum(found["kind"] == "instance" for found in names) == 3
    whole = perenne("log", "verify", directory)
    assert whole.returncode == 0, whole.stdout
    out = node.directory / "out"
    done = perenne("log", "extract", "--uid", one[0], directory, str(out))
    assert done.returncode == 0, done.stderr
    (file,) = (path for path in out.rglob("*") if path.is_file())
    content = file.read_bytes()
    assert content[part10_meta_length(content) :] == one[1]
    again = perenne("log", "extract", "--uid", one[0], directory, str(out))
    assert again.returncode == 1
    assert "exists already" in again.stderr
    segment = next(iter(sorted((node.data_dir / "log").glob("*.tar"))))
    damaged = bytearray(segment.read_bytes())
    damaged[damaged.index(b"\x01\x02" * 500) + 77] ^= 1
    segment.write_bytes(damaged)
    found = perenne("log", "verify", directory)
    assert found.returncode == 1
    assert "1 damaged" in found.stdout
    assert perenne("log", "extract", "--uid", one[0], directory, str(node.directory / "not")).returncode == 1
    nothing = perenne("log", "ls", str(node.directory / "nowhere"))
    assert nothing.returncode == 2
    assert "data_dir" in nothing.stderr


def test_other_bytes_under_a_known_uid_are_kept_beside_and_flagged(tmp_path: Path) -> None:
    first, other = made(1), made(1, patient=b"ROE^RICHARD")
    assert first[0] == other[0]
    with standalone(tmp_path / "n", SOLO) as node:
        ready(node)
        assert [status for status, _ in store(node, first, other, first, other)] == [0, 0, 0, 0]
        assert read(node, first[0]) == first[1], "the first stays current"
        indexed(node, 2)
        assert node.status()["conflicts"] == [first[0]]
        assert metrics(node)["perenne_conflicts_total"] == 1
        assert metrics(node)["perenne_duplicates_total"] == 2


def test_the_newest_bytes_are_current_where_the_policy_says_so(tmp_path: Path) -> None:
    first, other = made(1), made(1, patient=b"ROE^RICHARD")
    with standalone(tmp_path / "n", SOLO + NEWEST) as node:
        ready(node)
        assert [status for status, _ in store(node, first, other)] == [0, 0]
        assert read(node, first[0]) == other[1]


def test_other_bytes_are_refused_where_the_policy_says_so(tmp_path: Path) -> None:
    first, other = made(1), made(1, patient=b"ROE^RICHARD")
    with standalone(tmp_path / "n", SOLO + REFUSE) as node:
        ready(node)
        assert [status for status, _ in store(node, first, other, first)] == [0, 0x0111, 0]
        assert read(node, first[0]) == first[1]


def test_a_disk_below_its_reserve_refuses_stores_and_serves_what_it_has(tmp_path: Path) -> None:
    one = made(1)
    with standalone(tmp_path / "n", SOLO) as node:
        ready(node)
        assert store(node, one)[0][0] == 0
        assert node.running is not None
        node.running.stop()
    with standalone(tmp_path / "n", SOLO + f"[storage]\nreserve_bytes = {1 << 60}\n") as node:
        assert node.running is not None
        wait_until(lambda: b"full" in node.get("/readyz")[1], [node.running], "the node notices")
        status, comment = store(node, made(2))[0]
        assert status == 0xA700
        assert "full" in comment
        assert node.get("/livez")[0] == 200


def test_a_command_line_switch_makes_one_copy_enough(tmp_path: Path) -> None:
    with standalone(tmp_path / "n", "", "--allow-solo") as node:
        ready(node)
        assert store(node, made(1))[0][0] == 0


def test_a_second_process_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    with standalone(tmp_path / "n", SOLO) as node:
        second = perenne("node", "--config", str(node.config))
        assert second.returncode == 1
        assert "another process" in second.stderr
        assert node.get("/livez")[0] == 200


def test_mistakes_in_a_configuration_are_all_named(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('[node]\nid = "n1"\ndata_dri = "x"\n[cluster]\ncopies_required = "two"\n')
    done = perenne("config", "check", str(file))
    assert done.returncode == 2
    assert "data_dri" in done.stderr
    assert "copies_required" in done.stderr
    machine = json.loads(perenne("config", "check", "--json", str(file)).stdout)
    assert len(machine["problems"]) >= 2
    assert perenne("node", "--config", str(file)).returncode == 2


def test_every_command_explains_itself() -> None:
    for verbs in (
        (),
        ("node",),
        ("status",),
        ("switchover",),
        ("log",),
        ("log", "ls"),
        ("log", "extract"),
        ("lost-found", "resubmit"),
        ("config",),
    ):
        done = perenne(*verbs, "--help")
        assert done.returncode == 0
        assert len(done.stdout) > 200, verbs
    assert "Perenne is a DICOM archive:" in perenne("--help").stdout
    assert perenne("--version").stdout.strip()
    assert perenne("fly").returncode == 2


def test_a_killed_node_comes_back_with_everything(tmp_path: Path) -> None:
    many = [made(number, filler=bytes(20_000)) for number in range(40)]
    with standalone(tmp_path / "n", SOLO) as node:
        ready(node)
        assert {status for status, _ in store(node, *many)} == {0}
        assert node.running is not None
        node.running.signal(signal.SIGKILL)
    with standalone(tmp_path / "n", SOLO) as node:
        ready(node)
        assert all(read(node, uid) == data for uid, data in many)


def test_a_data_directory_that_cannot_be_made_is_a_sentence_not_a_trace(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text('[node]\ndata_dir = "/proc/perenne"\n')
    failed = perenne("node", "--config", str(config))
    assert failed.returncode == 1
    last = json.loads(failed.stderr.splitlines()[-1])
    assert last["message"] == "the node cannot start"
    assert "/proc/perenne cannot be made" in last["reason"]
    assert "Traceback" not in failed.stderr
