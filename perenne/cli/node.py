"""`perenne node`: runs one node; its sub verbs bring a node into a cluster, out of it, or back with a new disk."""

import os
from pathlib import Path
from typing import Annotated

import typer

from perenne.cli.rescue import ClusterOption, ConfigOption, DryRunOption, JsonOption
from perenne.cli.usage import ZooKeeperOption, fail, read_config

app = typer.Typer(invoke_without_command=True)
NameArgument = Annotated[str, typer.Argument(help="The id of its section node.")]
SecondsOption = Annotated[float, typer.Option(help="How long to wait; 0 is for as long as it takes.")]


@app.callback()
def run_node(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="The node's TOML file.")] = None,
    allow_solo: Annotated[
        bool, typer.Option("--allow-solo", help="Let one durable copy be enough. One lost disk then loses images.")
    ] = False,
    tier: Annotated[
        Path | None,
        typer.Option("--tier", help="A directory that holds the second copy, as section tier names it (docs/tier.md)."),
    ] = None,
) -> None:
    """Run one node until SIGTERM. Without a configuration: standalone, and it says why it refuses stores.

    With `--tier /mnt/san`, or a tier section, a standalone node keeps two copies: on its disk and there. Mark the
    directory before, once: `perenne tier prepare --directory /mnt/san`.

    With a verb, do something about a node instead: `perenne node add`, `perenne node replace`, `perenne node retire`.
    """
    if context.invoked_subcommand is not None:
        if config is not None or allow_solo or tier is not None:
            raise fail(f"these options belong behind the verb: perenne node {context.invoked_subcommand} …", 2)
        return
    if allow_solo:
        os.environ["PERENNE_CLUSTER__ALLOW_SOLO"] = "true"
    if tier is not None:
        os.environ |= {"PERENNE_TIER__KIND": "directory", "PERENNE_TIER__DIRECTORY": str(tier.absolute())}
    settings = read_config(config, disk=True)
    from perenne.node import run

    raise typer.Exit(run(settings))


@app.command("add")
def add(
    name: NameArgument,
    config: Annotated[Path, typer.Option("--config", "-c", help="The TOML file of a node that runs: the model.")],
    data_dir: Annotated[Path, typer.Option("--data-dir", help="Of the new node, on its own machine; empty.")],
    advertise_host: Annotated[str, typer.Option(help="How the other nodes reach the new one.")] = "",
    dicom_port: Annotated[int, typer.Option(help="If it differs from the model's.")] = -1,
    http_port: Annotated[int, typer.Option(help="If it differs from the model's.")] = -1,
    peer_port: Annotated[int, typer.Option(help="If it differs from the model's.")] = -1,
    output: Annotated[Path | None, typer.Option(help="Where to write it; else NAME.toml beside the model.")] = None,
    wait: Annotated[bool, typer.Option(help="Watch until the new node is in sync.")] = True,
    seconds: SecondsOption = 0.0,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write the configuration of a new node, after the model of one that runs, and watch until the node is in sync.

    The new node gets the model's settings, its own id, data directory and addresses; nothing that exists is
    overwritten. Take the file to the new machine and start the node with it: it registers, is filled, and enters the
    in-sync set by itself. This verb watches that, with records and rate. Interrupted, only the watching ends; type it
    again to go on.

    Example: `perenne node add n3 --config n1.toml --data-dir /var/lib/perenne --advertise-host n3.pacs.example`. Exit
    code 0 in sync (or written, with --no-wait), 1 not in time or refused, 2 bad usage, 130 interrupted.
    """
    from perenne.cli import members

    ports = {"dimse": dicom_port, "http": http_port, "peer": peer_port}
    wanted = members.Wanted(name, data_dir, advertise_host, {k: port for k, port in ports.items() if port >= 0})
    members.add(config, wanted, output, wait=wait, seconds=seconds, dry_run=dry_run, as_json=as_json)


@app.command("replace")
def replace(
    name: NameArgument,
    config: ConfigOption = None,
    zookeeper: ZooKeeperOption = "",
    cluster: ClusterOption = None,
    seconds: SecondsOption = 0.0,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """A node's disk is lost: take that disk off the register, and watch the node come back with an empty one.

    Type it while the node is stopped. It bars the old disk (its incarnation), so that it cannot come back by mistake,
    then waits for the node with an empty data directory: start it with the same configuration. Others fill it; this
    verb shows records and rate. It refuses while no other replica in sync runs. Interrupted, only the watching ends;
    type it again to go on.

    Example: `perenne node replace n2 --config /etc/perenne.toml`. Exit code 0 in sync, 1 not in time or refused, 2 bad
    usage, 130 interrupted.
    """
    from perenne.cli import members, rescuing

    reach = rescuing.reach(config, zookeeper, cluster)
    members.replace(reach, name, seconds=seconds, dry_run=dry_run, as_json=as_json)


@app.command("retire")
def retire(
    name: NameArgument,
    config: ConfigOption = None,
    zookeeper: ZooKeeperOption = "",
    cluster: ClusterOption = None,
    seconds: SecondsOption = 60.0,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Take a node out of the cluster for good, without a moment in which too few replicas hold something.

    It refuses if fewer than `copies_required` replicas in sync would be left. A node that leads hands over first; it
    leaves the in-sync set once the others hold everything committed; then it is taken off the register, and its process
    ends with exit code 0. With this data directory it does not come back; nothing in it is deleted.

    Example: `perenne node retire n3 --config /etc/perenne.toml`. Exit code 0 retired, 1 refused or not in time (it goes
    on; type it again to watch), 2 bad usage, 130 interrupted.
    """
    from perenne.cli import members, rescuing

    reach = rescuing.reach(config, zookeeper, cluster)
    members.retire(reach, name, seconds=seconds, dry_run=dry_run, as_json=as_json)
