"""Goal: what lies in lost+found is shown for what it is, and an instance among it reaches the cluster exactly once.

Method: a real log that was cut, a damaged file beside it, and a real node that is sent to.
"""

import itertools
import json
import os
import signal
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from perenne.bench.load import CT, EXPLICIT_LE
from perenne.cli.commands import app
from perenne.dimse.meta import file_meta
from perenne.local.processes import wait_until
from perenne.lostfound import Saved, data_set
from perenne.nodeaccess import NodeAccess
from perenne.resubmission import CONTEXTS, associations, held_back
from storage.digest import digests_of, part10_meta_length
from storage.disk import RealDisk
from storage.log import Log
from storage.metadata import NodeIdentity, write_identity
from storage.position import LogPosition, RecordHeader, RecordKind, chain_after
from storage.reader import BytesPayload
from tests.integration.rig import SOLO, made, signalled, standalone
from tests.storage.log_helpers import IDENTITY


def cut_log(directory: Path, *instances: tuple[str, bytes]) -> None:
    """A data directory whose whole log was cut into lost+found."""
    directory.mkdir()
    disk = RealDisk(directory)
    write_identity(disk, NodeIdentity(IDENTITY.cluster_id, "n1", "i1"))
    log = Log.open(disk, IDENTITY, host_rebooted=False, spares=0)[0]
    for uid, data in instances:
        payload = (
            file_meta(sop_class_uid=CT, sop_instance_uid=uid, transfer_syntax_uid=EXPLICIT_LE, source_ae="CT1") + data
        )
        digests = digests_of(RecordKind.INSTANCE, [payload])
        header = RecordHeader(
            LogPosition(3, log.end.sequence + 1),
            RecordKind.INSTANCE,
            digests.dataset,
            digests.digest,
            1_700_000_000_000_000,
            f"1.2/1.2.3/{uid}.dcm",
            len(payload),
        )
        log.append(header, chain_after(log.end.chain, header), BytesPayload(payload))
    log.sync()
    log.truncate_after(0)
    log.close()
    disk.close()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["lost-found", *arguments])


def lines(*arguments: str) -> tuple[int, list[dict[str, Any]]]:
    done = run(*arguments, "--json")
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, [json.loads(line) for line in done.stdout.splitlines()]


