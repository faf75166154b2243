"""A drill from its configuration to its result: a scratch place, what came back, what the nodes serve, the file."""

import contextlib
import json
import random
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from perenne.belonging import given_back
from perenne.config import Config
from perenne.drillcomparing import Compared, compared_with
from perenne.hands import ProcessHands, spare_processors
from perenne.nodeaccess import NodeAccess
from perenne.restoring import source_of
from replication.restore.engine import Engine, Progress, Until, planned
from replication.restore.filling import PAST, Filling, Marker
from replication.restore.plan import Hole
from replication.restore.rehearsal import Rehearsed, drawn, newest, rehearse
from replication.tier.manifest import cluster_of
from replication.tier.port import ObjectStore, Refused
from storage.disk import RealDisk
from storage.walk import Fault, Walk

RESULT_FILE: Final = "drill.json"
"""In the data directory: the node there shows it as metrics (docs/observability.md)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drill:
    """What to restore: everything, the newest objects, or some drawn at random. nodes: http://HOST:PORT to compare."""

    everything: bool = False
    newest: int = 0
    sample: int = 0
    scratch: Path
    nodes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """found: what was restored. nodes: how each that was named compares with it."""

    source: str
    what: str
    found: Rehearsed
    holes: tuple[Hole, ...]
    nodes: tuple[Compared, ...] = ()

    @property
    def differs(self) -> list[str]:
        return [text for node in self.nodes for text in node.differs]

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong with what was restored, as far as it was looked at."""
        return not self.holes and not self.differs and not self.found.wrong and self.found.records > 0

    @property
    def passed(self) -> bool:
        """Also everything was done that was asked for."""
        return self.sound and not any(node.silent for node in self.nodes)

    def document(self) -> dict[str, Any]:
        found = self.found
        return {
            "passed": self.passed,
            "sound": self.sound,
            "source": self.source,
            "what": self.what,
            "records": found.records,
            "of_records": found.tip,
            "objects": found.objects,
            "studies": len(found.studies),
            "bytes": found.bytes,
            "seconds": round(found.seconds, 3),
            "bytes_per_second": round(found.rate),
            "whole_archive_bytes": found.whole_bytes,
            "whole_archive_seconds": round(found.whole_seconds, 1),
            "missing": [{"first": hole.first, "last": hole.last, "why": list(hole.why)} for hole in self.holes],
            "wrong": found.wrong,
            "compared": sum(node.compared for node in self.nodes),
            "differs": self.differs,
            "nodes": [node.document() for node in self.nodes],
        }

    def text(self) -> str:
        """For people."""
        found = self.found
        proof = ", every digest and chain verified, and read back" if found.records and not found.wrong else ""
        lines = [
            f"{self.source}: {self.what}",
            f"{found.records} of {found.tip} records, {len(found.studies)} studies, {found.bytes / 1e6:.1f} MB in"
            f" {found.seconds:.1f} s ({found.rate / 1e6:.0f} MB/s){proof}",
        ]
        if found.records:  # nothing came back: nothing is known of the rest
            whole = f"about {found.whole_bytes / 1e9:.2f} GB: {_span(found.whole_seconds)} at this rate"
            lines.append(f"the whole archive is {whole}")
        lines.extend(f"MISSING: records {hole.first} to {hole.last}" for hole in self.holes)
        lines.extend(f"WRONG: {text}" for text in found.wrong)
        lines.extend(f"DIFFERS: {text}" for text in self.differs)
        lines.extend(node.text() for node in self.nodes)
        return "\n".join([*lines, self._verdict()])

    def _verdict(self) -> str:
        if self.passed:
            return "the drill passed"
        if not self.sound:
            return "THE DRILL FAILED: a restore would not bring everything back"
        return (
            "THE DRILL IS NOT COMPLETE: what was restored is proved, but not compared with every node that was named."
            " See that they answer (`perenne status`), and run it again"
        )


async def carried_out(config: Config, drill: Drill, store: ObjectStore, progress: Progress) -> Outcome:
    """Raises TierError, StorageError, OSError. The scratch place is gone afterwards, whatever happened."""
    await _check_ours(config, store)
    drill.scratch.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix="perenne-drill-", dir=drill.scratch))
    chance = random.Random()
    try:
        plan = await planned(store)
        holes = () if plan.hole is None else (plan.hole, *plan.holes)
        if drill.everything:
            found = await _everything(config, store, place, progress, chance)
            what = "everything restored"
        else:
            pieces = newest(plan, drill.newest) if drill.newest else drawn(plan, drill.sample, chance)
            found = await rehearse(store, plan, pieces, place, progress, chance)
            what = f"the newest {len(pieces)} objects" if drill.newest else f"{len(pieces)} objects drawn at random"
        scheme = "https" if config.http.tls else "http"
        nodes = [node if "://" in node else f"{scheme}://{node}" for node in drill.nodes]
        compared = compared_with(nodes, found.instances, NodeAccess.of(config))
        return Outcome(source_of(config), what, found, holes, compared)
    finally:
        shutil.rmtree(place, ignore_errors=True)


async def _check_ours(config: Config, store: ObjectStore) -> None:
    """Another cluster's tier may prove as well as one likes: nothing of this one would come back. Raises Refused."""
    known = await cluster_of(store)
    try:
        own = str(json.loads((config.node.data_dir / "node.json").read_text())["cluster_id"])
    except (OSError, ValueError, KeyError, TypeError):
        return  # a drill needs no node
    if known is not None and known.cluster_id != own:
        raise Refused(f"the tier belongs to cluster {known.cluster_id}, the data directory to {own}", "Check [tier].")


