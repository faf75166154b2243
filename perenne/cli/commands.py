"""The verbs of `perenne`; each part is imported when its verb runs."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from perenne import VERSION
from perenne.cli import moving, offline, tier
from perenne.config import Config, ConfigError
from perenne.config_reading import load_config

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(offline.app, name="log", help="Look into a data directory, with no cluster and without changing it.")
app.add_typer(tier.app, name="tier", help="Prepare and try out the bucket or directory of the second copy.")
config_app = typer.Typer(no_args_is_help=True, help="Check a configuration.")
app.add_typer(config_app, name="config")
app.command("import")(moving.import_verb)
app.command("export")(moving.export_verb)

ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="The node's TOML file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="For scripts: one JSON document.")]


def fail(text: str, code: int = 1) -> typer.Exit:
    sys.stderr.write(f"perenne: {text}\n")
    return typer.Exit(code)


def read_config(file: Path | None) -> Config:
    try:
        return load_config(file, os.environ)
    except ConfigError as error:
        raise fail(str(error), 2) from error


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
    verify`. Each verb explains itself: `perenne VERB --help`.
    """


@app.command()
def node(
    config: ConfigOption = None,
    allow_solo: Annotated[
        bool, typer.Option("--allow-solo", help="Let one durable copy be enough. One lost disk then loses images.")
    ] = False,
) -> None:
    """Run one node until SIGTERM. Without a configuration: standalone, and it says why it refuses stores."""
    if allow_solo:
        os.environ["PERENNE_CLUSTER__ALLOW_SOLO"] = "true"
    settings = read_config(config)
    from perenne.node import run

    raise typer.Exit(run(settings))


@config_app.command("check")
def config_check(file: Annotated[Path, typer.Argument(help="The TOML file.")], as_json: JsonOption = False) -> None:
    """Say everything that is wrong with a configuration, and what to write instead."""
    try:
        load_config(file, os.environ)
    except ConfigError as error:
        if as_json:
            problems = [{"where": p.where, "cause": p.cause, "next_step": p.next_step} for p in error.problems]
            typer.echo(json.dumps({"ok": False, "problems": problems}, indent=2))
            raise typer.Exit(2) from error
        raise fail(str(error), 2) from error
    typer.echo(json.dumps({"ok": True, "problems": []}) if as_json else f"{file}: nothing is wrong")


@app.command()
def status(
    url: Annotated[list[str] | None, typer.Argument(help="http://HOST:PORT of one or more nodes.")] = None,
    cluster: Annotated[Path | None, typer.Option("--cluster", help="A cluster.json written by script/up.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show every node: role, in sync, position, lag, disk, health. Exit code 0 healthy, 1 degraded, 2 cannot store."""
    from perenne.cli.status import NoCluster, addresses, show

    try:
        found = addresses(url or [], cluster or Path(".local/cluster/cluster.json"))
    except NoCluster as error:
        raise fail(str(error), 2) from error
    raise typer.Exit(show(found, as_json=as_json))


@app.command("check-journal")
def check_journal(
    journal: Annotated[Path, typer.Argument(help="JSON lines of what senders were told (docs/proof.md).")],
    url: Annotated[list[str] | None, typer.Argument(help="http://HOST:PORT of one or more nodes.")] = None,
    cluster: Annotated[Path | None, typer.Option("--cluster", help="A cluster.json written by script/up.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Ask every node for every acknowledged instance, and compare its bytes with what was sent.

    Exit code 0 everything is kept, 1 something is lost or altered, 3 not everything could be checked, 2 bad usage.
    """
    from perenne.cli.journal import show
    from perenne.cli.status import NoCluster, addresses
    from perenne.journal import JournalUnreadable

    try:
        found = addresses(url or [], cluster or Path(".local/cluster/cluster.json"))
    except NoCluster as error:
        raise fail(str(error), 2) from error
    try:
        raise typer.Exit(show(journal, found, as_json=as_json))
    except (JournalUnreadable, OSError) as error:
        raise fail(str(error), 2) from error


@app.command()
def switchover(
    config: ConfigOption = None,
    zookeeper: Annotated[str, typer.Option(help="host:port,… instead of a configuration.")] = "",
    cluster: Annotated[Path | None, typer.Option("--cluster", help="A cluster.json written by script/up.")] = None,
    to: Annotated[str, typer.Option(help="The node that is to lead; else the most advanced follower.")] = "",
    seconds: Annotated[float, typer.Option(help="How long to wait for it.")] = 30.0,
) -> None:
    """Hand the lead to another node; acknowledgements pause for well under a second, nothing is lost."""
    from perenne.cli.status import NoCluster
    from perenne.cli.switchover import ask, zookeeper_of

    try:
        hosts = zookeeper or (zookeeper_of(cluster) if cluster else read_config(config).coordination.zookeeper)
    except NoCluster as error:
        raise fail(str(error), 2) from error
    if not hosts:
        raise fail("no ZooKeeper to ask: give --config, --zookeeper or --cluster FILE", 2)

    result = ask(hosts, to, seconds)
    typer.echo(result)
    if not result.endswith("leads"):
        raise typer.Exit(1)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def bench(context: typer.Context) -> None:
    """Measure stores and failover on this machine, beside Orthanc and storescp."""
    from perenne.bench import main

    raise typer.Exit(main(context.args))
