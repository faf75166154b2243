"""`script/bench`: throughput beside storescp and Orthanc, and the pauses of failover and switchover."""

import argparse
import asyncio
import json
import shutil
import socket
import statistics
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvloop

from perenne.bench.load import SIZES, Pulse, echo_rate, rate
from perenne.local.cluster import AE_TITLE, LocalCluster
from perenne.local.processes import Running, free_ports, start, wait_until

Results = dict[str, dict[str, float]]


def run(arguments: Sequence[str]) -> int:
    """Parse, measure, print; returns the exit code."""
    parser = argparse.ArgumentParser(prog="script/bench", description=__doc__)
    parser.add_argument("what", nargs="*", metavar="stores|failover", help="default: both")
    parser.add_argument("--seconds", type=float, default=4.0, help="per measurement (%(default)s)")
    parser.add_argument("--repeat", type=int, default=3, help="medians of so many (%(default)s)")
    parser.add_argument("--rounds", type=int, default=20, help="of failover and switchover (%(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    options = parser.parse_args(list(arguments))
    chosen = set(options.what or ["stores", "failover"])
    results: Results = {}
    if "stores" in chosen:
        results |= _stores(options.seconds, options.repeat)
    if "failover" in chosen:
        results |= uvloop.run(_failover(options.rounds))
    _print(results, as_json=options.json)
    return 0


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


@contextmanager
def _cluster(directory: Path, nodes: int, session_timeout_ms: int = 6000) -> Generator[LocalCluster]:
    cluster = LocalCluster(directory)
    cluster.session_timeout_ms = session_timeout_ms
    try:
        cluster.start(nodes, lambda _: None)
        yield cluster
    finally:
        cluster.kill()


@contextmanager
def _process(command: list[str], directory: Path, port: int) -> Generator[Running]:
    directory.mkdir(parents=True, exist_ok=True)
    process = start(command, directory / "output.log", directory)
    try:
        wait_until(lambda: _listens(port), [process], f"{command[0]} listens")
        yield process
    finally:
        process.kill()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _measure(name: str, port: int, called_ae: str, seconds: float, repeat: int) -> Results:
    found: dict[str, float] = {}
    for label, (sop_class, size) in SIZES.items():
        for associations in (1, 4):
            rates = [
                uvloop.run(rate(port, called_ae, sop_class, size, associations=associations, seconds=seconds))
                for _ in range(repeat)
            ]
            found[f"{label} x{associations} per s"] = statistics.median(rates)
    _say(f"{name}: {found}")
    return {name: found}


def _stores(seconds: float, repeat: int) -> Results:
    results: Results = {}
    with tempfile.TemporaryDirectory(prefix="perenne-bench-") as name:
        work = Path(name)
        with _cluster(work / "two", 2) as cluster:
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
            _say("Orthanc is not installed: apt-get install orthanc, and run again for its ratio")
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
    with _process(command, directory, dicom):
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


async def _failover(rounds: int) -> Results:
    """A sender at one node; the leader, another one, is killed or asked to hand over, again and again."""
    killed: list[float] = []
    switched: list[float] = []
    with tempfile.TemporaryDirectory(prefix="perenne-bench-") as name, _cluster(Path(name), 3, 2000) as cluster:
        for number in range(rounds):
            await _all_in_sync(cluster)
            killed.append(await _pause(cluster, kill=True))
            await _all_in_sync(cluster)
            switched.append(await _pause(cluster, kill=False))
            _say(f"round {number + 1}: killed {killed[-1]:.2f} s, switchover {switched[-1]:.2f} s")
    return {
        "pause, leader killed (session 2 s)": _distribution(killed),
        "pause, switchover": _distribution(switched),
    }


async def _all_in_sync(cluster: LocalCluster) -> None:
    def ready() -> bool:
        leader = cluster.leader()
        return leader is not None and len(leader.status()["in_sync"]) == len(cluster.nodes)

    for node in cluster.nodes:
        if not node.alive:
            cluster.start_node(node)
    await asyncio.to_thread(cluster.wait_for, ready, "all nodes are in sync")


async def _pause(cluster: LocalCluster, *, kill: bool) -> float:
    """The longest time between two acknowledgements at a follower while the leader changes."""
    first = cluster.leader()
    assert first is not None and first.running is not None, "the cluster was ready"
    receiver = next(node for node in cluster.nodes if node is not first)
    pulse = Pulse(receiver.dicom_port, AE_TITLE)
    pulse.start()
    while pulse.stored < 20:
        await asyncio.sleep(0.01)
    pulse.mark()
    if kill:
        first.running.kill()
    else:
        hosts = f"127.0.0.1:{cluster.zookeeper_port}"
        command = [sys.executable, "-m", "perenne.cli", "switchover", "--zookeeper", hosts]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
        await process.wait()

    def changed() -> bool:
        leader = cluster.leader()
        return leader is not None and leader is not first

    await asyncio.to_thread(cluster.wait_for, changed, "another node leads")
    settled = pulse.stored + 50
    while pulse.stored < settled:
        await asyncio.sleep(0.01)
    await pulse.stop()
    return pulse.longest


def _distribution(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    at = min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))
    return {
        "p50 s": round(statistics.median(ordered), 3),
        "p95 s": round(ordered[at], 3),
        "max s": round(ordered[-1], 3),
        "rounds": len(ordered),
    }


def _print(results: Results, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(results, indent=2) + "\n")
        return
    for name, figures in results.items():
        sys.stdout.write(f"{name}\n")
        for label, value in figures.items():
            sys.stdout.write(f"    {label:24} {value:12.3f}\n")
    for other in ("storescp, never syncs", "Orthanc, one copy"):
        for name in ("two copies, at the leader", "two copies, at the follower", "one copy, standalone"):
            if other in results and name in results:
                pairs = {label: results[name][label] / results[other][label] for label in results[other]}
                text = ", ".join(f"{label.removesuffix(' per s')} {ratio:.2f}" for label, ratio in pairs.items())
                sys.stdout.write(f"{name} / {other}: {text}\n")
