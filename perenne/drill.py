"""A drill from its configuration to its result: a scratch place, what came back, what the nodes serve, the file."""

import contextlib
import http.client
import json
import random
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from perenne.config import Config
from perenne.hands import ProcessHands, spare_processors
from perenne.moving.remote import contents
from perenne.nodeaccess import NodeAccess, told
from perenne.restoring import source_of
from replication.restore.engine import Engine, Progress, Until, planned
from replication.restore.filling import PAST, Filling, Marker
from replication.restore.plan import Hole
from replication.restore.rehearsal import Rehearsed, drawn, newest, rehearse
from replication.tier.manifest import cluster_of
from replication.tier.port import ObjectStore
from storage.digest import digests_of
from storage.disk import RealDisk
from storage.position import RecordHeader
from storage.walk import Fault, Walk

RESULT_FILE: Final = "drill.json"
"""In the data directory: the node there shows it as metrics (docs/observability.md)."""
TIMEOUT_S: Final = 20.0


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
    """found: what was restored. differs: instances that a node does not serve with these bytes; compared: how many."""

    source: str
    what: str
    found: Rehearsed
    holes: tuple[Hole, ...]
    compared: int
    differs: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.holes and not self.differs and not self.found.wrong and self.found.records > 0

    def document(self) -> dict[str, Any]:
        found = self.found
        return {
            "passed": self.passed,
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
            "compared": self.compared,
            "differs": list(self.differs),
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
        if self.compared:
            lines.append(f"{self.compared} instances compared with what the cluster serves")
        lines.append(
            "the drill passed" if self.passed else "THE DRILL FAILED: a restore would not bring everything back"
        )
        return "\n".join(lines)


async def carried_out(config: Config, drill: Drill, store: ObjectStore, progress: Progress) -> Outcome:
    """Raises TierError, StorageError, OSError. The scratch place is gone afterwards, whatever happened."""
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
        differs = compared_with(nodes, found.instances, NodeAccess.of(config))
        compared = len(found.instances) if drill.nodes else 0
        return Outcome(source_of(config), what, found, holes, compared, differs)
    finally:
        shutil.rmtree(place, ignore_errors=True)


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


def compared_with(
    nodes: Sequence[str], instances: Sequence[RecordHeader], access: NodeAccess | None = None
) -> tuple[str, ...]:
    """Ask every node for the instances; say which it does not serve with the very bytes that came back. What was
    deleted since (410) is no difference. A node that does not answer, or does not let us ask, is named once.
    """
    access = access or NodeAccess()
    differs: list[str] = []
    for node in nodes:
        address = node if "://" in node else f"http://{node}"
        connection = access.connection(address, TIMEOUT_S)
        try:
            for header in instances:
                if why := _differs(address, connection, access, header):
                    differs.append(f"{header.path} at {node}: {why}")
        except (OSError, http.client.HTTPException) as error:
            differs.append(f"{node} cannot be compared with: no answer ({told(error)})")
        except _NotAllowed as error:
            differs.append(f"{node} cannot be compared with: {error}")
        finally:
            connection.close()
    return tuple(differs)


class _NotAllowed(Exception):
    """The node wants another token than ours; the text says so."""


def _differs(address: str, connection: http.client.HTTPConnection, access: NodeAccess, header: RecordHeader) -> str:
    """Empty where the node serves these bytes; or holds them beside those that it serves, under a UID that came with
    several contents.
    """
    uid = header.path.rsplit("/", 1)[-1].removesuffix(".dcm").split(".v")[0]
    connection.request("GET", f"/instances/{uid}", headers=access.headers)
    answer = connection.getresponse()
    body = answer.read()
    if answer.status == HTTPStatus.GONE:
        return ""
    if answer.status == HTTPStatus.UNAUTHORIZED:
        raise _NotAllowed("it says 401: it wants the token of [http] token_file, in the file that --config names")
    if answer.status != HTTPStatus.OK:
        return f"it says {answer.status}"
    served = digests_of(header.kind, [body]).digest
    if served == header.digest or {served, header.digest} <= contents(address, access, uid):
        return ""
    return "it serves other bytes"


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


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
