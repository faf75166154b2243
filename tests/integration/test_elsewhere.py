"""How other archives lost images, played on real nodes (docs/elsewhere.md): none of it loses one here."""

import asyncio
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from perenne.bench.load import CT, EXPLICIT_LE
from perenne.dimse.sender import Sender
from perenne.local.cluster import LocalCluster, LocalNode
from perenne.local.processes import Running, wait_until
from storage.digest import part10_meta_length
from tests.integration import rig
from tests.integration.rig import SMALL, made, running_cluster, standalone, store
from tests.integration.test_deletes import Operator

ALONE = SMALL.replace("[cluster]", "[cluster]\nallow_solo = true")
TWO = '[retention]\napproval = "two-person"\n\n'


class CutOff(Exception):
    """The sender dies here."""


def half(data: bytes) -> Iterator[bytes]:
    yield data[: len(data) // 2]
    raise CutOff


def broken_off(node: LocalNode, image: tuple[str, bytes]) -> None:
    """An association that is lost in the middle of an instance."""

    async def send() -> None:
        sender = await Sender.associate("127.0.0.1", node.dicom_port, [(CT, [EXPLICIT_LE])], called_ae="PERENNE")
        try:
            await sender.store(CT, image[0], EXPLICIT_LE, half(image[1]))
        except CutOff:
            await sender.abort()

    asyncio.run(send())


def served(node: LocalNode, uid: str) -> bytes | None:
    status, content = node.get(f"/instances/{uid}", timeout=15)
    return content[part10_meta_length(content) :] if status == 200 else None


def told(node: LocalNode, running: list[Running], uid: str, data: bytes | None) -> None:
    """Wait for the right answer: while an index is made anew there may be none, 503, and never a wrong one."""

    def right() -> bool:
        status, content = node.get(f"/instances/{uid}", timeout=15)
        assert status in (503, 404 if data is None else 200)
        assert status != 200 or content[part10_meta_length(content) :] == data
        return status != 503

    wait_until(right, running, f"the node knows whether it has {uid}", 20)


def kept(node: LocalNode) -> set[bytes]:
    """Every data set of a node, each version of a UID by itself, as plain tar gives it out."""
    with tempfile.TemporaryDirectory() as name:
        for segment in sorted((node.data_dir / "log").glob("*.tar")):
            subprocess.run(["tar", "xf", str(segment)], cwd=name, check=True)
        files = [path.read_bytes() for path in Path(name).rglob("*.dcm")]
        return {content[part10_meta_length(content) :] for content in files}


def all_at_once(cluster: LocalCluster, images: list[tuple[str, bytes]]) -> list[int | None]:
    """Every node gets every image and half of it besides, all at the same time, over associations of their own."""
    with ThreadPoolExecutor(16) as pool:
        cut = [pool.submit(broken_off, node, image) for node in cluster.nodes for image in images]
        sent = [pool.submit(store, node, image) for image in images for node in cluster.nodes]
        for one in cut:
            one.result()
        return [status for one in sent for status, _ in one.result()]


def test_one_uid_from_everywhere_at_once_and_a_delete_that_its_leader_does_not_live_to_see(tmp_path: Path) -> None:
    """dcm4chee #4754, #4969, #1945 (a UID that arrives twice takes the good file along); orthanc-builder #20 (several
    writers, 503); dcm4chee #32, #4355 (what a node had in hand is stranded when it dies).
    """
    right = [made(number, filler=bytes([number]) * 40_000) for number in range(1, 6)]
    wrong = [made(number, filler=bytes([number]) * 30_000, patient=b"ROE^RICHARD") for number in range(1, 4)]
    with running_cluster(tmp_path / "c", 3, TWO) as cluster:
        assert set(all_at_once(cluster, right + wrong)) == {0}, "no writer is in another's way"
        for node in cluster.nodes:
            assert kept(node) == {data for _, data in right + wrong}, "every version, once, and no half"
        current = {uid: served(cluster.nodes[0], uid) for uid, _ in right}
        assert all(current[uid] in {data for u, data in right + wrong if u == uid} for uid, _ in right)

        anna, berg = Operator(cluster, "Anna"), Operator(cluster, "Dr. Berg")
        gone = right[4][0]
        request = anna.types("delete", "--instance", gone, "--reason", "wrong patient", "--yes")["request"]
        died = rig.leader(cluster)
        rig.signalled(died.running).kill()
        cluster.wait_for(lambda: cluster.leader() not in (None, died), "another node leads")
        approve = ("delete", "approve", request, "--yes")
        assert died.id in berg.types(*approve, code=1)["cause"], "nothing is deleted while a node is away"
        cluster.start_node(died)
        cluster.wait_for(lambda: len(rig.in_sync(cluster)) == 3, "all nodes are in sync")
        assert berg.types(*approve)["deleted"] == 1
        cluster.wait_for(
            lambda: all(node.get(f"/instances/{gone}")[0] == 410 for node in cluster.nodes), "it is deleted"
        )
        for node in cluster.nodes:
            assert {uid: served(node, uid) for uid, _ in right[:4]} == {uid: current[uid] for uid, _ in right[:4]}


def test_an_index_of_another_day_beside_the_log_hides_nothing_and_makes_nothing_up(tmp_path: Path) -> None:
    """Database and files that were backed up at different times (the Orthanc book's page on backups), both ways round;
    and no database at all (orthanc-users, "full re-import after corruption").
    """
    old, new = [made(number) for number in range(1, 6)], [made(number) for number in range(6, 11)]
    yesterday, today = tmp_path / "yesterday", tmp_path / "today"

    def look(present: list[tuple[str, bytes]], absent: list[tuple[str, bytes]], more: list[tuple[str, bytes]]) -> Path:
        """Start on what lies there, check it, store more, end in order; return the data directory."""
        with standalone(tmp_path / "n", ALONE) as node:
            running = [rig.signalled(node.running)]
            wait_until(node.ready, running, "the node takes stores")
            for uid, data in present:
                told(node, running, uid, data)
            for uid, _ in absent:
                told(node, running, uid, None)
            if more:
                assert {status for status, _ in store(node, *more)} == {0}
            count = len(present) + len(more)
            wait_until(lambda: rig.instances(node) == count, running, "all are indexed")
            told(node, running, made(99)[0], None)
            running[0].stop()
            return node.data_dir

    data_dir = look([], new, old)
    shutil.copytree(data_dir, yesterday)
    look(old, [], new)
    shutil.copytree(data_dir, today)

    _swap_index(data_dir, yesterday)
    look(old + new, [], [])

    shutil.rmtree(data_dir)
    shutil.copytree(yesterday, data_dir)
    _swap_index(data_dir, today)
    look(old, new, [])

    shutil.rmtree(data_dir)
    shutil.copytree(today, data_dir)
    for path in data_dir.glob("index.sqlite*"):
        path.unlink()
    look(old + new, [], [])


def _swap_index(data_dir: Path, other: Path) -> None:
    for path in data_dir.glob("index.sqlite*"):
        path.unlink()
    for path in other.glob("index.sqlite*"):
        shutil.copy(path, data_dir / path.name)
