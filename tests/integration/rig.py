"""A real cluster, real senders, and plain tar as the judge."""

import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from perenne.local.cluster import LocalCluster, LocalNode
from perenne.local.processes import Running, free_ports, start, wait_until
from storage.dataset import UnreadableDataSet, read_meta, scan
from storage.digest import part10_meta_length
from tests.dimse.samples import Sample, samples

SMALL = """
[cluster]
segment_bytes = 4194304

[storage]
reserve_bytes = 1048576
spare_segments = 1
"""
_CT = b"1.3.6.1.4.1.5962.1.1.1.1.1.20040119072730.12322"


@contextmanager
def running_cluster(directory: Path, nodes: int = 3) -> Generator[LocalCluster]:
    """A cluster with a session time-out of 2 s and small segments; everything is killed at the end."""
    cluster = LocalCluster(directory)
    cluster.session_timeout_ms = 2000
    cluster.extra = SMALL
    try:
        cluster.start(nodes)
        cluster.wait_for(lambda: in_sync(cluster) == {node.id for node in cluster.nodes}, "all nodes are in sync")
        yield cluster
    finally:
        cluster.kill()


def leader(cluster: LocalCluster) -> LocalNode:
    found = cluster.leader()
    assert found is not None, "somebody leads"
    return found


def follower(cluster: LocalCluster) -> LocalNode:
    first = leader(cluster)
    return next(node for node in cluster.nodes if node.alive and node is not first)


def in_sync(cluster: LocalCluster) -> set[str]:
    """The in-sync set as the leader knows it; empty while nobody leads."""
    found = cluster.leader()
    return set(found.status()["in_sync"]) if found is not None else set()


def instances(node: LocalNode) -> int:
    return int(node.status()["instances"])


def sendable() -> list[Sample]:
    """Samples in every transfer syntax that DCMTK reads as they are, and that name one instance only."""
    return [s for s in samples() if len(s.dataset) < 1_000_000 and _names_itself(s)]


def _names_itself(sample: Sample) -> bool:
    try:
        return scan(sample.dataset, sample.transfer_syntax, complete=True).sop_instance_uid == sample.sop_instance_uid
    except UnreadableDataSet:
        return False


def folder_of_files(folder: Path, copies: int = 300, first: int = 10_000) -> Path:
    """Every sendable sample, and so many CT slices that differ in their SOP Instance UID."""
    folder.mkdir()
    for number, sample in enumerate(sendable()):
        shutil.copy(sample.path, folder / f"a{number:03d}.dcm")
    slices(folder, copies, first)
    return folder


def slices(folder: Path, copies: int, first: int) -> None:
    folder.mkdir(exist_ok=True)
    ct = next(s for s in samples() if s.path.name == "CT_small.dcm").path.read_bytes()
    assert ct.count(_CT) == 2
    for number in range(first, first + copies):
        (folder / f"b{number}.dcm").write_bytes(ct.replace(_CT, _CT[:-5] + str(number).encode()))


class Sending:
    """One dcmsend under way; it halts on nothing and reports on everything."""

    def __init__(self, folder: Path, port: int, report: Path) -> None:
        self.report = report
        command = ["env", "TCP_NODELAY=1", "dcmsend", "-aec", "PERENNE", "--no-halt", "+sd", "--decompress-never"]
        command += ["--create-report-file", str(report), "127.0.0.1", str(port), str(folder)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def finish(self, seconds: float = 90) -> str:
        """Wait; return what it printed, which names every broken association."""
        output, _ = self._process.communicate(timeout=seconds)
        return output

    def acknowledged(self) -> set[str]:
        """SOP Instance UIDs that were answered with Success."""
        text = self.report.read_text()
        blocks = text.split("\nNumber        :")[1:]
        found: set[str] = set()
        for block in blocks:
            uid = re.search(r"SOP Instance  : (\S+)", block)
            if uid is not None and "0x0000" in block:
                found.add(uid[1])
        return found


def as_sent(folder: Path, work: Path) -> dict[str, bytes]:
    """What dcmsend puts on the wire for these files, by SOP Instance UID: a bit-preserving storescp is the witness.

    Slices differ in their UID alone, so one of them witnesses for all.
    """
    numbers = sorted(path.stem[1:] for path in folder.glob("b*.dcm"))
    some = work.parent / f"{work.name}-in"
    some.mkdir()
    for path in [*folder.glob("a*.dcm"), folder / f"b{numbers[0]}.dcm"]:
        shutil.copy(path, some)
    sent = _witnessed(some, work)
    one = _CT[:-5] + numbers[0].encode()
    for number in numbers:
        uid = _CT[:-5] + number.encode()
        sent[uid.decode()] = sent[one.decode()].replace(one, uid)
    return sent


def _witnessed(folder: Path, work: Path) -> dict[str, bytes]:
    work.mkdir()
    (port,) = free_ports(1)
    witness = start(
        ["env", "TCP_NODELAY=1", "storescp", "+B", "+xa", "-od", str(work), "+uf", str(port)],
        work.parent / "witness.log",
        work,
    )
    try:
        wait_until(lambda: _accepts(port), [witness], "storescp listens")
        Sending(folder, port, work.parent / "witness-report.txt").finish()
    finally:
        witness.kill()
    return {uid: dataset for path in work.iterdir() for uid, dataset in [_part10(path.read_bytes())]}


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _part10(content: bytes) -> tuple[str, bytes]:
    return read_meta(content).sop_instance_uid, content[part10_meta_length(content) :]


def extracted(node: LocalNode) -> dict[str, bytes]:
    """Every instance of a node's log, by SOP Instance UID, as plain tar extracts it from the bare directory."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for segment in sorted((node.data_dir / "log").glob("*.tar")):
            done = subprocess.run(["tar", "xf", str(segment)], cwd=work, capture_output=True, text=True, check=True)
            assert done.stderr == "", done.stderr
        return {uid: dataset for path in work.rglob("*.dcm") for uid, dataset in [_part10(path.read_bytes())]}


def copies(cluster: LocalCluster, uid: str, dataset: bytes, holdings: dict[str, dict[str, bytes]]) -> int:
    return sum(1 for node in cluster.nodes if holdings[node.id].get(uid) == dataset)


def assert_kept(cluster: LocalCluster, acknowledged: set[str], sent: dict[str, bytes]) -> None:
    """Everything that was answered with Success lies on at least two nodes, byte for byte."""
    holdings = {node.id: extracted(node) for node in cluster.nodes}
    missing = [uid for uid in acknowledged if copies(cluster, uid, sent[uid], holdings) < 2]
    assert not missing, f"{len(missing)} of {len(acknowledged)} acknowledged instances are not on two nodes"


def signalled(running: Running | None) -> Running:
    assert running is not None
    return running
