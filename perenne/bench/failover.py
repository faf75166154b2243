"""How long acknowledgements pause: when the leader is killed, when it is asked to hand over, and with two nodes and a
tier when the other node is killed, and then the leader together with its disk.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from shutil import rmtree

from perenne.bench.cluster import cluster_of
from perenne.bench.load import Pulse
from perenne.bench.results import Results, say
from perenne.bench.tier import tier_section
from perenne.local.cluster import AE_TITLE, LocalCluster
from perenne.local.seaweedfs import start_store


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
    } | await _with_tier(rounds)


async def _with_tier(rounds: int) -> Results:
    """Two nodes and a real S3 server: the follower is killed, so the tier takes its place; then the leader and its disk
    are destroyed, and the follower comes back and takes over from the bucket.
    """
    without: list[float] = []
    back: list[float] = []
    with tempfile.TemporaryDirectory(prefix="perenne-bench-") as name, ExitStack() as ending:
        work = Path(name)
        store = start_store(work / "seaweedfs")
        ending.callback(store.kill)
        cluster = LocalCluster(work / "cluster")
        ending.callback(cluster.kill)
        cluster.session_timeout_ms = 2000
        cluster.extra = tier_section(store.endpoint, work, "standby")
        cluster.start(2)
        for number in range(rounds):
            await _all_in_sync(cluster)
            without.append(await _follower_killed(cluster))
            back.append(await _leader_destroyed(cluster))
            say(f"round {number + 1}: follower killed {without[-1]:.2f} s, leader and disk gone {back[-1]:.2f} s")
    return {
        "pause, follower killed, the tier takes its place": _distribution(without),
        "until the follower, started again, leads from the bucket": _distribution(back),
    }


async def _follower_killed(cluster: LocalCluster) -> float:
    """The longest time between two acknowledgements at the leader."""
    leader = cluster.leader()
    assert leader is not None, "the cluster was ready"
    other = next(node for node in cluster.nodes if node is not leader)
    assert other.running is not None, "it was started"
    pulse = Pulse(leader.dicom_port, AE_TITLE)
    pulse.start()
    while pulse.stored < 20:
        await asyncio.sleep(0.01)
    pulse.mark()
    other.running.kill()
    both = [leader.id, "tier"]
    await asyncio.to_thread(
        cluster.wait_for, lambda: sorted(leader.status()["in_sync"]) == both, "the leader and the tier are the set"
    )
    settled = pulse.stored + 50
    while pulse.stored < settled:
        await asyncio.sleep(0.01)
    await pulse.stop()
    return pulse.longest


async def _leader_destroyed(cluster: LocalCluster) -> float:
    """From the start of the node that was away until it leads; then the lost one comes back with an empty disk."""
    leader = cluster.leader()
    assert leader is not None and leader.running is not None, "it leads with the tier"
    other = next(node for node in cluster.nodes if node is not leader)
    leader.running.kill()
    rmtree(leader.data_dir)
    began = time.monotonic()
    cluster.start_node(other)
    await asyncio.to_thread(cluster.wait_for, other.leads, "the follower leads")
    return time.monotonic() - began


async def _all_in_sync(cluster: LocalCluster) -> None:
    def ready() -> bool:
        leader = cluster.leader()
        names = {node.id for node in cluster.nodes}
        return leader is not None and names <= set(leader.status()["in_sync"])

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
