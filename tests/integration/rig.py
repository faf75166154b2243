"""A real cluster, real senders, and plain tar as the judge."""

import asyncio
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from perenne.bench.load import CT, EXPLICIT_LE
from perenne.dimse.sender import Sender
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
PERENNE = (sys.executable, "-m", "perenne.cli")
_CT = b"1.3.6.1.4.1.5962.1.1.1.1.1.20040119072730.12322"


@contextmanager
def running_cluster(directory: Path, nodes: int = 3, extra: str = "") -> Generator[LocalCluster]:
    """A cluster with a session time-out of 2 s and small segments; everything is killed at the end."""
    cluster = LocalCluster(directory)
    cluster.session_timeout_ms = 2000
    cluster.extra = extra + SMALL
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


def rot(node: LocalNode, data: bytes) -> None:
    """Change bytes of an instance in a node's log, behind its back."""
    for segment in (node.data_dir / "log").glob("*.tar"):
        at = segment.read_bytes().find(data[-40_000:])
        if at > 0:
            with segment.open("r+b") as file:
                file.seek(at + 100)
                file.write(b"rotten")


def damaged(node: LocalNode) -> int:
    return int(node.status()["disk"]["damaged_records"])


def signalled(running: Running | None) -> Running:
    assert running is not None
    return running


@contextmanager
def standalone(directory: Path, extra: str = "", *arguments: str) -> Generator[LocalNode]:
    """One node without ZooKeeper; killed at the end."""
    directory.mkdir(parents=True, exist_ok=True)
    dicom, http, peer = free_ports(3)
    node = LocalNode("solo", directory, dicom, http, peer)
    node.config.write_text(
        f'[node]\nid = "solo"\ndata_dir = "{node.data_dir}"\n'
        f'[peer]\nhost = "127.0.0.1"\nport = {node.peer_port}\n'
        f'[dimse]\nhost = "127.0.0.1"\nport = {node.dicom_port}\n'
        f'[http]\nhost = "127.0.0.1"\nport = {node.http_port}\n{extra}'
    )
    command = [sys.executable, "-m", "perenne.cli", "node", "--config", str(node.config), *arguments]
    node.running = start(command, directory / "node.log", directory)
    try:
        wait_until(lambda: node.get("/livez")[0] == 200, [node.running], "the node answers")
        yield node
    finally:
        node.running.kill()


SOLO = "[cluster]\nallow_solo = true\n"


def made(number: int, *, filler: bytes = b"", patient: bytes = b"DOE^JANE") -> tuple[str, bytes]:
    """A small CT data set of its own: (SOP Instance UID, explicit little endian bytes)."""
    uid = f"1.2.826.0.1.3680043.10.1337.77.{number}"

    def element(group: int, tag: int, vr: bytes, value: bytes) -> bytes:
        value += (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
        return struct.pack("<HH2sH", group, tag, vr, len(value)) + value

    parts = [
        element(8, 0x16, b"UI", CT.encode()),
        element(8, 0x18, b"UI", uid.encode()),
        element(0x10, 0x10, b"PN", patient),
        element(0x10, 0x20, b"LO", b"PID-4711"),
        element(0x20, 0x0D, b"UI", b"1.2.826.0.1.3680043.10.1337.77"),
        element(0x20, 0x0E, b"UI", b"1.2.826.0.1.3680043.10.1337.77.0"),
        struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OW", 0, len(filler)) + filler,
    ]
    return uid, b"".join(parts)


def store(node: LocalNode, *made_ones: tuple[str, bytes]) -> list[tuple[int | None, str]]:
    """Send instances over one association; return status and comment of each."""

    async def send() -> list[tuple[int | None, str]]:
        sender = await Sender.associate("127.0.0.1", node.dicom_port, [(CT, [EXPLICIT_LE])], called_ae="PERENNE")
        async with sender:
            answers = [await sender.store(CT, uid, EXPLICIT_LE, [data]) for uid, data in made_ones]
            return [(answer.status, answer.comment) for answer in answers]

    return asyncio.run(send())


def perenne(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as an operator does."""
    return subprocess.run([*PERENNE, *arguments], capture_output=True, text=True, timeout=60, check=False)
