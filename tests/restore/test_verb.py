"""`perenne restore` as an operator runs it: exit codes, killed in the middle and run again, a look at the past."""

import asyncio
import contextlib
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from perenne.cli.commands import app
from perenne.local.processes import free_ports, start, wait_until
from perenne.restoring import UNFENCED
from replication.coordination import restoring
from replication.coordination.codec import decode_state
from replication.coordination.port import ClusterRecord
from replication.tier.manifest import claim_for
from storage.appender import LogIdentity
from storage.disk import RealDisk
from tests.integration.rig import perenne
from tests.restore.archive import Archive, groups, put, segments
from tests.tier.rig import directory_reached

SEGMENT_BYTES = 1024 * 1024
CLUSTER = ClusterRecord("fedcba9876543210", 1, SEGMENT_BYTES)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data`: a log of 1,600 records in a dozen segments; `san`: a tier that holds it."""
    work = tmp_path_factory.mktemp("verb")
    archive = Archive.begin(work / "data", LogIdentity(CLUSTER.cluster_id, SEGMENT_BYTES))
    archive.epoch(1)
    archive.instances(1_599, size=3_000)
    reached = directory_reached(work / "san")
    asyncio.run(claim_for(reached.store, CLUSTER))
    asyncio.run(put(reached.store, archive.log, groups(archive.log, 100)))
    archive.sealed()
    return work


@pytest.fixture
def config(made: Path, tmp_path: Path) -> Path:
    """A standalone node with a copy of that tier, which it may write to; its data directory does not exist yet."""
    shutil.copytree(made / "san", tmp_path / "san")
    dicom, http, peer = free_ports(3)
    file = tmp_path / "node.toml"
    file.write_text(
        f'[node]\nid = "n1"\ndata_dir = "{tmp_path}/restored"\n'
        f"[cluster]\nsegment_bytes = {SEGMENT_BYTES}\nallow_solo = true\n"
        "[storage]\nreserve_bytes = 1048576\nspare_segments = 1\n"
        f'[peer]\nhost = "127.0.0.1"\nport = {peer}\n[dimse]\nhost = "127.0.0.1"\nport = {dicom}\n'
        f'[http]\nhost = "127.0.0.1"\nport = {http}\n'
        f'[tier]\nkind = "directory"\ndirectory = "{tmp_path}/san"\n'
    )
    return file


def verb(config: Path, *more: str) -> tuple[int, dict[str, Any]]:
    done = CliRunner().invoke(app, ["restore", "--config", str(config), "--json", *more])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    facts: dict[str, Any] = json.loads(done.stdout) if done.stdout else {"cause": done.stderr}
    return done.exit_code, facts


def verified(data: Path) -> str:
    """What `perenne log verify` says last."""
    done = CliRunner().invoke(app, ["log", "verify", str(data)])
    assert done.exit_code == 0, done.stdout
    return done.stdout.splitlines()[-1]


def test_killed_in_the_middle_it_goes_on_and_the_node_leads(made: Path, config: Path, tmp_path: Path) -> None:
    code, plan = verb(config, "--cluster", "--dry-run")
    assert (code, plan["restorable_upto"]) == (0, 1_600)
    data = tmp_path / "restored"
    assert not data.exists()

    command = [sys.executable, "-m", "perenne.cli", "restore", "--config", str(config), "--cluster"]
    running = start(command, tmp_path / "restore.log", tmp_path)
    wait_until(lambda: len(list((data / "log").glob("*.tar"))) > 2, [running], "some of it is there")
    running.signal(signal.SIGKILL)
    wait_until(lambda: not running.alive, [], "it is gone")
    assert (data / "restore.json").exists()
    refused = perenne("node", "--config", str(config))
    assert refused.returncode == 1 and "restore" in refused.stderr

    code, report = verb(config, "--cluster")
    assert (code, report["finished"], report["this_run"]["resumed"]) == (0, True, True), report
    assert report["this_run"]["records"] < 1_600
    assert segments(data) == segments(made / "data")
    assert verified(data).startswith("1600 records, 0 damaged")
    assert not list((data / "lost+found").iterdir())

    node = start([sys.executable, "-m", "perenne.cli", "node", "--config", str(config)], tmp_path / "n.log", tmp_path)
    try:
        port = int(config.read_text().rsplit("port = ", 1)[1].split("\n")[0])
        leads = ["curl", "--noproxy", "*", "-sf", f"http://127.0.0.1:{port}/leader"]
        wait_until(lambda: subprocess.run(leads, capture_output=True).returncode == 0, [node], "it leads")
    finally:
        node.kill()


def test_a_look_at_the_past_is_a_log_for_looking_only(config: Path, tmp_path: Path) -> None:
    code, report = verb(config, "--until", "2023-11-14T22:30:00Z", "--to", str(tmp_path / "past"))
    assert (code, report["finished"], report["complete"]) == (0, True, True), report
    assert report["restored_upto"]["sequence"] == 1000
    assert verified(tmp_path / "past").startswith("1000 records, 0 damaged")
    for until, words in (
        ("1970-01-01", "nothing had been stored by 1970-01-01"),
        ("4711", "no record 4711: it ends at"),
    ):
        _, report = verb(config, "--until", until, "--to", str(tmp_path / until))
        assert words in str(report["notes"]), report
    other = tmp_path / "other.toml"
    other.write_text(config.read_text().replace(f"{tmp_path}/restored", f"{tmp_path}/past"))
    refused = perenne("node", "--config", str(other))
    assert refused.returncode == 1 and "looking only" in refused.stderr


def test_a_dry_run_says_what_the_tier_holds_and_what_would_be_refused(config: Path, tmp_path: Path) -> None:
    code, facts = verb(config, "--cluster", "--dry-run")
    assert (code, facts["refused"]) == (0, "")
    (tmp_path / "restored").mkdir()
    (tmp_path / "restored" / "somebody.txt").write_text("here")
    code, facts = verb(config, "--cluster", "--dry-run")
    assert code == 2 and "is not empty (somebody.txt" in facts["refused"], facts
    assert facts["restorable_upto"] == 1_600, "what the tier holds is said all the same"
    assert verb(config, "--cluster") == (2, {"finished": False, "cause": facts["refused"]})
    code, facts = verb(config, "--cluster", "--dry-run", "--cluster-id", "another")
    assert code == 2 and "leave --cluster-id out" in facts["refused"]


def test_a_dry_run_beside_a_restore_that_was_begun_changes_nothing(config: Path, tmp_path: Path) -> None:
    next((tmp_path / "san").rglob("000000000501-*.tar")).unlink()
    assert verb(config, "--cluster")[0] == 1
    data = tmp_path / "restored"
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    code, facts = verb(config, "--cluster", "--dry-run")
    assert (code, facts["refused"]) == (1, ""), "it would go on, and meet the gap"
    with contextlib.closing(RealDisk(data)) as disk:
        disk.lock("lock")
        code, facts = verb(config, "--cluster", "--dry-run")
        assert code == 2 and str(data) in facts["refused"], facts
        assert verb(config, "--cluster") == (2, {"finished": False, "cause": facts["refused"]})
    (data / "restore.json").write_text((data / "restore.json").read_text().replace("/san", "/elsewhere"))
    code, facts = verb(config, "--cluster", "--dry-run")
    assert code == 2 and "holds another restore" in facts["refused"]
    assert {path: path.stat().st_mtime_ns for path in before if path.name != "restore.json"} == {
        path: when for path, when in before.items() if path.name != "restore.json"
    }


def test_a_dry_run_without_zookeeper_says_so_and_what_the_tier_holds(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restoring, "CONNECT_S", 0.5)
    (port,) = free_ports(1)
    other = tmp_path / "clustered.toml"
    other.write_text(config.read_text() + f'[coordination]\nzookeeper = "127.0.0.1:{port}"\n')
    code, facts = verb(other, "--cluster", "--dry-run")
    assert code == 1 and "does not answer" in facts["refused"] and facts["restorable_upto"] == 1_600


def test_a_loss_must_be_accepted_before_the_cluster_comes_back(config: Path, tmp_path: Path) -> None:
    san, data = tmp_path / "san", tmp_path / "restored"
    next(san.rglob("000000000501-*.tar")).unlink()
    code, report = verb(config, "--cluster")
    assert (code, report["finished"]) == (1, False)
    assert UNFENCED in report["notes"], "it may be a cluster's, which runs"
    assert report["missing"] == [{"first": 501, "last": 600, "certain": True, "why": []}]
    assert (data / "restore.json").exists() and not (data / "standalone-state.json").exists()

    code, report = verb(config, "--cluster", "--accept-loss")
    assert (code, report["finished"], report["restored_upto"]["sequence"]) == (1, True, 500), report
    assert not (data / "restore.json").exists()
    state = decode_state((data / "standalone-state.json").read_bytes())
    assert state.restored is not None and state.restored.upto.sequence == 500
    assert state.epoch > 1 and state.floor == state.restored.upto
    assert len(list((data / "lost+found").glob("beyond-*.tar"))) == 10
    assert len(report["aside_instances"]) == 1_000


def test_bad_usage_is_named_and_changes_nothing(config: Path, tmp_path: Path) -> None:
    for arguments, words in (
        (["--until", "5"], "--to"),
        (["--cluster", "--until", "5", "--to", "x"], "looking only"),
        ([], "--cluster"),
        (["--until", "yesterday", "--to", "x"], "write a position, such as 4711, or a time"),
        (["--until", "9999-01-01", "--to", "x"], "still to come"),
        (["--cluster", "--cluster-id", "another"], "leave --cluster-id out"),
    ):
        code, facts = verb(config, *arguments)
        assert code == 2 and words in facts["cause"], arguments
    assert not (tmp_path / "restored").exists()