async def _everything(
    config: Config, store: ObjectStore, place: Path, progress: Progress, chance: random.Random
) -> Rehearsed:
    """A real restore, and the log that it made read back from the disk."""
    cluster = await cluster_of(store)
    identity = cluster.cluster_id if cluster is not None else "drill"
    size = cluster.segment_bytes if cluster is not None else config.cluster.segment_bytes
    filling = Filling.begin(place / "data", Marker(PAST, source_of(config), identity, size))
    try:
        jobs = spare_processors()
        hands = ProcessHands(config.tier, jobs) if jobs > 1 else None
        report = await Engine(store, filling, Until(), progress, keep_beyond=False, hands=hands).run()
    finally:
        filling.close()
    found = Rehearsed(report.tip.sequence, report.objects, 0, report.bytes, report.seconds)
    found.wrong.extend(f"{run.key}: {why}" for run, why in report.damaged.items())
    walk = Walk(place / "data", verify=True)
    for path in walk.segments():
        for one in walk.segment(path):
            if isinstance(one, Fault):
                found.wrong.append(f"read back: {path.name}: {one.text}")
                continue
            if one.damage is not None:
                found.wrong.append(f"read back: record {one.header.position.sequence}: {one.damage}")
            if not one.tombstone:
                found.remember(one.header, chance)
    found.wrong.extend(f"read back: record {fault.sequence}: {fault.text}" for fault in walk.finish())
    return found


def note(outcome: Outcome | None, directory: Path) -> None:
    """Write the result where the node finds it. A drill that failed keeps the time of the last one that did not."""
    disk = RealDisk(directory)
    facts: dict[str, Any] = {"last_success": 0}
    if disk.exists(RESULT_FILE):
        with contextlib.suppress(ValueError):  # unreadable: written anew
            facts = json.loads(disk.read(RESULT_FILE))
    facts |= {"format": 1, "last_run": int(time.time()), "passed": outcome is not None and outcome.passed}
    if outcome is not None and outcome.passed:
        found = outcome.found
        facts |= {
            "last_success": facts["last_run"],
            "seconds": round(found.seconds, 3),
            "bytes": found.bytes,
            "whole_archive_seconds": round(found.whole_seconds, 1),
        }
    disk.write_atomically(RESULT_FILE, json.dumps(facts, indent=1).encode() + b"\n")
    disk.close()
    given_back(directory)


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
