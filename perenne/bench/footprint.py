"""Memory of two nodes over many instances and one giant, and how long a node with a long log takes to start."""

import tempfile
import time
from pathlib import Path

import uvloop

from perenne.bench.cluster import cluster_of
from perenne.bench.load import SIZES, fill, store_giant
from perenne.bench.results import Results, say
from perenne.local.cluster import AE_TITLE, LocalCluster, LocalNode

STEPS = 4


def footprint(instances: int, giant_bytes: int) -> Results:
    """Fill two nodes in steps, pass a giant through leader and follower, start the follower again."""
    results: Results = {}
    with tempfile.TemporaryDirectory(prefix="perenne-bench-") as name, cluster_of(Path(name), 2) as cluster:
        leader = cluster.wait_ready()
        follower = next(node for node in cluster.nodes if node is not leader)
        pair = {"leader": leader, "follower": follower}
        results["memory at rest, MiB"] = {role: _resident(node) for role, node in pair.items()}
        sop_class, size = SIZES["CT 525 KB"]
        for step in range(1, STEPS + 1):
            some = fill(leader.dicom_port, AE_TITLE, sop_class, size, associations=4, count=instances // STEPS)
            uvloop.run(some)
            label = f"memory after {instances * step // STEPS} instances, MiB"
            results[label] = {role: _resident(node) for role, node in pair.items()}
            say(f"{label}: {results[label]}")
        for role, node in pair.items():
            for each in pair.values():
                _forget_peak(each)
            uvloop.run(store_giant(node.dicom_port, AE_TITLE, giant_bytes))
            label = f"peak memory while {giant_bytes >> 20} MiB pass, sent to the {role}, MiB"
            results[label] = {which: _resident(each, "VmHWM") for which, each in pair.items()}
            say(f"{label}: {results[label]}")
        results["start of a node"] = _start_again(cluster, follower)
    return results


def _start_again(cluster: LocalCluster, node: LocalNode) -> dict[str, float]:
    assert node.running is not None, "it was started"
    log_bytes = sum(file.stat().st_size for file in (node.data_dir / "log").glob("*.tar"))
    node.running.stop()
    began = time.monotonic()
    cluster.start_node(node)
    cluster.wait_for(lambda: node.get("/livez")[0] == 200, "the node answers")
    return {"log GiB": round(log_bytes / 2**30, 2), "s until it answers": round(time.monotonic() - began, 3)}


def _resident(node: LocalNode, field: str = "VmRSS") -> float:
    """MiB of a node's process, from /proc."""
    assert node.running is not None, "it was started"
    for line in Path(f"/proc/{node.running.pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return round(int(line.split()[1]) / 1024, 1)
    raise RuntimeError(f"/proc does not tell {field}")


def _forget_peak(node: LocalNode) -> None:
    assert node.running is not None, "it was started"
    Path(f"/proc/{node.running.pid}/clear_refs").write_text("5")
