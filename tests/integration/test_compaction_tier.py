"""Compaction and the tier: the bytes of what was deleted go there as well, and everything else is found again."""

import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from perenne.config import TierConfig
from perenne.config_tier import blocking_store
from perenne.journal import digest_of
from perenne.local.cluster import LocalNode
from perenne.local.processes import wait_until
from perenne.local.seaweedfs import ACCESS_KEY, SECRET_KEY, start_store
from replication.tier.keys import parse_run
from replication.tier.port import NotThere
from tests.integration import rig
from tests.integration.rig import running_cluster, signalled, store
from tests.integration.test_compaction import KEPT, UNDO, image, on_disk
from tests.integration.test_deletes import Operator, read
from tests.integration.test_eviction import served


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


@contextmanager
def seaweedfs(directory: Path) -> Generator[tuple[str, Callable[[bytes], bool]]]:
    """A real bucket: the `[tier]` section of every node, and whether a piece out of the middle of some bytes lies
    anywhere in it.
    """
    server = start_store(directory / "seaweedfs")
    try:
        credentials = directory / "credentials"
        credentials.write_text(f"[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n")
        bucket = blocking_store(
            TierConfig(endpoint=server.endpoint, bucket="perenne", credentials_file=credentials), {}
        )
        bucket.prepare()

        def lies_there(data: bytes) -> bool:
            return any(data[100_000:100_064] in content for content in contents())

        def contents() -> Iterator[bytes]:
            for key in bucket.list_page("", "").keys:
                with suppress(NotThere):  # it went since it was listed
                    yield bucket.get(key)

        yield (
            f'[tier]\nendpoint = "{server.endpoint}"\nbucket = "perenne"\ncredentials_file = "{credentials}"\n\n',
            lies_there,
        )
    finally:
        server.kill()


def evicted(node: LocalNode) -> int:
    return int(node.status()["capacity"]["tier_only_segments"])


@pytest.mark.timeout(180)
@pytest.mark.parametrize("everybody", [False, True])
def test_who_evicts_lets_what_was_deleted_go_from_the_bucket_and_reads_the_rest_there(
    tmp_path: Path, everybody: bool
) -> None:
    """everybody: the leader evicts as well, and nobody has the segment any more."""
    images = [image(number) for number in range(KEPT)]
    gone, stay = images[3:9], images[:3] + images[9:]
    evict = "evict_below_free_bytes = 1000000000000000\n" + ("evict_tier_alone = true\n" if everybody else "")
    with (
        seaweedfs(tmp_path) as (tier, lies_there),
        running_cluster(tmp_path / "c", 2, tier + UNDO.format(days=0)) as cluster,
    ):
        first, second = rig.leader(cluster), rig.follower(cluster)
        assert {status for status, _ in store(first, *images)} == {0}
        cluster.wait_for(lambda: first.status()["tier"]["behind"] == 0, "the tier is complete")
        for node in (second, first) if everybody else (second,):
            signalled(node.running).kill()
            node.extra = evict  # the section before it is [storage]
            cluster.start_node(node)
            cluster.wait_for(lambda: {first.id, second.id} <= set(rig.in_sync(cluster)), "it is back")
        evicting = [first, second] if everybody else [second]
        cluster.wait_for(lambda: all(evicted(node) for node in evicting), "they evict", 60)
        assert all(lies_there(data) for _, data in gone)

        anna = Operator(cluster, "Anna")
        named = [word for uid, _ in gone for word in ("--instance", uid)]
        anna.types("delete", *named, "--reason", "wrong patient", "--yes")
        cluster.wait_for(lambda: rig.leader(cluster).status()["tier"]["behind"] == 0, "the tier has the tombstone")
        anna.types("compact", "--yes")
        cluster.wait_for(lambda: not any(lies_there(data) for _, data in gone), "they are gone from the bucket", 90)
        assert all(lies_there(data) for _, data in stay)
        cluster.wait_for(lambda: outgrown(rig.leader(cluster)) == (0, ""), "and it is said")
        cluster.wait_for(lambda: all(evicted(node) for node in evicting), "they evicted it in its new form", 60)
        assert not any(on_disk(node, data) for node in cluster.nodes for _, data in gone)
        assert not any(on_disk(node, images[0][1]) for node in evicting), "it lies in the bucket alone"
        sent = {uid: digest_of(data) for uid, data in stay}
        assert {uid: digest_of(served(node, uid) or b"") for node in evicting for uid in sent} == sent
        assert read(cluster, gone[0][0]) == {410}
