"""Instances per second, beside storescp and Orthanc."""

import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import uvloop

from perenne.bench.cluster import cluster_of
from perenne.bench.load import SIZES, echo_rate, rate
from perenne.bench.results import Results, say
from perenne.local.cluster import AE_TITLE, LocalNode
from perenne.local.processes import Running, free_ports, listens, start, wait_until


@contextmanager
def _process(command: list[str], directory: Path, port: int) -> Generator[Running]:
    directory.mkdir(parents=True, exist_ok=True)
    process = start(command, directory / "output.log", directory)
    try:
        wait_until(lambda: listens(port), [process], f"{command[0]} listens")
        yield process
    finally:
        process.kill()


def _measure(name: str, port: int, called_ae: str, seconds: float, repeat: int) -> Results:
    found: dict[str, float] = {}
    for label, (sop_class, size) in SIZES.items():
        for associations in (1, 4):
            rates = [
                uvloop.run(rate(port, called_ae, sop_class, size, associations=associations, seconds=seconds))
                for _ in range(repeat)
            ]
            found[f"{label} x{associations} per s"] = statistics.median(rates)
    say(f"{name}: {found}")
    return {name: found}


def stores(seconds: float, repeat: int) -> Results:
    results: Results = {}
    with tempfile.TemporaryDirectory(prefix="perenne-bench-") as name:
        work = Path(name)
        with cluster_of(work / "two", 2) as cluster:
            leader = cluster.wait_ready()
            follower = next(node for node in cluster.nodes if node is not leader)
            results |= _measure("two copies, at the leader", leader.dicom_port, AE_TITLE, seconds, repeat)
            results |= _measure("two copies, at the follower", follower.dicom_port, AE_TITLE, seconds, repeat)
            echoes = uvloop.run(echo_rate(leader.dicom_port, AE_TITLE, associations=4, seconds=seconds))
            results["C-ECHO"] = {"x4 per s": echoes}
        with _solo(work / "solo") as port:
            results |= _measure("one copy, standalone", port, AE_TITLE, seconds, repeat)
        if shutil.which("storescp"):
            (port,) = free_ports(1)
            command = [
                "env",
                "TCP_NODELAY=1",
                "storescp",
                "--fork",
                "+B",
                "+xa",
                "--max-pdu",
                "131072",
                "-od",
                ".",
                "+uf",
                str(port),
            ]
            with _process(command, work / "storescp", port):
                results |= _measure("storescp, never syncs", port, "ANY-SCP", seconds, repeat)
        orthanc = shutil.which("Orthanc")
        if orthanc:
            with _orthanc(orthanc, work / "orthanc") as port:
                results |= _measure("Orthanc, one copy", port, "ORTHANC", seconds, repeat)
        else:
            say("Orthanc is not installed: apt-get install orthanc, and run again for its ratio")
    return results


@contextmanager
def _solo(directory: Path) -> Generator[int]:
    directory.mkdir(parents=True)
    dicom, http, peer = free_ports(3)
    config = directory / "node.toml"
    config.write_text(
        f'[node]\nid = "solo"\ndata_dir = "{directory}/data"\n[cluster]\nallow_solo = true\n'
        f'[peer]\nhost = "127.0.0.1"\nport = {peer}\n[dimse]\nhost = "127.0.0.1"\nport = {dicom}\n'
        f'[http]\nhost = "127.0.0.1"\nport = {http}\n'
    )
    command = [sys.executable, "-m", "perenne.cli", "node", "--config", str(config)]
    with _process(command, directory, dicom) as process:
        node = LocalNode("solo", directory, dicom, http, peer)
        wait_until(node.ready, [process], "the node takes stores")
        yield dicom


@contextmanager
def _orthanc(binary: str, directory: Path) -> Generator[int]:
    directory.mkdir(parents=True)
    dicom, http = free_ports(2)
    config: dict[str, object] = {
        "Name": "bench",
        "StorageDirectory": str(directory / "data"),
        "IndexDirectory": str(directory / "data"),
        "DicomAet": "ORTHANC",
        "DicomPort": dicom,
        "HttpPort": http,
        "SyncStorageArea": True,
    }
    (directory / "orthanc.json").write_text(json.dumps(config))
    with _process(["env", "TCP_NODELAY=1", binary, str(directory / "orthanc.json")], directory, dicom):
        yield dicom
