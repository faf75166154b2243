"""`perenne await-in-sync`: what a node waits for before it is stopped on purpose, such as in a rolling update."""

import json
import sys
import time
import urllib.request
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from perenne.cli.status import addresses

_DIRECT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_LOOK_S: Final = 0.5


class NoAnswer(Exception):
    """The node says nothing that could be waited for."""


def others_in_sync(address: str) -> set[str]:
    """The in-sync set as the node last read it, without itself; empty while nobody leads. Raises NoAnswer."""
    try:
        with _DIRECT.open(f"{address}/status", timeout=5) as answer:
            facts: dict[str, Any] = json.loads(answer.read())
        return set(facts["in_sync"]) - {facts["node"]} if facts["leader"] else set()
    except (OSError, ValueError, KeyError) as error:
        raise NoAnswer(f"{address} does not answer ({error}): there is nothing to wait for") from error


def awaited(address: str, others: int, seconds: float) -> bool:
    """Whether so many others came into sync in time. Raises NoAnswer."""
    deadline = time.monotonic() + seconds
    while True:
        found = others_in_sync(address)
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
    url: Annotated[str, typer.Argument(help="http://HOST:PORT of the node that is to be stopped.")],
    others: Annotated[int, typer.Option(min=0, help="How many members the in-sync set shall have besides it.")] = 2,
    seconds: Annotated[float, typer.Option(min=0, help="How long to wait.")] = 60.0,
) -> None:
    """Wait until the cluster can do without a node: enough others are in sync. Changes nothing.

    For hooks that run before a node is stopped on purpose, one after the other: then stores do not pause. Exit code 0
    they are, 1 not in time or no answer. Example: `perenne await-in-sync http://127.0.0.1:8080 --others 2`.
    """
    try:
        raise typer.Exit(0 if awaited(addresses([url], Path())[0], others, seconds) else 1)
    except NoAnswer as error:
        sys.stderr.write(f"perenne: {error}\n")
        raise typer.Exit(1) from error
