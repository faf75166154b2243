"""The judge: plain tar on the bare directories, and every node asked for every acknowledged instance."""

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from perenne.cli.journal import Findings, check
from perenne.journal import Owed, digest_of, events, owed
from perenne.local.cluster import LocalNode
from storage.dataset import UnreadableDataSet, read_meta
from storage.digest import part10_meta_length


def holdings(node: LocalNode) -> dict[str, set[str]]:
    """Digests of the data sets under each UID, as plain tar extracts a node's log. Nothing of Perenne is asked.

    What tar cannot read (it stops at damage) is not held, as far as this judge is concerned.
    """
    found: dict[str, set[str]] = {}
    with tempfile.TemporaryDirectory() as name:
        for segment in sorted((node.data_dir / "log").glob("*.tar")):
            own = Path(name) / segment.stem
            own.mkdir()
            subprocess.run(["tar", "xf", str(segment)], cwd=own, capture_output=True, check=False)
            for path in own.rglob("*.dcm"):
                content = path.read_bytes()
                try:
                    uid = read_meta(content).sop_instance_uid
                except UnreadableDataSet:
                    continue
                found.setdefault(uid, set()).add(digest_of(memoryview(content)[part10_meta_length(content) :]))
    return found


def copies(debts: dict[str, Owed], held: Sequence[dict[str, set[str]]]) -> dict[int, int]:
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
