"""What a restore brought back, and what it could not: positions, known names, and what was kept aside."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from replication.restore.beyond import Kept
from replication.restore.plan import Hole
from replication.tier.keys import Run
from storage.position import LogPoint, LogPosition, RecordKind

NAMED = 20


@dataclass(slots=True)
class Report:
    """records, bytes, seconds: of this run alone. lacking: what the coordination service knew to be committed, and the
    log lacks. damaged: objects that did not hold what their names say, whether or not another one served for them.
    orphans: of dead branches. spare: objects that hold the same records again. released: files that an earlier run kept
    aside, and whose every record the log has now; staying: those that this run found there and left, and why.
    """

    kind: str
    source: str
    directory: str
    cluster_id: str
    segment_bytes: int
    end: LogPoint
    tip: LogPosition
    records: int = 0
    objects: int = 0
    bytes: int = 0
    seconds: float = 0.0
    resumed: bool = False
    stopped_at: str = ""
    holes: tuple[Hole, ...] = ()
    kept: list[Kept] = field(default_factory=list[Kept])
    lacking: list[str] = field(default_factory=list[str])
    damaged: dict[Run, str] = field(default_factory=dict[Run, str])
    orphans: tuple[Run, ...] = ()
    spare: int = 0
    released: int = 0
    staying: dict[str, str] = field(default_factory=dict[str, str])
    notes: list[str] = field(default_factory=list[str])
    written_state: str = ""
    finished: bool = False

    @property
    def complete(self) -> bool:
        return not self.holes and not self.lacking

    @property
    def rate(self) -> float:
        return self.bytes / self.seconds if self.seconds > 0 else 0.0

    def missing_names(self) -> list[tuple[int, str]]:
        """Instances within the holes whose names a damaged object still shows."""
        return sorted(
            (header.position.sequence, header.path)
            for kept in self.kept
            for header in kept.records
            if header.kind is RecordKind.INSTANCE
            and any(hole.first <= header.position.sequence <= hole.last for hole in self.holes)
        )

    def aside_names(self) -> list[tuple[int, str]]:
        """Instances that are kept aside, and are not in the log."""
        missing = set(self.missing_names())
        found = {
            (header.position.sequence, header.path)
            for kept in self.kept
            for header in kept.records
            if header.kind is RecordKind.INSTANCE and header.position.sequence > self.end.sequence
        }
        return sorted(found - missing)

    def document(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "source": self.source,
            "directory": self.directory,
            "cluster": {"id": self.cluster_id, "segment_bytes": self.segment_bytes},
            "complete": self.complete,
            "finished": self.finished,
            "restored_upto": {
                "epoch": self.end.epoch,
                "sequence": self.end.sequence,
                "chain": self.end.chain.hex(),
            },
            "tip": {"epoch": self.tip.epoch, "sequence": self.tip.sequence},
            "stopped_at": self.stopped_at,
            "this_run": {
                "records": self.records,
                "bytes": self.bytes,
                "seconds": round(self.seconds, 3),
                "bytes_per_second": round(self.rate),
                "resumed": self.resumed,
            },
            "missing": [
                {"first": h.first, "last": h.last, "certain": h.certain, "why": list(h.why)} for h in self.holes
            ],
            "missing_instances": [{"sequence": s, "name": n} for s, n in self.missing_names()],
            "lacking": self.lacking,
            "aside": [
                {"key": k.run.key, "saved": k.saved, "error": k.error, "records": len(k.records)} for k in self.kept
            ],
            "aside_instances": [{"sequence": s, "name": n} for s, n in self.aside_names()],
            "damaged": [{"key": run.key, "why": why} for run, why in self.damaged.items()],
            "orphans": [run.key for run in self.orphans],
            "spare_objects": self.spare,
            "released": self.released,
            "staying": [{"saved": name, "why": why} for name, why in self.staying.items()],
            "coordination": self.written_state,
            "notes": self.notes,
        }

    def text(self) -> str:
        """For people."""
        lines = [f"{self.source} → {self.directory}"]
        again = "this run went on where an earlier one had stopped: " if self.resumed else ""
        lines.append(
            f"{again}{self.records} records, {self.bytes / 1e6:.1f} MB in {self.seconds:.1f} s"
            f" ({self.rate / 1e6:.0f} MB/s), every digest and chain verified"
        )
        stopped = f", as asked: {self.stopped_at}" if self.stopped_at else f" of {self.tip.sequence}"
        lines.append(f"restored: records 1 to {self.end.sequence}{stopped}")
        for hole in self.holes[:NAMED]:
            lines.append(_hole(hole))
            lines.extend(_some([f"    {why}" for why in hole.why]))
        if len(self.holes) > NAMED:
            lines.append(f"MISSING: and {len(self.holes) - NAMED} more such places; --json names all")
        lines.extend(_named("missing", self.missing_names()))
        lines.extend(_some([f"DAMAGED in the tier: {run.key}: {why}" for run, why in self.damaged.items()]))
        lines.extend(_some([f"LACKING: {text}" for text in self.lacking]))
        lines.extend(_some([f"beyond the gap: {kept.run.key}: {_aside(kept)}" for kept in self.kept]))
        lines.extend(_named("kept aside", self.aside_names()))
        if self.released:
            lines.append(
                f"{self.released} files that an earlier run kept in lost+found beyond a gap were removed: the log has"
                " each record in them, proved by its chain"
            )
        lines.extend(_some([f"{name} stays: {why}" for name, why in self.staying.items()]))
        if self.orphans:
            lines.append(f"{len(self.orphans)} objects of dead branches were left alone: outranked, never acknowledged")
            lines.extend(f"    {run.key}" for run in self.orphans[:NAMED])
        lines.extend(self.notes)
        if self.written_state:
            lines.append(self.written_state)
        return "\n".join(lines)


def _hole(hole: Hole) -> str:
    which = f"record {hole.first}" if hole.first == hole.last else f"records {hole.first} to {hole.last}"
    doubt = "" if hole.certain else "; below it nothing proves that the log took this branch"
    return f"MISSING: {which}: no object that can be read holds them{doubt}"


def _aside(kept: Kept) -> str:
    return f"kept as {kept.saved}, {len(kept.records)} records" if kept.saved else f"not kept: {kept.error}"


def _some(lines: Sequence[str]) -> list[str]:
    left = len(lines) - NAMED
    return [*lines[:NAMED], f"    and {left} more like these; --json names all"] if left > 0 else [*lines]


def _named(what: str, names: Sequence[tuple[int, str]]) -> list[str]:
    lines = [f"{what}: record {sequence}: {name}" for sequence, name in names[:NAMED]]
    if len(names) > NAMED:
        lines.append(f"{what}: and {len(names) - NAMED} more; --json names all")
    return lines
