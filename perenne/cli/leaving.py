"""`perenne await-in-sync`: what a node waits for before it is stopped on purpose, such as in a rolling update."""

import http.client
import sys
import time
from pathlib import Path
from typing import Annotated, Final

import typer

from perenne.cli.usage import fail, read_config
from perenne.nodeaccess import NodeAccess, own_address

_LOOK_S: Final = 0.5


class NoAnswer(Exception):
    """The node says nothing that could be waited for."""


def others_in_sync(address: str, access: NodeAccess) -> set[str]:
    """The in-sync set as the node last read it, without itself; empty while nobody leads. Raises NoAnswer."""
    try:
        facts = access.json(address, "/status", 5)
        return set(facts["in_sync"]) - {facts["node"]} if facts["leader"] else set()
    except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
        raise NoAnswer(f"{address} does not answer ({error}): there is nothing to wait for") from error


def awaited(address: str, access: NodeAccess, others: int, seconds: float) -> bool:
    """Whether so many others came into sync in time. Raises NoAnswer."""
    deadline = time.monotonic() + seconds
    while True:
        found = others_in_sync(address, access)
        if len(found) >= others:
            sys.stdout.write(f"in sync besides this node: {', '.join(sorted(found)) or 'nobody'}\n")
            return True
        if time.monotonic() > deadline:
            names = ", ".join(sorted(found)) or "nobody"
            text = f"perenne: after {seconds:g} s only {names} is in sync besides this node, and not {others} others:"
            sys.stderr.write(f"{text} stopping it may pause stores. perenne status says what is behind.\n")
            return False
        time.sleep(_LOOK_S)


def await_in_sync(
    url: Annotated[str, typer.Argument(help="http://HOST:PORT of the node, if not as its configuration says.")] = "",
    config: Annotated[Path | None, typer.Option("--config", "-c", help="The TOML file of the node.")] = None,
    others: Annotated[int, typer.Option(min=0, help="How many members the in-sync set shall have besides it.")] = 2,
    seconds: Annotated[float, typer.Option(min=0, help="How long to wait.")] = 60.0,
) -> None:
    """Wait until the cluster can do without a node: enough others are in sync. Changes nothing.

    For hooks that run before a node is stopped on purpose, one after the other: then stores do not pause. Exit code 0
    they are, 1 not in time or no answer, 2 bad usage. Example: `perenne await-in-sync --config /etc/perenne/node.toml`.
    """
    if not url and config is None:
        raise fail("which node? Give --config FILE or http://HOST:PORT", 2)
    access, address = NodeAccess(), url if "://" in url else f"http://{url}"
    if config is not None:
        settings = read_config(config)
        access, address = NodeAccess.of(settings), address if url else own_address(settings)
    try:
        raise typer.Exit(0 if awaited(address.rstrip("/"), access, others, seconds) else 1)
    except NoAnswer as error:
        raise fail(str(error)) from error
