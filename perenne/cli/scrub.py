"""`perenne scrub`: has running nodes read their logs again now, and shows how far they are."""

import asyncio
import json
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Annotated, Any, Final

import typer

from perenne.cli import INTERRUPTED
from perenne.cli.asking import answer_of
from perenne.cli.orders import (
    CONNECT_S,
    ClusterOption,
    ConfigOption,
    Desk,
    JsonOption,
    Keeper,
    bad_usage,
    keeper_of,
)
from perenne.cli.progress import shown
from perenne.cli.usage import ZooKeeperOption
from replication.coordination.orderbox import OrderDesk
from replication.coordination.port import CoordinationUnavailable

ANSWER_S: Final = 15.0
LOOK_S: Final = 1.0
SILENCES: Final = 4
"""A node that did not answer so often, one time after another, is given up."""
Facts = dict[str, dict[str, Any]]


class NotAsked(Exception):
    """Nobody could be asked; the text says why. bad: the command is at fault."""

    def __init__(self, text: str, *, bad: bool = False) -> None:
        super().__init__(text)
        self.bad = bad


def scrub_verb(
    config: ConfigOption = None,
    zookeeper: ZooKeeperOption = "",
    cluster: ClusterOption = None,
    node: Annotated[list[str] | None, typer.Option("--node", help="These nodes only; may be repeated.")] = None,
    deep: Annotated[
        bool, typer.Option("--deep/--light", help="Every payload against its digest; or headers, tables, chain alone.")
    ] = True,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Until it is done; or only begin it.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Have running nodes read their logs again from the medium, now, and wait until they have.

    Each node does so by itself, light daily and deep weekly (its configuration, section scrub); this does not wait for
    the next time. What is damaged is mended from another node or the tier as it is found. On the leader a light pass
    also compares the tier with what it must hold. A pass gives way to stores and reads, at per_second_bytes of that
    section at most, and goes on after a restart of the node. One that was asked for and is under way is joined, not
    begun again.

    Ctrl-C ends the watching, not the pass: type the same again to watch, or look at `perenne status`, column verified.

    Example: `perenne scrub --config node.toml --light`; `perenne scrub --config node.toml --node n2 --no-wait`.
    Exit code 0 all was read and nothing is damaged (with --no-wait: it has begun), 1 something is damaged, or a node
    did not answer, 2 bad usage, 130 interrupted. For a node that does not run: `perenne verify DATA_DIR`.
    """
    keeper = keeper_of(config, zookeeper, cluster)
    try:
        found = asyncio.run(_scrubbed(keeper, node or [], "deep" if deep else "light", wait=wait, quiet=as_json))
    except NotAsked as error:
        if error.bad:
            raise bad_usage(str(error)) from error
        sys.stderr.write(f"perenne: {error}\n")
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        sys.stderr.write("perenne: what was begun goes on in the nodes; type the same again to watch it\n")
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        typer.echo(json.dumps(found))
    else:
        for name, facts in found.items():
            typer.echo(f"{name}: {_line(facts)}")
    raise typer.Exit(int(any(_wrong(facts) for facts in found.values())))


def _wrong(facts: dict[str, Any]) -> bool:
    return bool("error" in facts or facts["damaged"] or facts["faults"])


def _line(facts: dict[str, Any]) -> str:
    if "error" in facts:
        return str(facts["error"])
    if facts["running"]:
        said = f"a pass is under way: {facts['done']} of {facts['upto']} records"
    else:
        said = f"read again up to record {facts['upto']}"
    damaged = ", ".join(map(str, facts["damaged"]))
    left = f"damaged: {damaged}; see perenne repair" if damaged else "nothing is damaged"
    return "; ".join([said, left, *facts["faults"]])


async def _scrubbed(keeper: Keeper, names: list[str], depth: str, *, wait: bool, quiet: bool) -> Facts:
    """Raises NotAsked."""
    async with AsyncExitStack() as stack:
        desk, wanted, away = await _reached(keeper, names, stack)
        found: Facts = {name: {"error": "does not run: start it, or use perenne verify DATA_DIR"} for name in away}
        for name in wanted:
            facts = await answer_of(desk, "scrub", name, {"depth": depth}, ANSWER_S)
            found[str(facts.get("node", name))] = facts
        if wait:
            await _watched(desk, found, depth, quiet=quiet)
        return found


async def _reached(keeper: Keeper, names: list[str], stack: AsyncExitStack) -> tuple[Desk, Sequence[str], list[str]]:
    """Whom to ask, who is there, and who is not. Of a standalone node no name is known before it answers."""
    if keeper.data_dir is not None:
        if names:
            raise NotAsked("--node is for clusters: this configuration is that of a standalone node", bad=True)
        desk = OrderDesk(keeper.data_dir)
        stack.callback(desk.close)
        return desk, [""], []
    from perenne.session import SessionWaiter
    from replication.coordination.zookeeper import ZooKeeperCoordination

    coordination = ZooKeeperCoordination(keeper.hosts, session_timeout_ms=6000, access=keeper.access)
    waiter = SessionWaiter()
    await coordination.start(waiter)
    stack.push_async_callback(coordination.close)
    try:
        async with asyncio.timeout(CONNECT_S):
            await waiter.event.wait()
            live = await coordination.live_nodes()
            registered = {n for n, node in (await coordination.registrations()).items() if not node.retired} | set(live)
    except (TimeoutError, CoordinationUnavailable) as error:
        raise NotAsked(f"ZooKeeper at {keeper.hosts} does not answer") from error
    if unknown := [name for name in names if name not in registered]:
        there = ", ".join(sorted(registered)) or "none"
        raise NotAsked(f"no node {', '.join(unknown)} is registered: there are {there}", bad=True)
    wanted = names or sorted(registered)
    if not wanted:
        raise NotAsked("no node is registered")
    return coordination, [name for name in wanted if name in live], [name for name in wanted if name not in live]


async def _watched(desk: Desk, found: Facts, depth: str, *, quiet: bool) -> None:
    """Ask again and again, until all have ended."""
    running = [name for name, facts in found.items() if facts.get("running")]
    silent = dict.fromkeys(running, 0)
    total = sum(found[name]["upto"] for name in running)
    with shown(f"{depth} scrub", total, quiet=quiet, of_bytes=False) as reached:
        while running := [name for name in running if found[name].get("running")]:
            await asyncio.sleep(LOOK_S)
            for name in running:
                facts = await answer_of(desk, "scrub", name, {"depth": depth, "look": "only"}, ANSWER_S)
                silent[name] = silent[name] + 1 if "error" in facts else 0
                if not silent[name] or silent[name] >= SILENCES:
                    found[name] = facts
            ended = (facts["done" if facts["running"] else "upto"] for facts in found.values() if "upto" in facts)
            reached(sum(ended))
