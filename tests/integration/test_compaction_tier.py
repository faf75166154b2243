"""Compaction and the tier: the bytes of what was deleted go there as well, and everything else is found again."""

import shutil
from pathlib import Path

import pytest

from perenne.config import TierConfig
from perenne.config_tier import blocking_store
from perenne.local.cluster import LocalNode
from perenne.local.processes import wait_until
from replication.tier.keys import parse_run
from tests.integration import rig
from tests.integration.rig import running_cluster, signalled, store
from tests.integration.test_compaction import KEPT, UNDO, image, on_disk
from tests.integration.test_deletes import Operator, read


def lies_in(mount: Path, data: bytes) -> bool:
    """Whether a piece out of the middle of these bytes lies anywhere in the tier."""
    piece = data[100_000:100_064]
    return any(piece in path.read_bytes() for path in mount.rglob("*") if path.is_file())


def stubs_in_names(mount: Path) -> int:
    keys = [path.relative_to(mount).as_posix() for path in mount.rglob("log/**/*.tar")]
    return sum(run.form.stubs for key in keys if (run := parse_run(key)) is not None)


def outgrown(node: LocalNode) -> tuple[int, str]:
    packing = node.status()["tier"]["packing"]
    return packing["outgrown"], packing["outgrown_kept"]


@pytest.mark.timeout(120)
def test_what_was_deleted_is_gone_from_the_tier_as_well_and_the_rest_is_found_again(tmp_path: Path) -> None:
    mount = tmp_path / "san"
    mount.mkdir()
    blocking_store(TierConfig(kind="directory", directory=mount), {}).prepare()
    images = [image(number) for number in range(KEPT)]
    gone, stay = images[3:9], images[:3] + images[9:]
    extra = f'[tier]\nkind = "directory"\ndirectory = "{mount}"\n\n' + UNDO.format(days=0)
    with running_cluster(tmp_path / "c", 2, extra) as cluster:
        first, second = rig.leader(cluster), rig.follower(cluster)
        assert {status for status, _ in store(first, *images)} == {0}
        cluster.wait_for(lambda: first.status()["tier"]["packing"]["segments"] >= 1, "a segment is one object")
        assert all(lies_in(mount, data) for _, data in gone)
        anna = Operator(cluster, "Anna")
        named = [word for uid, _ in gone for word in ("--instance", uid)]
        anna.types("delete", *named, "--reason", "wrong patient", "--yes")
        cluster.wait_for(lambda: first.status()["tier"]["behind"] == 0, "the tier has the tombstone")
        assert anna.types("compact", "--yes")["left"] == 0
        cluster.wait_for(lambda: not any(lies_in(mount, data) for _, data in gone), "they are gone from the tier")
        cluster.wait_for(lambda: outgrown(first) == (0, ""), "and it is said")
        assert stubs_in_names(mount) == len(gone)
        assert all(lies_in(mount, data) for _, data in stay)

        signalled(second.running).kill()
        cluster.wait_for(lambda: "tier" in rig.in_sync(cluster), "the tier takes its place")
        signalled(first.running).kill()
        shutil.rmtree(first.data_dir)
        shutil.rmtree(second.data_dir)
        cluster.start_node(second)
        wait_until(second.ready, [signalled(second.running)], "a node without a log leads by what the tier holds")
        wait_until(lambda: rig.damaged(second) == 0, [signalled(second.running)], "every stub has its tombstone")
        cluster.wait_for(lambda: read(cluster, gone[0][0]) == {0, 410}, "deleted, says the node that is left")
        assert not any(on_disk(second, data) for _, data in gone)
        assert all(on_disk(second, data) for _, data in stay)
