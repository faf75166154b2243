"""`perenne failover --accept-loss` and `perenne coordination rebuild`: what a person decides when nodes must not."""

from pathlib import Path
from typing import Annotated

import typer

from perenne.cli.usage import ZooKeeperOption

coordination = typer.Typer(no_args_is_help=True)
ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="A node's TOML file.")]
ClusterOption = Annotated[Path | None, typer.Option("--cluster", help="A cluster.json written by script/up.")]
NodeOption = Annotated[list[str] | None, typer.Option("--node", help="http://HOST:PORT of a node to ask besides.")]
WithoutOption = Annotated[
    list[str] | None, typer.Option("--without", help="A node that is lost for good, or `tier`; may be repeated.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say everything, and change nothing.")]
YesOption = Annotated[str, typer.Option("--yes", help="The cluster id, instead of typing it when asked.")]
SecondsOption = Annotated[float, typer.Option(help="How long to wait until a node leads.")]
JsonOption = Annotated[bool, typer.Option("--json", help="For scripts: one JSON document.")]


def failover(
    accept_loss: Annotated[bool, typer.Option("--accept-loss", help="Say that what is named may be lost.")] = False,
    config: ConfigOption = None,
    zookeeper: ZooKeeperOption = "",
    cluster: ClusterOption = None,
    node: NodeOption = None,
    without: WithoutOption = None,
    dry_run: DryRunOption = False,
    yes: YesOption = "",
    seconds: SecondsOption = 60.0,
    as_json: JsonOption = False,
) -> None:
    """Go on although nobody is eligible: the only replicas in sync are lost, disk and all.

    Nodes elect a leader by themselves whenever one that holds everything is there; this verb refuses then, and names
    it. Else it asks every survivor, and the bucket where there is one, chooses the longest verified log, and names
    exactly what may be lost: records from and to, and what lost+found of a survivor still has of it. Every replica that
    is given up must be named by --without. It may not come back with the disk that it had: keep that disk, `perenne log
    extract` reads it. A node that was elected and waits for what is gone holds the lead for half a minute at a time;
    this waits until it lets go.

    Example: `perenne failover --accept-loss --config /etc/perenne.toml --without n1 --dry-run`, then without --dry-run.
    Exit code 0 a node leads, 1 refused or nobody led in time, 2 bad usage.
    """
    from perenne.cli import rescuing

    if not accept_loss:
        raise rescuing.fail(
            "elections need no command, and `perenne switchover` moves the lead; this verb is for a loss that you"
            " accept: say --accept-loss",
            2,
        )
    left = without or []
    reach = rescuing.reach(config, zookeeper, cluster)
    bucket, owner = rescuing.bucket(rescuing.configured(config)) if "tier" not in left else (None, None)
    rescuing.run(
        reach,
        node or [],
        lambda seen: rescuing.plan_failover(seen, left, bucket, tier_of=owner),
        dry_run=dry_run,
        yes=yes,
        seconds=seconds,
        as_json=as_json,
    )


@coordination.command("rebuild")
def rebuild(
    config: ConfigOption = None,
    zookeeper: ZooKeeperOption = "",
    cluster: ClusterOption = None,
    node: NodeOption = None,
    without: WithoutOption = None,
    accept_loss: Annotated[bool, typer.Option("--accept-loss", help="Go on although something is missing.")] = False,
    dry_run: DryRunOption = False,
    yes: YesOption = "",
    seconds: SecondsOption = 60.0,
    as_json: JsonOption = False,
) -> None:
    """Make the cluster state anew from what the nodes hold: ZooKeeper lost its data, or runs on an old copy of it.

    Start every node first: they run and can be asked without a leader. All must answer, or be given up by --without.
    The longest verified log along the highest epoch goes on, alone in sync at first; the others follow it by
    themselves. With a tier, give --config of a node with its tier section: where the bucket holds more than any node,
    the log comes from there. Where nothing is missing, nothing is lost; where something is, it is named, and
    --accept-loss is needed.

    Example: `perenne coordination rebuild --config /etc/perenne.toml --dry-run`, then without --dry-run. Exit code 0 a
    node leads, 1 refused or nobody led in time, 2 bad usage.
    """
    from perenne.cli import rescuing

    left = without or []
    reach = rescuing.reach(config, zookeeper, cluster)
    bucket, owner = rescuing.bucket(rescuing.configured(config)) if "tier" not in left else (None, None)
    rescuing.run(
        reach,
        node or [],
        lambda seen: rescuing.plan_rebuild(seen, left, bucket, accept_loss=accept_loss, tier_of=owner),
        dry_run=dry_run,
        yes=yes,
        seconds=seconds,
        as_json=as_json,
    )
