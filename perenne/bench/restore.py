"""`script/bench restore`: a restore from a real S3 server, beside a plain copy of the same objects over the same path.

Both run as processes of their own, in turn: GET, write, fsync; the restore proves every record besides. The path is the
loopback, and once more, as root, a line of one gigabit per second: everything in a network namespace of its own.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from statistics import median
from typing import Any, Final

from perenne.bench.archive import upload, write_log
from perenne.bench.line import as_asked, both_ways
from perenne.bench.results import Results, say
from perenne.config import TierConfig
from perenne.config_reading import load_config
from perenne.config_tier import blocking_store
from perenne.local.seaweedfs import ACCESS_KEY, SECRET_KEY, start_store
from perenne.restoring import patient
from replication.coordination.port import ClusterRecord
from replication.tier.keys import LOG

CLUSTER: Final = ClusterRecord("be9c4be9c4be9c4b", 1, 256 * 1024 * 1024)
CONNECTIONS: Final = 8
"""As a node has them."""


def restore(count: int, repeat: int) -> Results:
    """Medians of so many rounds. count: of small instances; of large ones about as many bytes."""
    return both_ways("perenne.bench.restore", measured, count, repeat)


def measured(label: str, count: int, repeat: int, over: str) -> Results:
    """over: what path this is, for people."""
    with tempfile.TemporaryDirectory(prefix="perenne-bench-") as name:
        work = Path(name)
        store = start_store(work / "seaweedfs")
        try:
            config = configured(work, store.endpoint)
            write_log(work / "archive", CLUSTER, count, label)
            runs = asyncio.run(upload(work / "archive", CLUSTER, patient(load_config(config, {}))))
            say(f"{count} x {label} in {len(runs)} objects are in the bucket{over}")
            rounds: list[tuple[float, float, float]] = []
            peak = 0.0
            for _ in range(repeat):
                copied = copied_rate(config, work / "copy")
                restored = restored_past(config, work / "past")
                rounds.append((copied, restored.rate, restored.rate / copied))
                peak = restored.peak_mib
                say(f"copy {copied / 1e6:.0f} MB/s, restore {restored.rate / 1e6:.0f} MB/s, peak {peak:.0f} MiB")
        finally:
            store.kill()
    copy, back, ratio = (median(column) for column in zip(*rounds, strict=True))
    return {
        f"restore of {count} x {label} from SeaweedFS{over}": {
            "plain copy, MB/s": round(copy / 1e6, 1),
            "restore, MB/s": round(back / 1e6, 1),
            "restore / plain copy": round(ratio, 3),
            "restore peak, MiB": round(peak, 1),
        }
    }


def configured(work: Path, endpoint: str, more: str = "") -> Path:
    """A node's configuration with that bucket, which is made."""
    credentials = work / "credentials"
    keys = f"aws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
    credentials.write_text(f"[default]\n{keys}")
    tier = TierConfig(endpoint=endpoint, bucket="perenne", credentials_file=credentials)
    blocking_store(tier, {}).prepare()
    file = work / "node.toml"
    file.write_text(
        f'[node]\nid = "n1"\ndata_dir = "{work}/n1/data"\n'
        f'[tier]\nendpoint = "{endpoint}"\nbucket = "perenne"\ncredentials_file = "{credentials}"\n'
        f"attempt_timeout_ms = 30000\ngive_up_ms = 60000\n{more}"
    )
    return file


@dataclass(frozen=True, slots=True)
class Restored:
    """rate in bytes per second; resident: MiB of the process, every tenth of a second."""

    report: dict[str, Any]
    resident: tuple[float, ...]

    @property
    def rate(self) -> float:
        return float(self.report["this_run"]["bytes_per_second"])

    @property
    def peak_mib(self) -> float:
        return max(self.resident, default=0.0)


def restored_past(config: Path, to: Path) -> Restored:
    """Restore everything into a directory that is thrown away."""
    try:
        return restored(["--config", str(config), "--until", "999999999", "--to", str(to)])
    finally:
        rmtree(to, ignore_errors=True)
        os.sync()


def restored(arguments: Sequence[str]) -> Restored:
    """Run `perenne restore`, and watch its memory. Raises RuntimeError when it fails."""
    command = [sys.executable, "-m", "perenne.cli", "restore", "--json", *arguments]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output)
        resident: list[float] = []
        while process.poll() is None:
            resident.append(_resident(process.pid))
            time.sleep(0.1)
        output.seek(0)
        text = output.read()
    if process.returncode != 0:
        raise RuntimeError(f"the restore failed: {text}")
    return Restored(json.loads(text), tuple(resident))


def _resident(pid: int) -> float:
    """MiB of a process and of those that it started."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0.0  # it has just ended
    own = next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")), 0.0)
    return own + sum(_resident(int(child)) for child in children)


def copied_rate(config: Path, to: Path) -> float:
    """Copy every object in a process of its own; return bytes per second."""
    command = [sys.executable, "-m", "perenne.bench.restore", str(config), str(to)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return float(done.stdout)
    finally:
        rmtree(to, ignore_errors=True)
        os.sync()


def _copy(config: Path, to: Path) -> float:
    """GET, write and fsync every object, with as many connections as a node has."""
    store = blocking_store(load_config(config, {}).tier, {})
    to.mkdir()
    keys = list(store.list_page(LOG, "").keys)
    while (page := store.list_page(LOG, keys[-1])).keys:
        keys.extend(page.keys)

    def one(key: str) -> int:
        data = store.get(key)
        with (to / key.replace("/", "-")).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return len(data)

    began = time.monotonic()
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        total = sum(pool.map(one, keys))
    return total / (time.monotonic() - began)


if __name__ == "__main__":
    if sys.argv[1] == "measure":
        as_asked(measured, sys.argv[1:])
    else:
        sys.stdout.write(f"{_copy(Path(sys.argv[1]), Path(sys.argv[2]))}\n")
