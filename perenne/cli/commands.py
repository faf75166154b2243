"""The verbs of `perenne`; each part is imported when its verb runs."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from perenne import VERSION
from perenne.cli import (
    compact,
    delete,
    drill,
    healing,
    leaving,
    lostfound,
    moving,
    node,
    offline,
    rescue,
    restore,
    retention,
    scrub,
    tier,
)
from perenne.cli.certs import certs
from perenne.cli.helptext import unbreak
from perenne.cli.usage import ZooKeeperOption, fail, read_config
from perenne.config import ConfigError
from perenne.config_reading import load_config
from perenne.doors import open_doors
from perenne.logs import hush
from perenne.nodeaccess import NodeAccess, own_address

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(node.app, name="node")
app.add_typer(offline.app, name="log", help="Look into a data directory, with no cluster and without changing it.")
healing.add_to(app)
app.add_typer(tier.app, name="tier", help="Prepare and try out the bucket or directory of the second copy.")
app.add_typer(delete.app, name="delete")
app.command("compact")(compact.compact)
app.add_typer(retention.app, name="retention", help="What may go by its age, and what must stay: rules and holds.")
app.add_typer(lostfound.app, name="lost-found", help="What was taken out of a log: look at it, offer it again.")
app.command("failover")(rescue.failover)
app.add_typer(rescue.coordination, name="coordination", help="The cluster state in ZooKeeper.")
app.command("restore")(restore.restore_verb)
app.command("scrub")(scrub.scrub_verb)
app.command("drill")(drill.drill_verb)
config_app = typer.Typer(no_args_is_help=True, help="Check a configuration.")
app.add_typer(config_app, name="config")
app.command("await-in-sync")(leaving.await_in_sync)
app.command("import")(moving.import_verb)
app.command("export")(moving.export_verb)

ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="The node's TOML file.")]
AccessOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="A node's TOML file: its address, and the token and authority it asks for."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="For scripts: one JSON document.")]


def _asked(url: list[str] | None, cluster: Path | None, config: Path | None) -> tuple[list[str], NodeAccess]:
    """Which addresses are asked, and how. Raises NoCluster."""
    from perenne.cli.status import addresses

    if config is None:
        return addresses(url or [], cluster or Path(".local/cluster/cluster.json")), NodeAccess()
    settings = read_config(config)
    asked = addresses(url or [], cluster) if url or cluster else [own_address(settings)]
    return asked, NodeAccess.of(settings)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(VERSION)
        raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and leave.")
]


@app.callback()
def _top(version: VersionOption = False) -> None:
    """Perenne is a DICOM archive: it answers Success when an image lies on two nodes at least, unless you allow one.

    Run a node: `perenne node --config FILE`. Look at all of them: `perenne status`. Check a disk: `perenne log
    verify`. Each verb explains itself: `perenne VERB --help`. One that Ctrl-C ends has exit code 130.
    """
    hush()


@config_app.command("check")
def config_check(file: Annotated[Path, typer.Argument(help="The TOML file.")], as_json: JsonOption = False) -> None:
    """Say everything that is wrong with a configuration, and what to write instead.

    It reads the files that are named as well: whether key, certificate and authority fit, hold today, and name this
    node. Of doors that stand open it says so: they may be meant. Exit code 0 nothing is wrong, 2 something is.
    """
    try:
        config = load_config(file, os.environ, material=True)
    except ConfigError as error:
        if as_json:
            problems = [{"where": p.where, "cause": p.cause, "next_step": p.next_step} for p in error.problems]
            typer.echo(json.dumps({"ok": False, "problems": problems}, indent=2))
            raise typer.Exit(2) from error
        raise fail(str(error), 2) from error
    open_to = list(open_doors(config))
    if as_json:
        notes = [{"where": where, "cause": cause, "next_step": step} for where, cause, step in open_to]
        typer.echo(json.dumps({"ok": True, "problems": [], "open_doors": notes}))
        return
    for where, cause, step in open_to:
        typer.echo(f"OPEN DOOR: {where}: {cause}. {step}")
    open_now = f", and {len(open_to)} door{'s stand' if len(open_to) > 1 else ' stands'} open" if open_to else ""
    typer.echo(f"{file}: nothing is wrong{open_now}")


app.command()(certs)


@app.command()
def status(
    url: Annotated[list[str] | None, typer.Argument(help="http://HOST:PORT of one or more nodes.")] = None,
    cluster: Annotated[Path | None, typer.Option("--cluster", help="A cluster.json written by script/up.")] = None,
    config: AccessOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show every node: role, in sync, position, lag, disk, health. Exit code 0 healthy, 1 degraded, 2 cannot store."""
    from perenne.cli.status import NoCluster, show

    try:
        found, access = _asked(url, cluster, config)
    except NoCluster as error:
        raise fail(str(error), 2) from error
    raise typer.Exit(show(found, access, as_json=as_json))


@app.command("check-journal")
def check_journal(
    journal: Annotated[Path, typer.Argument(help="JSON lines of what senders were told (docs/proof.md).")],
    url: Annotated[list[str] | None, typer.Argument(help="http://HOST:PORT of one or more nodes.")] = None,
    cluster: Annotated[Path | None, typer.Option("--cluster", help="A cluster.json written by script/up.")] = None,
    config: AccessOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask every node for every acknowledged instance, and compare its bytes with what was sent.

    Exit code 0 everything is kept, 1 something is lost, altered or back after its delete, 3 not everything could be
    checked or nothing was to be, 2 bad usage or a line that is no event.
    """
    from perenne.cli.journal import show
    from perenne.cli.status import NoCluster
    from perenne.journal import JournalUnreadable

    try:
        found, access = _asked(url, cluster, config)
    except NoCluster as error:
        raise fail(str(error), 2) from error
    try:
        raise typer.Exit(show(journal, found, access, as_json=as_json))
    except (JournalUnreadable, OSError) as error:
        raise fail(str(error), 2) from error


@app.command()
def switchover(
    config: ConfigOption = None,
    zookeeper: ZooKeeperOption = "",
    cluster: Annotated[Path | None, typer.Option("--cluster", help="A cluster.json written by script/up.")] = None,
    to: Annotated[str, typer.Option(help="The node that is to lead; else the most advanced follower.")] = "",
    seconds: Annotated[float, typer.Option(help="How long to wait for it.")] = 30.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say who could take over, and change nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Hand the lead to another node; acknowledgements pause for well under a second, nothing is lost.

    Example: `perenne switchover --config node.toml --to n2`. Exit code 0 that node leads (or could, with --dry-run), 1
    it does not, and why, 2 bad usage.
    """
    from perenne.cli.status import NoCluster
    from perenne.cli.switchover import ask, done, zookeeper_of
    from perenne.config_tls import zookeeper_access

    try:
        settings = read_config(config)
        hosts = zookeeper or (zookeeper_of(cluster) if cluster else settings.coordination.zookeeper)
    except NoCluster as error:
        raise fail(str(error), 2) from error
    if not hosts:
        raise fail("no ZooKeeper to ask: give --config, --zookeeper or --cluster FILE", 2)

    result = ask(hosts, to, seconds, zookeeper_access(settings), dry_run=dry_run)
    ok = done(result)
    typer.echo(json.dumps({"ok": ok, "dry_run": dry_run, "result": result}) if as_json else result)
    raise typer.Exit(0 if ok else 1)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def bench(context: typer.Context) -> None:
    """Measure stores and failover on this machine, beside Orthanc and storescp."""
    from perenne.bench import main

    raise typer.Exit(main(context.args))


unbreak(app)
