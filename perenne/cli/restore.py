"""`perenne restore`: a node, a whole cluster, or a look at the past, from the tier alone."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perenne.cli.tier import ConfigOption, JsonOption

if TYPE_CHECKING:
    from replication.restore.engine import Until


def restore_verb(
    config: ConfigOption,
    whole: Annotated[
        bool, typer.Option("--cluster", help="Bring the whole cluster back: every node is lost, the tier is left.")
    ] = False,
    until: Annotated[
        str,
        typer.Option(help="Stop at a position (a sequence) or a time (ISO 8601, UTC unless it says so). Needs --to."),
    ] = "",
    to: Annotated[Path | None, typer.Option(help="Another directory than data_dir, for looking only.")] = None,
    replace_state: Annotated[
        int | None,
        typer.Option(
            help="The change number of the state in ZooKeeper that may be overwritten (the refusal names it)."
        ),
    ] = None,
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="Bring the cluster back although the report names what is missing.")
    ] = False,
    leave_beyond: Annotated[
        bool, typer.Option("--leave-beyond", help="Do not copy what lies beyond a gap into lost+found.")
    ] = False,
    cluster_id: Annotated[
        str, typer.Option(help="The cluster's id, for a tier that does not name it; else a new one is made.")
    ] = "",
    jobs: Annotated[
        int,
        typer.Option(
            min=0,
            help="Processes that fetch and prove whole segments beside each other; 1: none but this one. Else as many"
            " as there are processors, at most 4; each takes about 150 MB of memory.",
            metavar="N",
            show_default=False,
        ),
    ] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be restored.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Rebuild a data directory from the bucket or directory tier alone, every digest and the whole chain verified.

    One node, whose cluster lives:     perenne restore -c node.toml   (joining empty does it as well, from the peers)
    Everything is lost but the tier:   perenne restore -c node.toml --cluster
    A look at the past:                perenne restore -c node.toml --until 2026-03-01T12:00 --to /mnt/past

    The directory must be empty. Ctrl-C and kill -9 do no harm: the same command goes on, and no node starts on a half
    restored directory. What cannot be restored is named: positions, and instances where their names are known. What
    lies beyond a gap is kept in lost+found. With --cluster the coordination state is written last, at a higher epoch;
    start the node then, and give it empty peers.

    A past is a log of plain tar files: `tar xf`, `perenne log ls`, `perenne log extract`. No node takes it for its own.

    Exit code 0 everything is there, 1 something is missing or it had to stop, 130 it was interrupted, 2 bad usage (the
    directory is not empty, for example); nothing was changed then. With --dry-run it says what the tier holds,
    and what would be refused now and why (nodes that run, a state in ZooKeeper, a directory that is not empty); the
    code is the one that the restore itself would give, as far as names and headers tell.
    """
    from perenne.cli.usage import fail, read_config
    from perenne.restoring import CLUSTER, NODE, Unusable, Wish
    from replication.restore.engine import Until
    from replication.restore.filling import PAST

    settings = read_config(config, disk=to is None and not dry_run)
    if not settings.tier.on:
        raise fail("no tier is configured: write a [tier] section, see docs/tier.md", 2)
    if bool(until) != (to is not None):
        raise fail("--until and --to belong together: a look at the past needs a directory of its own", 2)
    if until and whole:
        raise fail("a cluster is restored to the end of its log; --until is for looking only", 2)
    if settings.standalone and not whole and not until:
        raise fail("a standalone node is the whole cluster: --cluster", 2)
    try:
        limit = until_of(until) if until else Until()
    except ValueError as error:
        raise fail(f"--until {until}: {error}", 2) from error
    wish = Wish(
        kind=PAST if until else CLUSTER if whole else NODE,
        to=to if to is not None else settings.node.data_dir,
        until=limit,
        until_text=until,
        replace_state=replace_state,
        accept_loss=accept_loss,
        keep_beyond=not leave_beyond and whole,
        cluster_id=cluster_id,
    )
    from perenne.cli.restore_run import carry_out

    try:
        raise typer.Exit(carry_out(settings, wish, jobs=jobs, as_json=as_json, dry_run=dry_run))
    except Unusable as error:
        if as_json:
            sys.stdout.write(json.dumps({"finished": False, "cause": str(error)}) + "\n")
        raise fail(str(error), 2) from error


def until_of(text: str) -> "Until":
    """A sequence, or a time. Raises ValueError."""
    from replication.restore.engine import Until

    if text.isdecimal():
        if int(text) < 1:
            raise ValueError("the first record is 1")
        return Until(sequence=int(text))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError("write a position, such as 4711, or a time, such as 2026-03-01T12:00 (UTC)") from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    if moment > datetime.now(UTC):
        raise ValueError(f"{moment.isoformat()} is still to come; times are UTC unless they say otherwise")
    return Until(time_us=int(moment.timestamp() * 1_000_000))
