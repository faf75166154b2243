"""The verbs that look after what is stored: verify, repair, reindex."""

import os
from pathlib import Path
from typing import Annotated

import typer

from perenne.cli.usage import ZooKeeperOption, fail, read_config
from storage.errors import StorageError

DirectoryArgument = Annotated[Path | None, typer.Argument(help="A node's data directory; else that of --config.")]
ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="The node's TOML file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="For scripts.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")]


def add_to(app: typer.Typer) -> None:
    """Make them verbs of `perenne`."""
    for verb in (verify, repair, reindex):
        app.command()(verb)


def _directory(given: Path | None, config: Path | None) -> Path:
    if given is None and config is None:
        raise fail("name a data directory, or give --config FILE", 2)
    return given if given is not None else read_config(config).node.data_dir


def verify(
    directory: DirectoryArgument = None,
    config: ConfigOption = None,
    tier: Annotated[bool, typer.Option("--tier", help="Verify the tier of --config instead.")] = False,
    study: Annotated[str, typer.Option(help="One Study Instance UID: its payloads alone.")] = "",
    deep: Annotated[
        bool, typer.Option("--deep/--light", help="Every payload against its digest; or headers, tables, chain alone.")
    ] = True,
    first: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="RECORD",
            help="Go on there: payloads of segments before it are not read. Of the tier, go on below this object.",
        ),
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Read everything again, from the medium: is each record there, whole, and what its digest says?

    A node may be running or not: nothing is locked and nothing written. It also notices what is not there: records,
    segments, table entries, a log that is shorter than its node knew, an object of the tier without which a restore
    would fail. Exit code 0 all is well, 1 something is wrong with the data, 2 bad usage, 130 interrupted: then it says
    from where to go on.

    Example: `perenne verify /var/lib/perenne`, `perenne verify --tier --config node.toml --light`. What it finds
    in a node that runs, the node does not know yet: `perenne scrub --node NODE` has it look now, and mend it. Of a node
    that does not run: `perenne repair DIRECTORY --from …`.
    """
    if not tier:
        from perenne.cli.verify import verify_directory

        found = _directory(directory, config)
        if first and not first.isdecimal():
            raise fail(f"--from {first}: of a data directory it wants the number of a record", 2)
        raise typer.Exit(verify_directory(found, deep=deep, study=study, as_json=as_json, first=int(first or 0)))
    if directory is not None or config is None:
        raise fail("--tier needs --config FILE, and no data directory", 2)
    from perenne.cli.verify_tier import verify_tier
    from perenne.config_tier import blocking_store
    from replication.tier.keys import parse_run
    from replication.tier.port import TierError

    run = parse_run(first) if first else None
    if first and study:
        raise fail("--from is not for a study: its instances may lie above it", 2)
    if first and run is None:
        raise fail(f"--from {first}: of the tier it wants the name of an object, as the interrupted run gave it", 2)
    settings = read_config(config).tier
    try:
        store = blocking_store(settings, os.environ)
    except TierError as error:
        raise fail(str(error), 2) from error
    raise typer.Exit(verify_tier(settings, store, deep=deep, study=study, as_json=as_json, first=run))


def repair(
    directory: Annotated[Path | None, typer.Argument(help="The data directory of a node that does not run.")] = None,
    source: Annotated[Path | None, typer.Option("--from", help="Another node's data directory (it may run).")] = None,
    from_tier: Annotated[bool, typer.Option("--from-tier", help="Take what is missing from --config's tier.")] = False,
    config: ConfigOption = None,
    zookeeper: ZooKeeperOption = "",
    cluster: Annotated[Path | None, typer.Option("--cluster", help="A cluster.json written by script/up.")] = None,
    node: Annotated[list[str] | None, typer.Option("--node", help="Ask these nodes only; may be repeated.")] = None,
    seconds: Annotated[float, typer.Option(help="How long to wait for each node.")] = 60.0,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Mend damaged records from another node or from the tier.

    Without a directory: every registered node is asked, through ZooKeeper, to mend now what it knows to be damaged, and
    says what is left; one that does not run is named. (A node does so by itself too; this does not wait for the next
    try.)

    With the directory of a node that does NOT run: everything is read, and what is wrong is taken from `--from
    OTHER_DATA_DIR`: single records, or whole segments where nothing can be believed any more; or with `--from-tier
    --config FILE`, single records alone. Each byte is proved by chain and digest before it is put in place, and what
    lay there is kept in lost+found. After Ctrl-C run it again: it finds what is still to be done. With --dry-run it
    says what is wrong, and what of it the source has.

    Example: `perenne repair --config node.toml`; `perenne repair /var/lib/perenne --from /mnt/n2/perenne --dry-run`.
    Exit code 0 nothing is damaged (any more), 1 something is left (with --dry-run: something is damaged), or a node did
    not answer, 2 bad usage, which includes the directory of a node that runs (nothing was changed), 130 interrupted.
    """
    if directory is None:
        from perenne.cli.repair import UnknownNode, repair_running
        from perenne.cli.status import NoCluster
        from perenne.cli.switchover import zookeeper_of
        from perenne.config_tls import zookeeper_access

        if source is not None or from_tier:
            raise fail("--from and --from-tier mend the directory of a stopped node: name it", 2)
        settings = read_config(config)
        try:
            hosts = zookeeper or (zookeeper_of(cluster) if cluster else settings.coordination.zookeeper)
        except NoCluster as error:
            raise fail(str(error), 2) from error
        if not hosts:
            raise fail("no ZooKeeper to ask: give --config, --zookeeper or --cluster FILE", 2)
        access = zookeeper_access(settings)
        try:
            code = repair_running(hosts, node or [], access, seconds=seconds, dry_run=dry_run, as_json=as_json)
        except UnknownNode as error:
            raise fail(str(error), 2) from error
        raise typer.Exit(code)
    if (source is None) == (not from_tier):
        raise fail("say where to take sound bytes from: --from OTHER_DATA_DIR, or --from-tier --config FILE", 2)
    raise typer.Exit(_offline(directory, source, config, dry_run=dry_run, as_json=as_json))


