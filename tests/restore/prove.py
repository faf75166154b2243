"""The long proof of a restore: many instances, a real SeaweedFS and ZooKeeper, the cluster from the bucket alone."""

import argparse
import asyncio
import http.client
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from perenne.bench.archive import upload, write_log
from perenne.bench.line import LABEL
from perenne.bench.restore import CLUSTER, configured, copied_rate, restored
from perenne.config_reading import load_config
from perenne.local.cluster import LocalCluster, LocalNode
from perenne.local.seaweedfs import start_store
from perenne.restoring import patient
from storage.digest import digests_of
from storage.position import RecordKind

ASKED = 300
"""Instances that are read back from each node over HTTP and compared, drawn at random."""
GROWTH = 1.25
"""Memory is flat when its peak in the second half is at most so much of the peak in the first."""


def say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")


def killed(arguments: list[str], log: Path) -> None:
    """Begin a restore, and kill it when its second segment has begun. Raises RuntimeError when it was too fast."""
    command = [sys.executable, "-m", "perenne.cli", "restore", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list(log.glob("*.tar"))) < 2:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if process.returncode != -signal.SIGKILL:
        raise RuntimeError("the restore ended before it could be killed: give more --instances")


def identical(one: Path, other: Path) -> None:
    """cmp of every segment. Raises RuntimeError."""
    names = sorted(path.name for path in one.glob("*.tar"))
    if names != sorted(path.name for path in other.glob("*.tar")):
        raise RuntimeError(f"{other} has other segments than {one}")
    for name in names:
        if subprocess.run(["cmp", str(one / name), str(other / name)], check=False).returncode:
            raise RuntimeError(f"{other / name} differs from {one / name}")


def serves(node: LocalNode, made: dict[str, bytes], uids: list[str]) -> None:
    """The node gives every one of them back, byte for byte. Raises RuntimeError."""
    connection = http.client.HTTPConnection(node.host, node.http_port, timeout=30)
    for uid in uids:
        connection.request("GET", f"/instances/{uid}")
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200 or digests_of(RecordKind.INSTANCE, [body]).digest != made[uid]:
            raise RuntimeError(f"{node.id} does not serve {uid}: {answer.status}")
    connection.close()


@contextmanager
def planned_cluster(directory: Path, tier: str) -> Generator[LocalCluster]:
    """ZooKeeper runs, empty; two nodes are configured and do not run."""
    cluster = LocalCluster(directory)
    cluster.extra = tier
    directory.mkdir(parents=True)
    try:
        cluster.start_zookeeper()
        cluster.plan(2)
        yield cluster
    finally:
        cluster.kill()


def prove(work: Path, instances: int) -> dict[str, Any]:
    """Raises RuntimeError, DidNotStart with what went wrong."""
    store = start_store(work / "seaweedfs")
    try:
        config = configured(work, store.endpoint)
        say(f"writing a log of {instances} x {LABEL}")
        made = write_log(work / "archive", CLUSTER, instances, LABEL)
        say("uploading it")
        runs = asyncio.run(upload(work / "archive", CLUSTER, patient(load_config(config, {}))))
        say(f"a plain copy of the {len(runs)} objects")
        copied = copied_rate(config, work / "copy")
        tier = "[tier]" + config.read_text().split("[tier]")[1]
        with planned_cluster(work / "cluster", tier) as cluster:
            return _cluster_from_the_bucket(work, cluster, made, runs=len(runs), copied=copied)
    finally:
        store.kill()


def _cluster_from_the_bucket(
    work: Path, cluster: LocalCluster, made: dict[str, bytes], *, runs: int, copied: float
) -> dict[str, Any]:
    one, two = cluster.nodes
    for node in cluster.nodes:
        node.config.write_text(cluster.configuration(node))
    arguments = ["--config", str(one.config), "--cluster"]
    say("restoring, timed")
    timed = restored(["--config", str(one.config), "--until", "999999999", "--to", str(work / "past")])
    identical(work / "archive" / "log", work / "past" / "log")
    say(f"{timed.rate / 1e6:.0f} MB/s beside {copied / 1e6:.0f}; now one that is killed in the middle")
    killed(arguments, one.data_dir / "log")
    resumed = restored(arguments)
    if not resumed.report["this_run"]["resumed"]:
        raise RuntimeError("the second run did not go on where the first was killed")
    identical(work / "archive" / "log", one.data_dir / "log")
    say("starting the restored node")
    cluster.start_node(one)
    cluster.wait_for(lambda: one.leads() and one.ready(), "it leads and takes stores", seconds=180)
    cluster.wait_for(lambda: one.status()["instances"] == len(made), "it has indexed everything", seconds=600)
    uids = random.sample(sorted(made), min(ASKED, len(made)))
    serves(one, made, uids)
    say("an empty node joins")
    cluster.start_node(two)
    cluster.wait_for(
        lambda: sorted(one.status()["in_sync"]) == [one.id, two.id], "it holds everything too", seconds=600
    )
    cluster.wait_for(lambda: two.status()["instances"] == len(made), "it has indexed everything", seconds=600)
    serves(two, made, uids)
    half = len(timed.resident) // 2
    first, second = max(timed.resident[: half + 1]), max(timed.resident[half:])
    return {
        "instances": len(made),
        "objects": runs,
        "bytes": timed.report["this_run"]["bytes"],
        "plain_copy_bytes_per_second": round(copied),
        "restore_bytes_per_second": round(timed.rate),
        "restore_to_copy": round(timed.rate / copied, 3),
        "peak_mib_first_half": round(first, 1),
        "peak_mib_second_half": round(second, 1),
        "memory_flat": second <= GROWTH * first,
        "resumed_records": resumed.report["this_run"]["records"],
        "compared_over_http": 2 * len(uids),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="script/prove-restore",
        description="Fill a real SeaweedFS with an archive, copy its objects plainly, restore it (timed, memory seen),"
        " restore a whole cluster from the bucket alone with a kill -9 in the middle, compare every segment byte for"
        " byte, start the cluster, let an empty node join, and read instances back from both nodes.",
        epilog="example: script/prove-restore --instances 50000. Needs about 6 GB; exit code 0 when everything holds.",
    )
    parser.add_argument("--instances", type=int, default=50_000, help="default %(default)s")
    parser.add_argument("--dir", type=Path, help="where to work; else a temporary directory")
    options = parser.parse_args()
    if options.dir is not None:
        options.dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="prove-restore-", dir=options.dir) as name:
        try:
            result = prove(Path(name), options.instances)
        except (RuntimeError, ValueError) as error:
            say(f"FAILED: {error}")
            return 1
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
    return 0 if result["memory_flat"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
