"""`perenne reindex`: makes the index of a node that does not run anew from its log.

It is written beside the old one and takes its place when it is complete: an interrupted one is continued.
"""

import json
import sys
import time
from pathlib import Path
from typing import Final

import typer

from perenne.cli import INTERRUPTED
from perenne.cli.offline_log import OfflineNode, locked_node
from perenne.cli.progress import shown
from storage.disk import RealDisk
from storage.errors import RecordCorrupt
from storage.index import FILE, SIDE_FILES, Index
from storage.indexer import Indexer
from storage.log import Log
from storage.position import LogPoint

NEW: Final = f"{FILE}.new"
CHUNK: Final = 2048


def reindex(directory: Path, *, dry_run: bool, as_json: bool) -> int:
    """Return the exit code. Raises StorageError."""
    before = _inode(directory / FILE)
    try:
        with locked_node(directory) as node:
            return _reindexed(node, dry_run=dry_run, as_json=as_json)
    except KeyboardInterrupt:
        sys.stderr.write(f"perenne: interrupted; {_left(directory, before, dry_run=dry_run)}\n")
        return INTERRUPTED


def _left(directory: Path, before: int | None, *, dry_run: bool) -> str:
    """What an interrupted run leaves, for a person. before: the inode of the index when it began."""
    if dry_run:
        return "nothing was changed"
    if (directory / NEW).exists():
        return f"what is indexed so far is kept in {directory / NEW}: the same command goes on there"
    if _inode(directory / FILE) != before:
        return "the new index was complete, and is in its place: nothing is left to be done"
    return "the index is as it was: the same command begins anew"


def _inode(path: Path) -> int | None:
    return path.stat().st_ino if path.exists() else None


def _reindexed(node: OfflineNode, *, dry_run: bool, as_json: bool) -> int:
    if dry_run:
        with node.log() as log:
            last = _upto(node, log).sequence
        facts: dict[str, object] = {"records": last, "continues": node.disk.exists(NEW)}
        _say(facts, f"would index records 1 to {last}; the node itself adds what came after", as_json)
        return 0
    continues = node.disk.exists(NEW)
    added, seconds, holes = rebuilt(node, quiet=as_json)
    rate = added / seconds if seconds else 0.0
    index = Index.open(node.disk)
    try:
        instances, records = index.count_instances(), index.applied.sequence
    finally:
        index.close()
    facts = {
        "records": records,
        "instances": instances,
        "added": added,
        "continued": continues,
        "seconds": round(seconds, 3),
        "per_second": round(rate),
        "unreadable": sorted(holes),
    }
    text = f"{instances} instances; {added} added in {seconds:.1f} s, {rate:.0f} per second"
    if holes:
        text += f"; {len(holes)} records cannot be read: see perenne verify, perenne repair"
    _say(facts, text, as_json)
    return int(bool(holes))


def rebuilt(node: OfflineNode, *, quiet: bool) -> tuple[int, float, frozenset[int]]:
    """Make the index; return how many instances were added in how many seconds, and which records cannot be read.

    Raises StorageError.
    """
    with node.log() as log:
        began = time.monotonic()
        added, holes = _build(node, log, _upto(node, log), quiet=quiet)
        seconds = time.monotonic() - began
        swap(node.disk)
    return added, seconds, holes


def _upto(node: OfflineNode, log: Log) -> LogPoint:
    """What this node knows to be committed."""
    return log.point_at(min(node.promise.floor.sequence, log.end.sequence)) or log.end


def _build(node: OfflineNode, log: Log, upto: LogPoint, *, quiet: bool) -> tuple[int, frozenset[int]]:
    index = Index.open(node.disk, NEW)
    try:
        indexer, added = Indexer(log, index), 0
        with shown("indexing", upto.sequence, quiet=quiet, of_bytes=False) as reached:
            while index.applied.sequence < upto.sequence:
                ends = range(min(index.applied.sequence + CHUNK, upto.sequence), upto.sequence + 1)
                point = next((found for end in ends if (found := log.point_at(end)) is not None), upto)
                before = index.applied.sequence
                added += indexer.advance(point)
                if index.applied.sequence == before:
                    raise RecordCorrupt(before + 1, "the index cannot pass it: perenne repair comes first")
                reached(index.applied.sequence)
        return added, index.holes
    finally:
        index.close()


def swap(disk: RealDisk) -> None:
    """Put the new index in the place of the old one, which is derived from the log and not kept."""
    file = disk.open(NEW)
    file.sync()
    file.close()
    for suffix in SIDE_FILES:
        if disk.exists(FILE + suffix):
            disk.remove(FILE + suffix)
    disk.rename(NEW, FILE)


def _say(facts: dict[str, object], text: str, as_json: bool) -> None:
    typer.echo(json.dumps(facts) if as_json else text)
