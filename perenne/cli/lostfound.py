"""`perenne lost-found`: look at what was taken out of a log, and offer it to the cluster again. Nothing is deleted."""

import asyncio
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from perenne.belonging import given_back
from perenne.cli import INTERRUPTED
from perenne.cli.progress import moving_things
from perenne.cli.usage import read_config
from perenne.lostfound import Saved, entries, names, resubmitted, set_aside
from perenne.lostobjects import is_object
from perenne.nodeaccess import NodeAccess, own_address
from perenne.resubmission import AssociationAborted, AssociationRejected, Outcome, done_with, held_back, resubmit
from storage.lostfound import DIRECTORY, RESUBMITTED

app = typer.Typer(no_args_is_help=True)
DirectoryArgument = Annotated[Path, typer.Argument(help="A node's data directory (it may be running).")]
JsonOption = Annotated[bool, typer.Option("--json", help="For scripts: JSON lines.")]


def _usage(text: str) -> typer.Exit:
    sys.stderr.write(f"perenne: {text}\n")
    return typer.Exit(2)


def _opened(directory: Path, wanted: list[str]) -> list[str]:
    """Names to look at. Raises typer.Exit when it is no data directory, or has no such file."""
    if not (directory / "node.json").exists():
        raise _usage(f"{directory} is no data directory: give the [node] data_dir of a node")
    found = names(directory)
    asked = [name.removeprefix(f"{DIRECTORY}/") for name in wanted]
    missing = sorted(set(asked) - set(found))
    if missing:
        raise _usage(f"{directory}/{DIRECTORY} has no {', '.join(missing)}: see `perenne lost-found list {directory}`")
    return asked or found


@app.command("list")
def list_verb(directory: DirectoryArgument, as_json: JsonOption = False) -> None:
    """List what lies in lost+found: position, kind, size, SOP Instance UID; headers are read, not every byte.

    Example: `perenne lost-found list /var/lib/perenne`. Exit code 0 it could be listed, 2 bad usage.
    """
    listed, instances = _opened(directory, []), 0
    for saved in entries(directory, listed, verify=False):
        instances += saved.sendable
        typer.echo(json.dumps(saved.document()) if as_json else _line(saved))
    if not as_json:
        typer.echo(f"{len(listed)} files, {instances} instances; {resubmitted(directory)} resubmitted before")


def _line(saved: Saved) -> str:
    if saved.sequence is None:
        return f"{'-':>9} {'-':>5} {'damaged':9} {saved.bytes:>12} {saved.name}"
    what = saved.sop_instance_uid or saved.path
    what += f" deleted by record {saved.deleted}" if saved.deleted else ""
    return f"{saved.sequence:>9} {saved.epoch:>5} {saved.kind:9} {saved.bytes:>12} {saved.name} {what}"


@app.command("inspect")
def inspect_verb(
    directory: DirectoryArgument,
    name: Annotated[str, typer.Argument(help="A file name, as `list` shows it.")],
    as_json: JsonOption = False,
) -> None:
    """Say everything about one file: its header, its UIDs, whether every byte is as its digest says, why it lies there.

    Example: `perenne lost-found inspect /var/lib/perenne 000000000017-3-a1b2c3d4e5f60718.tar`. It is a plain tar file:
    `tar xOf` shows the instance. Of an object of the tier (`beyond-…`) every record is checked, and what is damaged or
    deleted is named. Exit code 0 every record is valid, 1 something is damaged, 2 bad usage.
    """
    (asked,) = _opened(directory, [name])
    found = list(entries(directory, [asked], verify=True))
    if as_json:
        typer.echo("\n".join(json.dumps(saved.document()) for saved in found))
    else:
        facts = _of_object(directory, found) if is_object(asked) else _facts(found[0])
        typer.echo("\n".join(f"{key:14}{value}" for key, value in facts.items() if value not in ("", None)))
        if is_object(asked):
            typer.echo("\n".join(_line(saved) + f": {saved.damage}" for saved in found if saved.damage))
    raise typer.Exit(1 if any(saved.damage is not None and not saved.deleted for saved in found) else 0)


