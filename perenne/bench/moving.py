"""Moving archives: `perenne import` beside dcmsend and storescu with files alike, `perenne export` beside a plain copy.

Each sends files of its own, since what is there already is not stored again; they take turns within one run. Of our
import the start of the interpreter is not counted, since archives are larger than the files here.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from perenne.bench.cluster import cluster_of
from perenne.bench.load import EXPLICIT_LE, SIZES, instances
from perenne.bench.results import Results, say
from perenne.dimse.meta import file_meta
from perenne.local.cluster import AE_TITLE

_ENVIRONMENT: Final = {**os.environ, "TCP_NODELAY": "1"}
_OURS: Final = "perenne import x{}"


def moving(files: int, repeat: int) -> Results:
    """files: CT slices, or four times as many small ones, for each sender and round."""
    results: Results = {}
    with tempfile.TemporaryDirectory(prefix="perenne-bench-") as name, cluster_of(Path(name) / "c", 2) as cluster:
        work, port = Path(name), cluster.wait_ready().dicom_port
        senders = _senders(port, work)
        for label, (sop_class, size) in SIZES.items():
            count = files if size > 100_000 else 4 * files
            source = instances(sop_class, size)
            rates: dict[str, list[float]] = {}
            for _ in range(repeat):
                for sender, send in senders.items():
                    folder = _folder(work / "files", sop_class, source, count)
                    rates.setdefault(sender, []).append(count / send(folder))
                    shutil.rmtree(folder)
            found = {sender: statistics.median(values) for sender, values in rates.items()}
            for other in ("dcmsend", "storescu"):
                if other in found:
                    found |= {f"x{n} / {other}": found[_OURS.format(n)] / found[other] for n in (1, 4)}
            results[f"import, {label}, per s"] = found
            say(f"{label}: {found}")
        results["export"] = _export(cluster.nodes[0].data_dir, work)
    return results


def _folder(folder: Path, sop_class: str, source: Iterator[tuple[str, list[bytes]]], count: int) -> Path:
    folder.mkdir()
    for number, (uid, pieces) in zip(range(count), source, strict=False):
        meta = file_meta(
            sop_class_uid=sop_class, sop_instance_uid=uid, transfer_syntax_uid=EXPLICIT_LE, source_ae="BENCH"
        )
        (folder / f"{number:06d}.dcm").write_bytes(b"".join((meta, *pieces)))
    return folder


def _senders(port: int, work: Path) -> dict[str, Callable[[Path], float]]:
    """Each sends a folder, and tells how many seconds that took."""

    def ours(associations: int) -> Callable[[Path], float]:
        def send(folder: Path) -> float:
            to = ["--to", f"127.0.0.1:{port}", "--associations", str(associations), "--json"]
            done = _run([*_perenne("import"), str(folder), *to, "--journal", str(work / "journal")])
            return float(json.loads(done)["seconds"])

        return send

    def theirs(tool: str) -> Callable[[Path], float]:
        target = [tool, "+sd", "-aec", AE_TITLE, "127.0.0.1", str(port)]
        return lambda folder: _seconds(lambda: _run([*target, str(folder)]))

    found: dict[str, Callable[[Path], float]] = {_OURS.format(n): ours(n) for n in (1, 4)}
    return found | {tool: theirs(tool) for tool in ("dcmsend", "storescu") if shutil.which(tool)}


def _export(data_dir: Path, work: Path) -> dict[str, float]:
    """MB per second: every digest is checked, and everything is synced, as the copy of the same files is."""

    def export(*arguments: str) -> float:
        done = json.loads(_run([*_perenne("export"), *arguments, "--from", str(data_dir), "--all", "--json"]))
        return float(done["bytes"]) / 1e6 / float(done["seconds"])

    found = {"files": export(str(work / "out")), "zip": export(str(work / "out.zip"), "--as", "zip")}
    size = sum(path.stat().st_size for path in (work / "out").rglob("*.dcm")) / 1e6
    found["cp -r and sync"] = size / _seconds(lambda: _copied(work / "out", work / "copy"))
    return found | {f"{kind} / cp": found[kind] / found["cp -r and sync"] for kind in ("files", "zip")}


def _copied(source: Path, to: Path) -> None:
    _run(["cp", "-r", str(source), str(to)])
    os.sync()


def _perenne(verb: str) -> list[str]:
    return [sys.executable, "-m", "perenne.cli", verb]


def _run(command: list[str]) -> str:
    """Return what it prints. Raises CalledProcessError."""
    return subprocess.run(command, env=_ENVIRONMENT, capture_output=True, text=True, check=True).stdout


def _seconds(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began
