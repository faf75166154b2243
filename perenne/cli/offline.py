"""`perenne log`: reads segments as they lie there, without a lock and without a write."""

import json
import sys
from pathlib import Path, PurePosixPath
from typing import Annotated

import typer

from perenne.cli.verify import opened, told, verify_directory
from storage.errors import RecordCorrupt
from storage.extracting import copy_checked
from storage.position import RecordKind
from storage.walk import Fault, Found

app = typer.Typer(no_args_is_help=True)
DirectoryArgument = Annotated[Path, typer.Argument(help="A node's data directory (it may be running).")]
JsonOption = Annotated[bool, typer.Option("--json", help="For scripts: JSON lines.")]


@app.command("ls")
def ls(directory: DirectoryArgument, as_json: JsonOption = False) -> None:
    """List every record: position, kind, size, name."""
    walk, names = opened(directory, verify=False)
    for path in names:
        for found in walk.segment(path):
            if isinstance(found, Fault):
                sys.stderr.write(f"{told(found)}\n")
                continue
            header = found.header
            position = header.position
            facts = {
                "sequence": position.sequence,
                "epoch": position.epoch,
                "kind": header.kind.value,
                "bytes": header.size,
                "name": header.path,
                "tombstone": found.tombstone,
            }
            kind = "compacted" if found.tombstone else header.kind.value
            line = f"{position.sequence:>9} {position.epoch:>5} {kind:9} {header.size:>12} {header.path}"
            typer.echo(json.dumps(facts) if as_json else line)


@app.command("verify")
def verify(directory: DirectoryArgument, as_json: JsonOption = False) -> None:
    """The same as `perenne verify --deep DATA_DIR`: every digest, the chain, and the table of each segment.

    It also notices what is not there: records, segments, table entries, and a log that is shorter than this node knew.
    Exit code 1 when anything is wrong.
    """
    raise typer.Exit(verify_directory(directory, deep=True, study="", as_json=as_json))


@app.command("extract")
def extract(
    directory: DirectoryArgument,
    to: Annotated[Path, typer.Argument(help="Where to write the Part 10 files; made when absent.")],
    uid: Annotated[str, typer.Option(help="One SOP Instance UID; else everything.")] = "",
) -> None:
    """Write instances as DICOM files, each checked against its digest; nothing is overwritten."""
    walk, names = opened(directory, verify=False)
    counts = {"written": 0, "left out": 0, "lost": 0}
    taken: set[str] = set()
    for path in names:
        for found in walk.segment(path):
            if isinstance(found, Fault):
                counts["lost"] += found.lost
                sys.stderr.write(f"{told(found)}\n")
            elif found.header.kind is RecordKind.INSTANCE and not found.tombstone and _wanted(found, uid):
                counts["written" if _extracted(found, to, taken) else "left out"] += 1
    for fault in walk.finish():
        counts["lost"] += fault.lost
        sys.stderr.write(f"{told(fault)}\n")
    if uid and not counts["written"] and not counts["left out"]:
        unread = f"; it may be among {counts['lost']} records that cannot be read" if counts["lost"] else ""
        sys.stderr.write(f"{uid}: not found{unread}\n")
    typer.echo(f"{counts['written']} written, {counts['left out']} left out, {counts['lost']} lost")
    if not counts["written"] or counts["left out"] or (counts["lost"] and not uid):
        raise typer.Exit(1)


def _wanted(found: Found, uid: str) -> bool:
    name = found.header.path.rsplit("/", 1)[-1]
    return not uid or name == f"{uid}.dcm" or name.startswith(f"{uid}.v{found.header.position.sequence}.")


def _extracted(found: Found, to: Path, taken: set[str]) -> bool:
    """Write one instance; say why not. Two members of one name are two images: both are kept."""
    name = found.header.path
    if name in taken:
        pure = PurePosixPath(name)
        name = str(pure.with_name(f"{pure.stem}.v{found.header.position.sequence}{pure.suffix}"))
        sys.stderr.write(f"{found.header.path}: more than one record has this name; this one is written as {name}\n")
    taken.add(name)
    target = to / name
    damage = found.damage
    try:
        if damage is None and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            if copy_checked(found, target):
                return True
            damage = "its bytes do not match its digest"
    except RecordCorrupt as error:
        damage = error.reason
    except OSError as error:
        damage = f"cannot be read or written: {error.strerror}"
    sys.stderr.write(f"{name}: {damage or 'exists already'}\n")
    return False
