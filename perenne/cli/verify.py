"""`perenne verify` of a data directory: every record in its two places, the chain, and on request every payload."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import typer

from perenne.cli import INTERRUPTED
from perenne.cli.progress import shown
from storage.position import RecordHeader, RecordKind
from storage.walk import Fault, Found, Walk

STEP_BYTES: Final = 16 * 1024 * 1024


@dataclass(slots=True)
class Verified:
    """What was found so far, and how it is said."""

    study: str = ""
    as_json: bool = False
    instances: int = 0
    """Of the study; counted only when one was named."""
    reached: int = 1
    """The first record of the segment that is being read."""
    counts: dict[str, int] = field(default_factory=lambda: {"records": 0, "damaged": 0, "lost": 0, "other_faults": 0})

    def concerns(self, header: RecordHeader) -> bool:
        return not self.study or header.path.startswith(f"{self.study}/")

    def record(self, found: Found) -> None:
        if not self.concerns(found.header):
            return
        self.counts["records"] += 1
        self.instances += found.header.kind is RecordKind.INSTANCE
        if found.damage is not None:
            self.counts["damaged"] += 1
            sequence = found.header.position.sequence
            facts = {"segment": found.segment.name, "sequence": sequence, "damage": found.damage}
            self.say(facts, f"{found.segment.name}: record {sequence}: {found.damage}")

    def fault(self, fault: Fault) -> None:
        if self.study and not fault.lost:
            return  # no record of it is concerned
        self.counts["lost"] += fault.lost
        self.counts["other_faults"] += not fault.lost and not fault.note
        key = "note" if fault.note else "damage"
        facts = {"segment": fault.segment.name, "sequence": fault.sequence, key: fault.text, "lost": fault.lost}
        self.say(facts, told(fault))

    def say(self, facts: dict[str, Any], text: str) -> None:
        typer.echo(json.dumps(facts) if self.as_json else text)

    def finish(self) -> int:
        """Say the sums; return the exit code."""
        wrong = bool(self.counts["damaged"] or self.counts["lost"] or self.counts["other_faults"])
        text = "{records} records, {damaged} damaged, {lost} lost, {other_faults} other faults".format(**self.counts)
        facts: dict[str, Any] = dict(self.counts)
        if self.study:
            facts |= {"study": self.study, "instances": self.instances}
            text = f"study {self.study}: {text}"
            if self.counts["lost"]:
                text += "; what is lost may be of this study"
            if not self.instances:
                wrong, text = True, f"{text}; no instance of this study was found"
        self.say(facts, text)
        return int(wrong)


def told(fault: Fault) -> str:
    where = "" if fault.sequence is None else f" record {fault.sequence}:"
    return f"{fault.segment.name}:{where} {fault.text}"


def opened(
    directory: Path, *, verify: bool, wanted: Callable[[RecordHeader], bool] | None = None, medium: bool = False
) -> tuple[Walk, list[Path]]:
    """Raises typer.Exit when it is no data directory."""
    walk = Walk(directory, verify, medium=medium)
    if wanted is not None:
        walk.wanted = wanted
    found = walk.segments()
    if not found:
        sys.stderr.write(f"perenne: {directory} holds no log: give the [node] data_dir of a node\n")
        raise typer.Exit(2)
    return walk, found


def verify_directory(directory: Path, *, deep: bool, study: str, as_json: bool, first: int = 0) -> int:
    """Read a node's log from the medium, whether or not it runs; return the exit code.

    first: in segments that end before this record, payloads are not read: an earlier run has done so.
    """
    result = Verified(study, as_json)
    try:
        return _verified(directory, result, deep=deep, first=first)
    except KeyboardInterrupt:
        sys.stderr.write(f"perenne: interrupted; `--from {result.reached}` goes on there\n")
        return INTERRUPTED


def _verified(directory: Path, result: Verified, *, deep: bool, first: int) -> int:
    walk, paths = opened(directory, verify=deep, wanted=result.concerns, medium=True)
    sizes = [path.stat().st_size if path.exists() else 0 for path in paths]
    with shown("verifying" if deep else "looking", sum(sizes), quiet=result.as_json) as reached:
        before = 0
        for path, size, following in zip(paths, sizes, [*paths[1:], None], strict=True):
            result.reached = max(first, int(path.stem))
            walk.verify = deep and (following is None or int(following.stem) > first)
            for found in _counted(walk.segment(path), before, reached):
                if isinstance(found, Fault):
                    result.fault(found)
                else:
                    result.record(found)
            before += size
            reached(before)
        for fault in walk.finish():
            result.fault(fault)
    return result.finish()


def _counted(walked: Iterator[Found | Fault], before: int, reached: Callable[[int], None]) -> Iterator[Found | Fault]:
    """Tell of the way through a segment now and then."""
    at = said = before
    for found in walked:
        if isinstance(found, Found):
            at += found.payload.size
        if at - said >= STEP_BYTES:
            said = at
            reached(at)
        yield found
