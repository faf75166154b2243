"""Goal: a restore meets ZooKeeper as the nodes do, with their user, and leaves the data directory itself alone.

Method: a small tier, `perenne restore` as an operator types it, and a real ZooKeeper in which everything has an owner.
"""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kazoo.client import KazooClient
from typer.testing import CliRunner

from perenne.cli.commands import app
from perenne.local.processes import free_ports, wait_until
from perenne.local.zookeeper import serves, start_server
from replication.coordination.access import Access
from replication.coordination.port import ClusterRecord
from replication.coordination.surgery import Surgery
from replication.core.values import Change, ClusterState, Member, Phase, ReplicaId
from replication.tier.manifest import claim_for
from storage.appender import LogIdentity
from tests.restore.archive import Archive, groups, put
from tests.tier.rig import directory_reached

SEGMENT_BYTES = 1024 * 1024
CLUSTER = ClusterRecord("fedcba9876543210", 1, SEGMENT_BYTES)
OWNER = "perenne:a-password-that-nobody-guesses"
STATE = ClusterState(Change(7, "a"), 3, None, Phase.RECOVERING, frozenset({Member(ReplicaId("n1"), "disk-1")}))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    (port,) = free_ports(1)
    running = start_server(tmp_path_factory.mktemp("zookeeper"), port)
    try:
        wait_until(lambda: serves(port), [running], "ZooKeeper serves")
        yield port
    finally:
        running.kill()


@pytest.fixture
def hosts(server: int) -> Iterator[str]:
    """Empty at the beginning."""
    yield f"127.0.0.1:{server}"
    client = owner(f"127.0.0.1:{server}")
    client.delete("/perenne", recursive=True)
    client.stop()
    client.close()


def owner(hosts: str) -> Any:  # kazoo has no types
    client: Any = KazooClient(hosts=hosts, auth_data=[("digest", OWNER)])
    client.start(timeout=15)
    return client


@pytest.fixture
def config(hosts: str, tmp_path: Path) -> Path:
    """Of a node whose ZooKeeper has an owner, beside a tier that holds a small log."""
    archive = Archive.begin(tmp_path / "old", LogIdentity(CLUSTER.cluster_id, SEGMENT_BYTES))
    archive.epoch(1)
    archive.instances(20)
    reached = directory_reached(tmp_path / "san")
    asyncio.run(claim_for(reached.store, CLUSTER))
    asyncio.run(put(reached.store, archive.log, groups(archive.log, 10)))
    archive.sealed()
    (tmp_path / "owner").write_text(OWNER + "\n")
    file = tmp_path / "node.toml"
    file.write_text(
        f'[node]\nid = "n1"\ndata_dir = "{tmp_path}/data"\n[cluster]\nsegment_bytes = {SEGMENT_BYTES}\n'
        f'[coordination]\nzookeeper = "{hosts}"\ncredentials_file = "{tmp_path}/owner"\n'
        f'[tier]\nkind = "directory"\ndirectory = "{tmp_path}/san"\n'
    )
    return file


def restore(config: Path, *more: str) -> tuple[int, dict[str, Any]]:
    done = CliRunner().invoke(app, ["restore", "--config", str(config), "--json", "--jobs", "1", *more])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    facts: dict[str, Any] = json.loads(done.stdout) if done.stdout else {"cause": done.stderr}
    return done.exit_code, facts


def test_what_a_restore_makes_in_an_empty_zookeeper_belongs_to_the_cluster(config: Path, hosts: str) -> None:
    code, facts = restore(config, "--cluster")
    assert code == 0, facts
    client = owner(hosts)
    try:
        for name in ("", "/cluster", "/state", "/nodes", "/live", "/ops"):
            acls, _ = client.get_acls(f"/perenne{name}")
            assert [acl.id.scheme for acl in acls] == ["digest"], name
    finally:
        client.stop()
        client.close()


def test_a_restore_reads_what_belongs_to_the_cluster_and_a_refusal_leaves_the_directory_as_it_was(
    config: Path, hosts: str, tmp_path: Path
) -> None:
    with Surgery(hosts, access=Access(credentials=OWNER)) as surgery:
        surgery.write(surgery.look(), cluster=CLUSTER, state=STATE, left_out=())
    data = tmp_path / "data"
    data.mkdir(mode=0o700)  # as a mount point is, or what systemd made for the node's user
    before = data.stat()
    code, facts = restore(config, "--cluster")
    assert code == 2, facts
    assert "--replace-state 7" in facts["cause"]
    assert {path.name for path in data.iterdir()} <= {"lock"}
    after = data.stat()
    assert (after.st_ino, after.st_mode, after.st_uid) == (before.st_ino, before.st_mode, before.st_uid)

    assert restore(config, "--cluster", "--replace-state", "7")[0] == 0