def _of_object(directory: Path, found: list[Saved]) -> dict[str, object]:
    records = [saved for saved in found if saved.sequence is not None]
    damaged = sum(saved.damage is not None and not saved.deleted for saved in found)
    return {
        "file": found[0].name,
        "bytes": (directory / DIRECTORY / found[0].name).stat().st_size,
        "records": f"{records[0].sequence} to {records[-1].sequence}" if records else "none that can be read",
        "instances": f"{sum(saved.sendable for saved in found)} can be sent",
        "deleted": sum(bool(saved.deleted) for saved in found) or None,
        "damaged": damaged or None,
        "valid": None if damaged else "every byte is as its digests say",
        "why": found[0].why,
    }


def _facts(saved: Saved) -> dict[str, object]:
    study, _, rest = saved.path.partition("/")
    instance = saved.kind == "instance"
    written = saved.time_us
    return {
        "file": saved.name,
        "bytes": saved.bytes,
        "position": None if saved.sequence is None else f"record {saved.sequence} of epoch {saved.epoch}",
        "kind": saved.kind,
        "written": datetime.fromtimestamp(written / 1e6, UTC).isoformat() if written is not None else None,
        "study": study if instance else "",
        "series": rest.partition("/")[0] if instance else "",
        "instance": saved.sop_instance_uid,
        "class": saved.sop_class_uid,
        "syntax": saved.transfer_syntax_uid,
        "digest": saved.digest,
        "damage": saved.damage,
        "valid": "every byte is as its digest says" if saved.damage is None else None,
        "why": saved.why,
    }


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise _usage(f"--to {text}: give HOST:PORT of the DICOM port of any node")
    return host, int(port)


