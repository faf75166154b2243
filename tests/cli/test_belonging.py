"""Goal: what root types leaves a data directory that the service's own user can go on with.

Method: a data directory of another user; the verbs are run as root, and every file is looked at.
"""

import asyncio
import errno
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from perenne.cli import commands, lostfound, main
from perenne.cli.commands import app
from perenne.config_reading import load_config
from perenne.config_tier import no_second_copy
from replication.coordination.orderbox import DIRECTORY, OrderDesk
from replication.coordination.port import ClusterRecord, Operation
from replication.tier.manifest import claim_for
from storage.appender import LogIdentity
from storage.disk import RealDisk
from storage.metadata import NodeIdentity, write_identity
from tests.restore.archive import Archive, groups, put
from tests.tier.rig import directory_reached

SERVICE = 65_534
SEGMENT_BYTES = 1024 * 1024
CLUSTER = ClusterRecord("fedcba9876543210", 1, SEGMENT_BYTES)


@pytest.fixture(autouse=True)
def as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Of a standalone node with a tier; all that is in its directory belongs to the service."""
    data = tmp_path / "data"
    data.mkdir()
    write_identity(RealDisk(data), NodeIdentity(CLUSTER.cluster_id, "n1", "disk-1"))
    archive = Archive.begin(data, LogIdentity(CLUSTER.cluster_id, SEGMENT_BYTES))
    archive.epoch(1)
    archive.instances(20)
    reached = directory_reached(tmp_path / "san")
    asyncio.run(claim_for(reached.store, CLUSTER))
    asyncio.run(put(reached.store, archive.log, groups(archive.log, 10)))
    archive.sealed()
    (data / DIRECTORY).mkdir()
    for path in (data, *data.rglob("*")):
        os.chown(path, SERVICE, SERVICE)
    file = tmp_path / "node.toml"
    file.write_text(
        f'[node]\nid = "n1"\ndata_dir = "{data}"\n[cluster]\nsegment_bytes = {SEGMENT_BYTES}\n'
        f'[tier]\nkind = "directory"\ndirectory = "{tmp_path}/san"\n'
    )
    return file


def typed(*words: object) -> None:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output


def owners(directory: Path) -> dict[str, int]:
    return {path.name: path.lstat().st_uid for path in (directory, *directory.rglob("*"))}


def test_a_restored_directory_belongs_to_whom_it_belonged(config: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    new.mkdir(mode=0o700)
    os.chown(new, SERVICE, SERVICE)
    config.write_text(config.read_text().replace(str(tmp_path / "data"), str(new)))
    typed("restore", "--config", config, "--cluster", "--jobs", "1")
    found = owners(new)
    assert "standalone-state.json" in found
    assert set(found.values()) == {SERVICE}, found


def test_what_a_drill_and_a_reindex_write_the_node_can_read(config: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    other = tmp_path / "elsewhere"
    other.touch()
    (data / "link").symlink_to(other)
    os.link(other, data / "second name")
    typed("drill", "--config", config, "--scratch", tmp_path)
    typed("reindex", data)
    found = owners(data)
    assert {"drill.json", "index.sqlite"} <= found.keys()
    assert {name for name, uid in found.items() if uid != SERVICE} == {"link", "second name"}
    assert other.stat().st_uid == 0, "nothing outside of the directory is given away"


def test_an_order_to_a_standalone_node_can_be_read_by_it(config: Path, tmp_path: Path) -> None:
    desk = OrderDesk(tmp_path / "data")
    asyncio.run(desk.request_operation(Operation("delete", "1", {})))
    assert owners(tmp_path / "data" / DIRECTORY)["1.json"] == SERVICE
    desk.close()


def test_a_tier_that_root_prepared_and_tried_out_is_the_services(config: Path, tmp_path: Path) -> None:
    san = tmp_path / "new san"
    san.mkdir()
    os.chown(san, SERVICE, SERVICE)
    config.write_text(config.read_text().replace(f"{tmp_path}/san", str(san)))
    typed("tier", "prepare", "--config", config)
    typed("tier", "probe", "--config", config)
    found = owners(san)
    assert {".perenne-tier", ".tmp", "probe"} <= found.keys()
    assert set(found.values()) == {SERVICE}, found


def test_a_tier_beside_the_data_is_called_no_second_copy(config: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["tier", "prepare", "--config", str(config)])
    assert done.exit_code == 0
    assert "one lost disk loses both copies" in done.stderr
    memory = Path("/dev/shm")
    if memory.is_dir() and memory.stat().st_dev != tmp_path.stat().st_dev:
        config.write_text(config.read_text().replace(f"{tmp_path}/san", str(memory)))
        assert no_second_copy(load_config(config, {})) == ""


def test_what_a_user_may_not_do_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(prog_name: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", f"/{prog_name}/lost+found")

    monkeypatch.setattr(commands, "app", refused)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "perenne: /perenne/lost+found: Permission denied" in capsys.readouterr().err


def test_a_file_that_cannot_be_moved_is_no_fault_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    async def taken(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/data/lost+found/1.tar")

    monkeypatch.setattr(lostfound, "resubmit", taken)
    why = lostfound._send(Path("/data"), [], "n1", 11112, "PERENNE", lambda _: None)  # pyright: ignore[reportPrivateUsage]
    assert "/data/lost+found/1.tar: Permission denied" in why
    assert "n1" not in why
