"""The judge: plain tar on bare directories and on the bucket's objects; every node asked for every instance."""

import contextlib
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from perenne.cli.journal import Findings, check
from perenne.journal import Owed, digest_of, events, owed
from perenne.local.cluster import LocalNode
from replication.tier.keys import Run
from replication.tier.port import BlockingStore, NotThere
from storage.dataset import UnreadableDataSet, read_meta
from storage.digest import part10_meta_length

Held = dict[str, set[str]]
_LISTINGS: Final = 10


def holdings(node: LocalNode) -> Held:
    """Digests of the data sets under each UID, as plain tar extracts a node's log. Nothing of Perenne is asked.

    What tar cannot read (it stops at damage) is not held, as far as this judge is concerned.
    """
    return extracted(node.data_dir)


def extracted(data_dir: Path) -> Held:
    """The same for any directory that holds a log."""
    found: Held = {}
    with tempfile.TemporaryDirectory() as name:
        for segment in sorted((data_dir / "log").glob("*.tar")):
            _extract(segment, Path(name) / segment.stem, found)
    return found


def _extract(tar: Path, own: Path, found: Held) -> None:
    """Add what is in a tar file; `own` is a directory for it that is not there yet."""
    own.mkdir()
    subprocess.run(["tar", "xif", str(tar)], cwd=own, capture_output=True, check=False)
    for path in own.rglob("*.dcm"):
        content = path.read_bytes()
        try:
            uid = read_meta(content).sop_instance_uid
        except UnreadableDataSet:
            continue
        found.setdefault(uid, set()).add(digest_of(memoryview(content)[part10_meta_length(content) :]))


class BucketHoldings:
    """The same for a bucket. An object is read once, since a name has one content; whether it is there, every time."""

    def __init__(self, bucket: BlockingStore) -> None:
        self._bucket = bucket
        self._read: dict[Run, Held] = {}

    def look(self, listed: Callable[[], Sequence[Run]]) -> Held:
        """What the listed objects hold. Raises TierError."""
        for _ in range(_LISTINGS):
            with contextlib.suppress(NotThere):  # packed or compacted since: another object holds it
                return self._look(listed())
        return self._look(listed())

    def _look(self, runs: Sequence[Run]) -> Held:
        found: Held = {}
        with tempfile.TemporaryDirectory() as name:
            for number, run in enumerate(runs):
                if run not in self._read:
                    tar = Path(name) / f"{number}.tar"
                    tar.write_bytes(self._bucket.get(run.key))
                    _extract(tar, Path(name) / str(number), self._read.setdefault(run, {}))
                for uid, datasets in self._read[run].items():
                    found.setdefault(uid, set()).update(datasets)
        return found


def missing(debts: dict[str, Owed], held: Held) -> list[str]:
    """UIDs of acknowledged data sets that are not held."""
    return [uid for uid, debt in debts.items() if not set(debt.datasets) <= held.get(uid, set())]


def copies(debts: dict[str, Owed], held: Sequence[Held]) -> dict[int, int]:
    """How many acknowledged data sets lie on how many replicas."""
    counts: dict[int, int] = {}
    for uid, debt in debts.items():
        for dataset in debt.datasets:
            on = sum(dataset in replica.get(uid, ()) for replica in held)
            counts[on] = counts.get(on, 0) + 1
    return counts


def debts_of(journal: Path) -> dict[str, Owed]:
    return owed(events(journal))


def served(nodes: Sequence[LocalNode], debts: dict[str, Owed]) -> Findings:
    """What every node answers for every acknowledged instance."""
    return check([f"http://{node.host}:{node.http_port}" for node in nodes], debts)