def _offline(directory: Path, source: Path | None, config: Path | None, *, dry_run: bool, as_json: bool) -> int:
    from perenne.cli.repair import repair_offline
    from perenne.config_tier import blocking_store
    from replication.tier.port import TierError

    if source is not None and not (source / "log").is_dir():
        raise fail(f"{source} holds no log: give the [node] data_dir of another node", 2)
    if source is None and config is None:
        raise fail("--from-tier needs --config FILE", 2)
    settings = read_config(config).tier
    try:
        tier = (settings, blocking_store(settings, os.environ)) if source is None else None
    except TierError as error:
        raise fail(str(error), 2) from error
    try:
        return repair_offline(directory, other=source, tier=tier, dry_run=dry_run, as_json=as_json)
    except TierError as error:
        raise fail(str(error)) from error
    except StorageError as error:
        raise _stopped(error) from error
    except OSError as error:  # such as a directory that is mounted read-only
        raise fail(f"{directory}: {error}") from error


def reindex(
    directory: DirectoryArgument = None,
    config: ConfigOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make the index of a node that does not run anew from its log, and say at which rate.

    The index is derived from the log and holds nothing that the log does not. It is made beside the old one and takes
    its place when it is complete; an interrupted reindex goes on where it was. (A node that finds its index missing or
    damaged does the same by itself, while it takes stores.)

    Example: `perenne reindex /var/lib/perenne`. Exit code 0 done (or could be, with --dry-run), 1 some records cannot
    be read, 2 bad usage, which includes the directory of a node that runs: nothing was changed then; 130 interrupted.
    """
    from perenne.cli.reindex import reindex as run

    try:
        raise typer.Exit(run(_directory(directory, config), dry_run=dry_run, as_json=as_json))
    except StorageError as error:
        raise _stopped(error) from error


def _stopped(error: StorageError) -> typer.Exit:
    """Bad usage, where the directory is none or its node runs; else something is wrong with what lies there."""
    from perenne.cli.offline_log import NoDirectory
    from storage.errors import LogLocked

    if isinstance(error, LogLocked):
        return fail(f"{error}: stop the node first; nothing was changed", 2)
    return fail(str(error), 2 if isinstance(error, NoDirectory) else 1)
