"""Synchronous writes to the tier: a node whose other copy is a bucket, beside a bare boto3 loop at the same server."""

import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import boto3
import uvloop
from botocore.config import Config

from perenne.bench.load import SIZES, instances, rate
from perenne.bench.results import Results, say
from perenne.config import TierConfig
from perenne.config_tier import blocking_store
from perenne.local.cluster import AE_TITLE, LocalCluster
from perenne.local.processes import free_ports, listens, start, wait_until
from perenne.local.seaweedfs import ACCESS_KEY, SECRET_KEY, start_store

BUCKET = "perenne"
_DELAY = (sys.executable, "-m", "perenne.bench.delay")
CONCURRENCY = (1, 4, 8)
AWAY_MS = (0, 5)
"""How far the bucket is, one way: on this machine, and where a SAN of the hospital or a near cloud is at the best."""


def tier(seconds: float, repeat: int) -> Results:
    """Instances per second, in turns: both meet the same disturbances."""
    results: Results = {"tier, through a node": {}, "tier, bare boto3 loop": {}, "tier, node / boto3": {}}
    for away_ms in AWAY_MS:
        for label in SIZES:
            _one_size(label, away_ms, seconds, repeat, results)
    return results


def _one_size(label: str, away_ms: int, seconds: float, repeat: int, results: Results) -> None:
    """A cluster of its own: nothing of another size is still being packed into large objects beside it."""
    node_rates, bare_rates, ratios = results.values()
    sop_class, size = SIZES[label]
    with ExitStack() as ending:
        work = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="perenne-bench-")))
        store = start_store(work / "seaweedfs")
        ending.callback(store.kill)
        endpoint = store.endpoint
        if away_ms:
            (port,) = free_ports(1)
            way = start([*_DELAY, str(port), str(store.port), str(away_ms)], work / "way.log", work)
            ending.callback(way.kill)
            wait_until(lambda: listens(port), [way], "the way to the bucket is open")
            endpoint = f"http://127.0.0.1:{port}"
        cluster = LocalCluster(work / "cluster")
        cluster.extra = tier_section(endpoint, work)
        ending.callback(cluster.kill)
        cluster.start(1, lambda _: None)
        leader = cluster.wait_ready()
        cluster.wait_for(lambda: "tier" in leader.status()["in_sync"], "the tier is a member")
        for many in CONCURRENCY:
            through: list[float] = []
            bare: list[float] = []
            for _ in range(repeat):
                stored = rate(leader.dicom_port, AE_TITLE, sop_class, size, associations=many, seconds=seconds)
                through.append(uvloop.run(stored))
                bare.append(_bare(endpoint, sop_class, size, many, seconds))
            key = f"{label} x{many}{f', {away_ms} ms away' if away_ms else ''}"
            node_rates[key], bare_rates[key] = statistics.median(through), statistics.median(bare)
            ratios[key] = statistics.median(a / b for a, b in zip(through, bare, strict=True))
            say(f"{key}: {node_rates[key]:.1f}, boto3 {bare_rates[key]:.1f}, ratio {ratios[key]:.2f}")


def tier_section(endpoint: str, work: Path, mode: str = "synchronous") -> str:
    """What node.toml says of that bucket, which is made."""
    credentials = work / "credentials"
    keys = f"aws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
    credentials.write_text(f"[default]\n{keys}")
    blocking_store(TierConfig(endpoint=endpoint, bucket=BUCKET, credentials_file=credentials), {}).prepare()
    return (
        f'[tier]\nmode = "{mode}"\nendpoint = "{endpoint}"\nbucket = "{BUCKET}"\n'
        f'credentials_file = "{credentials}"\ngive_up_ms = 20000\nattempt_timeout_ms = 10000\n'
    )


def _bare(endpoint: str, sop_class: str, size: int, threads: int, seconds: float) -> float:
    """Objects of the same bytes per second, one per instance, after the same warm-up."""
    session: Any = boto3.Session()  # its stub knows the services that are not installed
    client = session.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        region_name="us-east-1",
        config=Config(max_pool_connections=threads, s3={"addressing_style": "path"}),
    )
    warm_until = time.monotonic() + seconds / 4
    until = warm_until + seconds

    def some(number: int) -> int:
        done = 0
        for uid, pieces in instances(sop_class, size):
            client.put_object(Bucket=BUCKET, Key=f"bare/{number}/{uid}", Body=b"".join(pieces))
            now = time.monotonic()
            if now >= until:
                break
            done += now >= warm_until
        return done

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(some, range(threads))) / seconds