@app.command("resubmit")
def resubmit_verb(
    directory: DirectoryArgument,
    name: Annotated[list[str] | None, typer.Argument(help="File names, as `list` shows them; else all.")] = None,
    to: Annotated[str, typer.Option(help="HOST:PORT of the DICOM port of any node.")] = "127.0.0.1:11112",
    ae: Annotated[str, typer.Option(help="The AE title to call.")] = "PERENNE",
    ask: Annotated[str, typer.Option(help="http://HOST:PORT of a node, which says what was deleted on purpose.")] = "",
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="The node's TOML file, instead of --ask, or for its token.")
    ] = None,
    even_deleted: Annotated[
        bool, typer.Option("--even-deleted", help="Store also what was deleted on purpose.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check every byte and say what would be sent.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Offer valid instances to the cluster again, through C-STORE like any modality.

    What the cluster has already is answered with Success and stored no second time. What was answered with Success
    moves to lost+found/resubmitted/; nothing is deleted. Of an object of the tier that a restore kept (`beyond-…`) each
    instance is sent by itself, and the file moves when nothing in it is left. What is damaged, or is no instance,
    stays where it is and is named. So is what was deleted on purpose: a node is asked, by --config or --ask.
    Interrupted, it goes on where it was when it is run again.

    Example: `perenne lost-found resubmit /var/lib/perenne --config /etc/perenne.toml --to n1.pacs.example:11112`. Exit
    code 0 everything that could be sent was taken, 1 something was not, 2 bad usage, 130 interrupted.
    """
    address, access = ("", NodeAccess()) if even_deleted else _asked(ask, config)
    host, port = _address(to)
    asked = _opened(directory, name or [])
    found: list[Saved] = []
    outcomes: list[Outcome] = []

    def held(saved: Saved) -> str | None:
        return held_back(address, access, saved.sop_instance_uid) if address else None

    def send(wanted: list[Saved], said: Callable[[Outcome], None]) -> str:
        return "" if dry_run else _send(directory, wanted, host, port, ae, said)

    try:
        broken = _offered(directory, asked, held, send, found, outcomes, as_json=as_json)
        for done in [] if dry_run else done_with(found, outcomes):
            set_aside(directory, done)
    except KeyboardInterrupt:
        sys.stderr.write(f"perenne: {_interrupted(outcomes, dry_run=dry_run)}\n")
        raise typer.Exit(INTERRUPTED) from None
    finally:
        given_back(directory / DIRECTORY)
    _report(found, outcomes, broken, dry_run=dry_run, as_json=as_json)


def _offered(
    directory: Path,
    asked: list[str],
    held: Callable[[Saved], str | None],
    send: Callable[[list[Saved], Callable[[Outcome], None]], str],
    found: list[Saved],
    outcomes: list[Outcome],
    *,
    as_json: bool,
) -> str:
    """Check, ask and send; return why it broke off. found, outcomes: grow meanwhile."""
    with moving_things(quiet=as_json) as progress:
        checking = progress.add_task("checking", total=len(asked))
        for saved in entries(directory, asked, verify=True):
            progress.update(checking, completed=asked.index(saved.name))
            found.append(saved)
        progress.update(checking, completed=len(asked))
        sendable = [saved for saved in found if saved.sendable]
        wanted: list[Saved] = []
        for saved in sendable:
            why = held(saved)
            if why is None:
                wanted.append(saved)
            else:
                outcomes.append(Outcome(saved, f"stays: {why}"))
                _tell(saved, f"stays: {why}", as_json=as_json)
        sending = progress.add_task("sending", total=len(wanted))

        def said(outcome: Outcome) -> None:
            outcomes.append(outcome)
            progress.advance(sending)
            _tell(outcome.saved, "taken" if outcome.problem is None else outcome.problem, as_json=as_json)

        return send(wanted, said)


def _interrupted(outcomes: list[Outcome], *, dry_run: bool) -> str:
    if dry_run:
        return "interrupted; nothing was sent, and nothing moved"
    taken = sum(outcome.problem is None for outcome in outcomes)
    return (
        f"interrupted; {taken} instances were taken. The one that was on its way may have been, and nothing is lost:"
        " the same command goes on with what is left in lost+found, and what the cluster has it stores no second time"
    )


def _asked(ask: str, config: Path | None) -> tuple[str, NodeAccess]:
    """Who says what was deleted. Raises typer.Exit."""
    if not ask and config is None:
        raise _usage("which node says what was deleted on purpose? Give --config or --ask URL, or say --even-deleted")
    if config is None:
        return ask.rstrip("/"), NodeAccess()
    settings = read_config(config)
    return ask.rstrip("/") or own_address(settings), NodeAccess.of(settings)


def _send(directory: Path, wanted: list[Saved], host: str, port: int, ae: str, said: Callable[[Outcome], None]) -> str:
    """Return why it broke off; empty when it did not."""
    try:
        asyncio.run(resubmit(directory, wanted, host, port, ae, said))
    except AssociationRejected as error:
        return f"{error}: is {ae} the AE title of the node (--ae)?"
    except (OSError, AssociationAborted) as error:
        if isinstance(error, OSError) and error.filename is not None:  # not the network: what was taken cannot be moved
            return f"{error.filename}: {error.strerror}; run it as a user who may write there, to go on"
        return f"{host}:{port}: {error}; `perenne status` tells which nodes take stores. Run it again to go on"
    return ""


def _tell(saved: Saved, result: str, *, as_json: bool) -> None:
    facts = {"name": saved.name, "sop_instance_uid": saved.sop_instance_uid, "result": result}
    typer.echo(json.dumps(facts) if as_json else f"{saved.name} {saved.sop_instance_uid or saved.kind}: {result}")


def _report(found: list[Saved], outcomes: list[Outcome], broken: str, *, dry_run: bool, as_json: bool) -> None:
    said = {(outcome.saved.name, outcome.saved.at) for outcome in outcomes}
    for saved in found:
        if saved.deleted:
            _tell(saved, f"stays: it was deleted on purpose, by record {saved.deleted}", as_json=as_json)
        elif not saved.sendable and (saved.damage or not is_object(saved.name)):
            _tell(saved, f"stays: {saved.damage or 'no instance'}", as_json=as_json)
        elif saved.sendable and dry_run and (saved.name, saved.at) not in said:
            _tell(saved, "would be sent", as_json=as_json)
    taken = sum(outcome.problem is None for outcome in outcomes)
    wanted = sum(saved.sendable for saved in found)
    files = len({saved.name for saved in found})
    counts = {"files": files, "instances": wanted, "taken": taken, "broken_off": broken}
    if broken:
        sys.stderr.write(f"perenne: {broken}\n")
    if as_json:
        typer.echo(json.dumps(counts))
    elif dry_run:
        typer.echo(f"{wanted - len(said)} instances of {files} files would be sent")
    else:
        typer.echo(f"{taken} of {wanted} instances taken; what has nothing left lies in {DIRECTORY}/{RESUBMITTED}")
    if not dry_run and taken < wanted:
        raise typer.Exit(1)
