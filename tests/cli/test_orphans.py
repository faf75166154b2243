"""Goal: `perenne tier orphans` names exactly the objects of dead branches, and decides nothing on a guess.

Method: a real log and a directory as the tier, with objects of this log, of a branch that died, and beyond the floor.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from perenne.cli.commands import app
from replication.tier.bodies import body_facts
from replication.tier.directory import DirectoryStore
from replication.tier.keys import run_name
from storage.disk import RealDisk
from storage.log import Log
from storage.metadata import NodeIdentity, PromiseFile, write_identity
from storage.position import GENESIS, LogPoint
from tests.storage.log_helpers import IDENTITY, append, record_after

FLOOR = 12


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A node whose log has 20 records of epochs 1 and 3, 12 of them known to be committed."""
    data, mount = tmp_path / "data", tmp_path / "mount"
    mount.mkdir()
    store = DirectoryStore(mount)
    store.prepare()
    disk = RealDisk(data)
    write_identity(disk, NodeIdentity(IDENTITY.cluster_id, "n1", "disk"))
    log, _ = Log.open(disk, IDENTITY, host_rebooted=False, spares=0)
    for number in range(20):
        append(log, 3000, epoch=1 if number < 8 else 3)
    log.sync()
    floor = log.point_at(FLOOR)
    assert floor is not None
    promise = PromiseFile(disk)
    promise.store(epoch=3, floor=floor)
    promise.close()
    points = [log.point_at(sequence) or GENESIS for sequence in range(21)]
    log.close()

    def put(first: int, last: LogPoint) -> str:
        key = run_name(first, last).key
        store.put(key, b"x" * 5000, body_facts(b"x" * 5000), only_if_absent=True, lock=False)
        return key

    for first, last in ((1, 5), (6, 8), (9, 12), (13, 15)):
        put(first, points[last])
    header, chain, _ = record_after(points[8], 3000, epoch=1, salt=1)
    put(9, LogPoint(header.position, chain))  # a branch that died at record 9
    header, chain, _ = record_after(LogPoint(points[15].position, bytes(32)), 3000, epoch=2)
    put(16, LogPoint(header.position, chain))  # of a dead epoch, above the floor
    file = tmp_path / "node.toml"
    file.write_text(
        f'[node]\nid = "n1"\ndata_dir = "{data}"\n[tier]\nkind = "directory"\ndirectory = "{mount}"\n', encoding="utf-8"
    )
    return file


def orphans(config: Path, *options: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["tier", "orphans", "--config", str(config), *options])
    return done.exit_code, done.output


def test_objects_of_dead_branches_are_named_and_what_is_above_the_floor_is_left_open(config: Path) -> None:
    code, output = orphans(config, "--json")
    facts: dict[str, Any] = json.loads(output)
    assert code == 0
    found = [(orphan["epoch"], orphan["first"], orphan["last"], orphan["bytes"]) for orphan in facts["orphans"]]
    assert found == [(1, 9, 9, 5000), (2, 16, 16, 5000)]
    assert (facts["objects"], facts["undecided"], facts["committed_upto"]) == (6, 1, FLOOR)
    code, output = orphans(config)
    assert code == 0 and output.splitlines()[-1] == "2 orphans of 6 objects; 1 not decided yet"


def test_a_damaged_entry_makes_nothing_an_orphan(config: Path) -> None:
    segment = min((config.parent / "data" / "log").glob("0*.tar"))
    data = bytearray(segment.read_bytes())
    data[3 * 4096 + 4 * 128 + 40] ^= 1
    segment.write_bytes(bytes(data))
    facts = json.loads(orphans(config, "--json")[1])
    assert (len(facts["orphans"]), facts["undecided"]) == (2, 2)


def test_what_cannot_be_asked_is_said(config: Path) -> None:
    (config.parent / "mount" / ".perenne-tier").unlink()
    assert orphans(config)[0] == 1
    (config.parent / "data" / "promise").unlink()
    assert orphans(config)[0] == 2
