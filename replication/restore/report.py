"""What a restore brought back, and what it could not: positions, known names, and what was kept aside."""

from collections.abc import Iterable, Sequence
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

    def whole_aside(self) -> list[tuple[int, int]]:
        """Spans of records within the holes that lie whole in a damaged object kept aside: behind its damage."""
        return _spans(self._whole())

    def nowhere_whole(self) -> list[tuple[int, int]]:
        """Spans of records within the holes that nothing has whole, as far as was looked."""
        left: list[tuple[int, int]] = []
        whole = self.whole_aside()
        for hole in self.holes:
            at = hole.first
            for first, last in whole:
                if hole.first <= first <= hole.last:
                    left.extend([(at, first - 1)] if at < first else [])
                    at = last + 1
            left.extend([(at, hole.last)] if at <= hole.last else [])
        return left

    def missing_names(self) -> list[tuple[int, str]]:
        """Instances within the holes that are nowhere whole, and whose names a damaged object still shows."""
        whole = self._whole()
        return sorted(
            {
                (header.position.sequence, header.path)
                for kept in self.kept
                for header in kept.records
                if header.kind is RecordKind.INSTANCE
                and self._in_hole(header.position.sequence)
                and header.position.sequence not in whole
            }
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

    def _whole(self) -> set[int]:
        return {sequence for kept in self.kept for sequence in kept.whole if self._in_hole(sequence)}

    def _in_hole(self, sequence: int) -> bool:
        return any(hole.first <= sequence <= hole.last for hole in self.holes)

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
            "missing_whole_aside": [{"first": first, "last": last} for first, last in self.whole_aside()],
            "missing_nowhere_whole": [{"first": first, "last": last} for first, last in self.nowhere_whole()],
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
        lines.extend(self._of_the_missing())
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

    def _of_the_missing(self) -> list[str]:
        """What of the holes is lost, and what only the log has lost. Silent where nothing is whole."""
        if not (whole := self.whole_aside()):
            return []
        lines = [
            f"of these {_listed(whole)} can be read whole in what is kept in lost+found: once a cluster takes stores,"
            " `perenne lost-found resubmit` sends their instances again"
        ]
        return [*lines, f"nowhere whole: {_listed(lost)}"] if (lost := self.nowhere_whole()) else lines


def _hole(hole: Hole) -> str:
    """Behind a damaged record others may be whole, and still nothing leads to them: the log ends before it."""
    doubt = "" if hole.certain else "; below it nothing proves that the log took this branch"
    why = "nothing that can be read continues the log there" if hole.why else "no object that can be read holds them"
    return f"MISSING: {_listed([(hole.first, hole.last)])}: {why}{doubt}"


def _listed(spans: Sequence[tuple[int, int]]) -> str:
    told = [str(first) if first == last else f"{first} to {last}" for first, last in spans[:NAMED]]
    more = f" and {len(spans) - NAMED} more stretches" if len(spans) > NAMED else ""
    many = len(spans) > 1 or spans[0][0] != spans[0][1]
    return f"record{'s' if many else ''} {', '.join(told)}{more}"


def _spans(sequences: Iterable[int]) -> list[tuple[int, int]]:
    """Runs of neighbours."""
    spans: list[tuple[int, int]] = []
    for sequence in sorted(sequences):
        if spans and spans[-1][1] == sequence - 1:
            spans[-1] = (spans[-1][0], sequence)
        else:
            spans.append((sequence, sequence))
    return spans


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
