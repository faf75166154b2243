"""Goal: metrics say what is missing: a node that is registered and away, and the tier, with what they lack.

Method: real nodes that are killed or retired, a tier that is moved away, and what /metrics answers.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from perenne.config import TierConfig
from perenne.config_tier import blocking_store
from perenne.local.cluster import LocalCluster, LocalNode
from tests.integration import rig

SIZE: Final = 2000
LAGS: Final = ("records", "bytes", "seconds")


def scraped(node: LocalNode) -> dict[str, float]:
    """Every sample, by its name with labels."""
    status, body = node.get("/metrics")
    lines = body.decode().splitlines() if status == 200 else []
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}


def leaders(cluster: LocalCluster) -> dict[str, float]:
    """What the leader answers; nothing while nobody leads."""
    first = cluster.leader()
    return scraped(first) if first is not None else {}


def lag(found: Mapping[str, float], replica: str) -> tuple[float, ...]:
    """Records, bytes and seconds; -1 where there is no series."""
    return tuple(found.get(f'perenne_replica_lag_{of}{{replica="{replica}"}}', -1) for of in LAGS)


def connected(found: Mapping[str, float], replica: str) -> float:
    return found.get(f'perenne_replica_connected{{replica="{replica}"}}', -1)


def stored(node: LocalNode, first: int, count: int) -> None:
    answers = rig.store(node, *(rig.made(number, filler=bytes(SIZE)) for number in range(first, first + count)))
    assert [status for status, _ in answers] == [0] * count


def all_is_well(cluster: LocalCluster) -> bool:
    """By the leader's own word, of every other node."""
    first, found = cluster.leader(), leaders(cluster)
    others = [node.id for node in cluster.nodes if node is not first]
    return (
        found.get("perenne_nodes_registered") == found.get("perenne_nodes_connected") == len(cluster.nodes)
        and found["perenne_under_replicated_records"] == 0
        and all(connected(found, replica) == 1 and lag(found, replica) == (0, 0, 0) for replica in others)
    )


def test_a_node_that_is_gone_is_missed_by_any_leader_until_it_is_back(tmp_path: Path) -> None:
    with rig.running_cluster(tmp_path / "cluster") as cluster:
        first, gone = rig.leader(cluster), rig.follower(cluster)
        (other,) = [node for node in cluster.nodes if node not in (first, gone)]
        stored(first, 0, 40)
        cluster.wait_for(lambda: all_is_well(cluster), "everybody has everything")
        rig.signalled(gone.running).kill()
        cluster.wait_for(lambda: rig.in_sync(cluster) == {first.id, other.id}, "the set goes on without it")

        stored(first, 40, 30)
        before = scraped(first)
        stored(first, 70, 30)
        found = scraped(first)
        assert (found["perenne_nodes_registered"], found["perenne_nodes_connected"]) == (3, 2)
        assert (connected(found, gone.id), connected(found, other.id)) == (0, 1)
        cluster.wait_for(lambda: connected(scraped(other), gone.id) == 0, "a follower misses it as well")
        records, size, _ = lag(found, gone.id)
        # It may have died with up to a second of confirmations that nobody has noted.
        assert 60 <= records <= 100
        assert found["perenne_under_replicated_records"] == records
        assert records * SIZE < size < records * 3 * SIZE, "with headers and padding"
        grown = [now - then for now, then in zip(lag(found, gone.id), lag(before, gone.id), strict=True)]
        assert grown[0] == 30 and grown[1] > 30 * SIZE and grown[2] > 0
        assert lag(found, other.id) == (0, 0, 0)
        facts = first.status()
        assert facts["health"] == "degraded" and f"{gone.id} not connected" in facts["reasons"]

        # Whoever leads next has never fed it: it knows when it was in sync, or what it said at its start.
        rig.signalled(first.running).kill()
        cluster.start_node(first)
        cluster.wait_for(lambda: rig.in_sync(cluster) == {first.id, other.id}, "both are in sync again")
        cluster.wait_for(lambda: lag(leaders(cluster), gone.id)[0] >= records, "the new leader has the lag of it")
        found = leaders(cluster)
        assert found["perenne_under_replicated_records"] >= records and connected(found, gone.id) == 0

        cluster.start_node(gone)
        cluster.wait_for(lambda: all_is_well(cluster), "it is back and lacks nothing")