def test_what_was_cut_is_listed_inspected_and_reaches_the_cluster_once(tmp_path: Path) -> None:
    sent = [made(number, filler=bytes(1000)) for number in range(3)]
    data_dir = tmp_path / "data"
    cut_log(data_dir, *sent)
    lost = data_dir / "lost+found"
    (lost / "000000000009-1-damaged.bin").write_bytes(b"no record")
    names = sorted(path.name for path in lost.glob("*.tar"))
    with (lost / names[2]).open("r+b") as file:
        file.seek(-600, 2)
        file.write(b"rotten")

    code, found = lines("list", str(data_dir))
    assert code == 0
    rotten = bytearray((lost / names[0]).read_bytes())
    rotten[-600] ^= 1
    evidence = lost / "000000000001-1-damaged.bin"
    evidence.write_bytes(rotten)
    assert "4 instances" not in run("list", str(data_dir)).stdout, "what lay in the place of a repaired record is none"
    shown = run("inspect", str(data_dir), evidence.name)
    assert shown.exit_code == 1 and "repaired" in shown.stdout and "not committed" not in shown.stdout
    evidence.unlink()
    assert [one["sequence"] for one in found] == [1, 2, 3, None]
    assert [one["sop_instance_uid"] for one in found[:3]] == [uid for uid, _ in sent]

    code, (one,) = lines("inspect", str(data_dir), names[0])
    assert (code, one["damage"], one["epoch"], one["kind"]) == (0, None, 3, "instance")
    code, (one,) = lines("inspect", str(data_dir), f"lost+found/{names[2]}")
    assert (code, one["sendable"]) == (1, False)
    assert "digest" in one["damage"]
    assert "not committed" in run("inspect", str(data_dir), names[0]).stdout

    with standalone(tmp_path / "n", SOLO) as node:
        wait_until(node.ready, [signalled(node.running)], "the node takes stores")
        to = ("--to", f"127.0.0.1:{node.dicom_port}", "--ask", f"http://127.0.0.1:{node.http_port}")
        code, said = lines("resubmit", str(data_dir), *to, "--dry-run")
        assert (code, said[-1]["instances"], said[-1]["taken"]) == (0, 2, 0)
        assert len(list(lost.glob("*.tar"))) == 3
        code, said = lines("resubmit", str(data_dir), *to)
        assert code == 0
        for uid, data in sent[:2]:
            status, content = node.get(f"/instances/{uid}")
            assert status == 200
            assert content[part10_meta_length(content) :] == data
        assert node.get(f"/instances/{sent[2][0]}")[0] == 404
        moved = lost / "resubmitted"
        assert sorted(path.name for path in moved.iterdir()) == names[:2]
        # The same bytes again, as after a run that was interrupted between the answer and the move: no second copy.
        for name in names[:2]:
            (lost / name).write_bytes((moved / name).read_bytes())
        code, said = lines("resubmit", str(data_dir), *to)
        assert (code, said[-1]["taken"]) == (0, 2)
        assert node.running is not None
        wait_until(lambda: node.status()["instances"] == 2, [node.running], "both are indexed, once")
        assert len(list(moved.iterdir())) == 4

    (lost / names[0]).write_bytes((moved / names[0]).read_bytes())
    silent = run("resubmit", str(data_dir), *to)
    assert silent.exit_code == 1
    assert "cannot say whether it was deleted" in silent.stdout
    failed = run("resubmit", str(data_dir), *to[:2], "--even-deleted")
    assert failed.exit_code == 1
    assert "`perenne status` tells" in failed.stderr
    unasked = run("resubmit", str(data_dir), *to[:2])
    assert unasked.exit_code == 2
    assert "--even-deleted" in unasked.stderr
    assert (lost / names[0]).exists()
    assert run("inspect", str(data_dir), "nothing").exit_code == 2
    assert run("list", str(tmp_path)).exit_code == 2


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_says_what_was_taken_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key comes while the second of three is on its way; and before anything is sent."""
    sent = [made(number, filler=bytes(1000)) for number in range(3)]
    data_dir = tmp_path / "data"
    cut_log(data_dir, *sent)
    lost = data_dir / "lost+found"

    def pressed(found: Callable[..., Any], call: int) -> Callable[..., Any]:
        calls = itertools.count(1)

        def counted(*arguments: Any, **more: Any) -> Any:
            if next(calls) == call:
                os.kill(os.getpid(), signal.SIGINT)
            return found(*arguments, **more)

        return counted

    with standalone(tmp_path / "n", SOLO) as node:
        wait_until(node.ready, [signalled(node.running)], "the node takes stores")
        to = ("--to", f"127.0.0.1:{node.dicom_port}", "--ask", f"http://127.0.0.1:{node.http_port}")
        with monkeypatch.context() as patch:
            patch.setattr("perenne.cli.lostfound.held_back", pressed(held_back, 2))
            early = run("resubmit", str(data_dir), *to, "--dry-run")
        assert (early.exit_code, early.stderr) == (
            130,
            "perenne: interrupted; nothing was sent, and nothing moved\n",
        )
        with monkeypatch.context() as patch:
            patch.setattr("perenne.resubmission.data_set", pressed(data_set, 2))
            cut = run("resubmit", str(data_dir), *to)
        assert cut.exit_code == 130, cut.output
        (line,) = cut.stderr.splitlines()
        assert line.startswith("perenne: interrupted; 1 instances were taken. ") and "the same command goes on" in line
        assert len(list(lost.glob("*.tar"))) == 2, "what was answered was moved, and nothing else"
        code, said = lines("resubmit", str(data_dir), *to)
        assert (code, said[-1]["taken"], list(lost.glob("*.tar"))) == (0, 2, [])
        assert node.running is not None
        wait_until(lambda: node.status()["instances"] == 3, [node.running], "each is there, once")


@pytest.mark.parametrize(
    ("status", "why"), [(200, None), (404, None), (410, "it was deleted on purpose"), (503, "cannot say now")]
)
def test_what_was_deleted_on_purpose_is_held_back_and_what_cannot_be_said_too(status: int, why: str | None) -> None:
    class Node(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Node) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        found = held_back(f"http://127.0.0.1:{server.server_address[1]}", NodeAccess(), "1.2.3")
        server.shutdown()
    assert found == why or (why is not None and found is not None and why in found)


def test_an_association_asks_for_no_more_contexts_than_it_may() -> None:
    many = [
        Saved(name=f"{n}", bytes=1, why="", kind="instance", sop_class_uid=f"1.{n // 2}", transfer_syntax_uid="1.2")
        for n in range(2 * (CONTEXTS + 5))
    ]
    parts = list(associations(many))
    assert [len({saved.sop_class_uid for saved in part}) for part in parts] == [CONTEXTS, 5]
    assert sorted(saved.name for part in parts for saved in part) == sorted(saved.name for saved in many)
