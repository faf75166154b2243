"""How long acknowledgements pause when the leader is killed, and when it is asked to hand over."""

import asyncio
import statistics
import sys
import tempfile
from pathlib import Path

from perenne.bench.cluster import cluster_of
from perenne.bench.load import Pulse
from perenne.bench.results import Results, say
from perenne.local.cluster import AE_TITLE, LocalCluster


async def failover(rounds: int) -> Results:
    """A sender at one node; the leader, another one, is killed or asked to hand over, again and again."""
    killed: list[float] = []
    switched: list[float] = []
    with tempfile.TemporaryDirectory(prefix="perenne-bench-") as name, cluster_of(Path(name), 3, 2000) as cluster:
        for number in range(rounds):
            await _all_in_sync(cluster)
            killed.append(await _pause(cluster, kill=True))
            await _all_in_sync(cluster)
            switched.append(await _pause(cluster, kill=False))
            say(f"round {number + 1}: killed {killed[-1]:.2f} s, switchover {switched[-1]:.2f} s")
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