def test_a_retired_node_is_missed_by_nobody(tmp_path: Path) -> None:
    with rig.running_cluster(tmp_path / "cluster") as cluster:
        first, gone = rig.leader(cluster), rig.follower(cluster)
        cluster.wait_for(lambda: scraped(first).get("perenne_nodes_registered") == 3, "the register was read")
        where = ("--zookeeper", f"127.0.0.1:{cluster.zookeeper_port}")
        done = rig.perenne("node", "retire", gone.id, *where)
        assert done.returncode == 0, done.stderr
        cluster.wait_for(lambda: scraped(first).get("perenne_nodes_registered") == 2, "it is not counted")
        cluster.wait_for(lambda: rig.in_sync(cluster) == {n.id for n in cluster.nodes if n is not gone}, "two are left")
        found = scraped(first)
        assert found["perenne_under_replicated_records"] == 0 and found["perenne_nodes_connected"] == 2
        assert lag(found, gone.id) == (-1, -1, -1) and connected(found, gone.id) == -1
        stored(first, 0, 20)
        assert scraped(first)["perenne_under_replicated_records"] == 0


def test_who_is_left_alone_says_that_nobody_could_take_over(tmp_path: Path) -> None:
    """The tier is the other copy, so stores go on, and nothing else would tell of it."""
    mount = tmp_path / "san"
    mount.mkdir()
    blocking_store(TierConfig(kind="directory", directory=mount), {}).prepare()
    extra = f'[tier]\nkind = "directory"\ndirectory = "{mount}"\n'
    with rig.running_cluster(tmp_path / "cluster", nodes=2, extra=extra) as cluster:
        first, gone = rig.leader(cluster), rig.follower(cluster)
        asked = ("status", "--cluster", str(cluster.directory / "cluster.json"), "--json")
        cluster.wait_for(
            lambda: first.status()["failover"] == {"possible": True, "why_not": None}, "another could lead"
        )
        assert gone.status()["failover"] is None
        done = rig.perenne("node", "retire", gone.id, "--zookeeper", f"127.0.0.1:{cluster.zookeeper_port}")
        assert done.returncode == 0, done.stderr
        cluster.wait_for(lambda: "tier" in first.status()["in_sync"], "the tier takes its place")
        cluster.wait_for(lambda: first.status()["failover"]["possible"] is False, "and it is known who is registered")
        stored(first, 0, 5)
        done = rig.perenne(*asked)
        reasons = [node["reasons"] for node in json.loads(done.stdout)["nodes"] if node["node"] == first.id]
        assert done.returncode == 1 and len(reasons) == 1
        assert any(why.startswith("no failover is possible: no other node") for why in reasons[0])


def test_the_tier_lacks_what_it_lacks_in_the_same_series(tmp_path: Path) -> None:
    mount, away = tmp_path / "san", tmp_path / "away"
    mount.mkdir()
    blocking_store(TierConfig(kind="directory", directory=mount), {}).prepare()
    extra = f'[tier]\nkind = "directory"\ndirectory = "{mount}"\n'
    with rig.running_cluster(tmp_path / "cluster", nodes=2, extra=extra) as cluster:
        first, second = rig.leader(cluster), rig.follower(cluster)
        stored(first, 0, 10)
        cluster.wait_for(lambda: lag(scraped(first), "tier") == (0, 0, 0), "the tier has everything")
        assert lag(scraped(second), "tier") == (-1, -1, -1), "who does not lead knows nothing of it"
        mount.rename(away)
        try:
            stored(first, 10, 30)
            found = scraped(first)
            records, size, seconds = lag(found, "tier")
            assert records == 30 and 30 * SIZE < size < 90 * SIZE and seconds > 0
            assert found["perenne_under_replicated_records"] == 0, "both nodes have everything"
        finally:
            away.rename(mount)
        cluster.wait_for(lambda: lag(scraped(first), "tier") == (0, 0, 0), "the tier has followed")
