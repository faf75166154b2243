"""`perenne log`: reads segments as they lie there, without a lock and without a write."""

import json
import mmap
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from storage.digest import digests_of
from storage.errors import FormatError, RecordCorrupt
from storage.position import RecordHeader, RecordKind, chain_after
from storage.record import decode_header
from storage.table import PAGE, data_offset, decode_segment_header

app = typer.Typer(no_args_is_help=True)
DirectoryArgument = Annotated[Path, typer.Argument(help="A node's data directory (it may be running).")]
JsonOption = Annotated[bool, typer.Option("--json", help="For scripts: JSON lines.")]


@dataclass(frozen=True, slots=True)
class Found:
    """One record as it lies in a segment. damage: None when its digest and chain hold."""

    segment: Path
    header: RecordHeader | None
    payload: memoryview
    damage: str | None


def segments(directory: Path) -> list[Path]:
    """Raises typer.Exit when it is no data directory."""
    found = sorted((directory / "log").glob("*.tar"))
    if not found:
        sys.stderr.write(f"perenne: {directory} holds no log: give the [node] data_dir of a node\n")
        raise typer.Exit(2)
    return found


def records(path: Path, *, verify: bool) -> Iterator[Found]:
    """Walk one segment from its first record to its last."""
    with path.open("rb") as file:
        view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    try:
        described = decode_segment_header(bytes(view[:PAGE]))
    except FormatError as error:
        yield Found(path, None, view[:0], f"{error}; tar can still read the file")
        return
    at, chain = data_offset(described.segment_bytes), described.chain_before
    while at + 512 <= len(view) and any(view[at : at + 512]):
        try:
            decoded = decode_header(view[at : at + 1024 * 1024])
        except RecordCorrupt as error:
            yield Found(path, None, view[:0], f"at byte {at}: {error}; what follows in this segment cannot be read")
            return
        header, start = decoded.header, at + decoded.payload_offset
        payload = view[start : start + header.size]
        damage = None
        if verify:
            digests = digests_of(header.kind, [payload])
            if (digests.digest, digests.dataset) != (header.digest, header.dataset):
                damage = "its bytes do not match its digest"
            elif chain_after(chain, header) != decoded.chain:
                damage = "it does not follow from the record before"
        yield Found(path, header, payload, damage)
        chain = decoded.chain
        at += decoded.length


@app.command("ls")
def ls(directory: DirectoryArgument, as_json: JsonOption = False) -> None:
    """List every record: position, kind, size, name."""
    for path in segments(directory):
        for found in records(path, verify=False):
            header = found.header
            if header is None:
                sys.stderr.write(f"{path.name}: {found.damage}\n")
                continue
            position = header.position
            facts = {
                "sequence": position.sequence,
                "epoch": position.epoch,
                "kind": header.kind.value,
                "bytes": header.size,
                "name": header.path,
            }
            line = f"{position.sequence:>9} {position.epoch:>5} {header.kind.value:9} {header.size:>12} {header.path}"
            typer.echo(json.dumps(facts) if as_json else line)


@app.command("verify")
def verify(directory: DirectoryArgument, as_json: JsonOption = False) -> None:
    """Check every digest and the chain; exit code 1 when a record is damaged, and say which."""
    checked, damaged = 0, 0
    console = Console(stderr=True)
    for path in track(segments(directory), "verifying", console=console, disable=as_json or not console.is_terminal):
        for found in records(path, verify=True):
            checked += 1
            if found.damage is not None:
                damaged += 1
                sequence = found.header.position.sequence if found.header else None
                facts = {"segment": path.name, "sequence": sequence, "damage": found.damage}
                typer.echo(json.dumps(facts) if as_json else f"{path.name}: record {sequence}: {found.damage}")
    summary = {"records": checked, "damaged": damaged}
    typer.echo(json.dumps(summary) if as_json else f"{checked} records, {damaged} damaged")
    if damaged:
        raise typer.Exit(1)


@app.command("extract")
def extract(
    directory: DirectoryArgument,
    to: Annotated[Path, typer.Argument(help="Where to write the Part 10 files; made when absent.")],
    uid: Annotated[str, typer.Option(help="One SOP Instance UID; else everything.")] = "",
) -> None:
    """Write instances as DICOM files, each checked against its digest; nothing is overwritten."""
    written, skipped = 0, 0
    for path in segments(directory):
        for found in records(path, verify=True):
            header = found.header
            if header is None or header.kind is not RecordKind.INSTANCE:
                continue
            name = header.path.rsplit("/", 1)[1]
            if uid and not (name == f"{uid}.dcm" or name.startswith(f"{uid}.{header.position.sequence}.")):
                continue
            target = to / header.path
            if found.damage is not None or target.exists():
                sys.stderr.write(f"{header.path}: {found.damage or 'exists already'}\n")
                skipped += 1
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f"{target.name}.part")
            part.write_bytes(found.payload)  # Ctrl-C leaves no file that looks whole
            part.replace(target)
            written += 1
    typer.echo(f"{written} written, {skipped} left out")
    if skipped or not written:
        raise typer.Exit(1)
