"""How the verbs that delete reach the leader: orders through the coordination service, one after another."""

import asyncio
import getpass
import json
import secrets
import sys
import time
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Protocol, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from perenne.cli import INTERRUPTED
from perenne.cli.usage import asked, fail, read_config
from perenne.config_checks import unusable_directory
from replication.coordination.access import Access
from replication.coordination.orderbox import OrderDesk
from replication.coordination.port import CoordinationUnavailable, Operation
from replication.pages import DELETE_VERB, of_page
from storage.listing import Listed

T = TypeVar("T")
ANSWER_S: Final = 8.0
"""After this an order is given again: whoever led may lead no more."""
SILENT_S: Final = 2.0
"""Whoever waits for longer is told what for."""
LOOK_S: Final = 0.03
CONNECT_S: Final = 15.0

ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="A node's TOML file: names ZooKeeper.")]
ClusterOption = Annotated[Path | None, typer.Option("--cluster", help="A cluster.json written by script/up.")]
AsOption = Annotated[str, typer.Option("--as", help="Who you are; else your user name here. Kept in the log.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask before acting.")]
DryOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
JsonOption = Annotated[bool, typer.Option("--json", help="For scripts: one JSON document.")]


@dataclass(frozen=True, slots=True)
class Keeper:
    """The coordination service that orders go through."""

    hosts: str
    access: Access
    data_dir: Path | None = None
    """Of a standalone node, which has no such service."""


class NotDone(Exception):
    """An order was not carried out; the text says why and what to do."""


class Desk(Protocol):
    """Where orders are given: the coordination service, or a directory of a standalone node."""

    async def request_operation(self, operation: Operation) -> None: ...

    async def operations(self) -> tuple[Operation, ...]: ...


class Leader:
    """Whoever leads, asked through the coordination service. seconds: how long one order may take altogether."""

    def __init__(self, coordination: Desk, seconds: float) -> None:
        self._coordination = coordination
        self._seconds = seconds

    async def ask(self, do: str, **body: Any) -> dict[str, Any]:
        """Give an order and return the answer. It may be given several times, which is harmless. Raises NotDone."""
        began = time.monotonic()
        ends = began + self._seconds
        why = "no leader carried it out: see `perenne status`"
        said = ""
        while (left := ends - time.monotonic()) > 0:
            try:
                answer = await self._once(do, body, min(left, ANSWER_S))
            except (CoordinationUnavailable, TimeoutError) as error:
                why = str(error) or why
                await asyncio.sleep(0.2)
                continue
            if "refused" in answer:
                raise NotDone(str(answer["refused"]))
            if "again" not in answer:
                return answer
            why = str(answer["again"])
            if why != said and time.monotonic() - began > SILENT_S:
                sys.stderr.write(f"perenne: waiting, for {self._seconds:.0f} s at most: {why}\n")
                said = why
            await asyncio.sleep(0.5)
        raise NotDone(f"{why}. What was done so far stays done; the same command goes on")

    async def _once(self, do: str, body: dict[str, Any], seconds: float) -> dict[str, Any]:
        arguments = {"do": do, "body": json.dumps(body), "until_us": str(int((time.time() + seconds) * 1_000_000))}
        operation = Operation(DELETE_VERB, secrets.token_hex(8), arguments)
        async with asyncio.timeout(seconds):
            await self._coordination.request_operation(operation)
            while True:
                for found in await self._coordination.operations():
                    if found.id == operation.id and found.result is not None:
                        answer: dict[str, Any] = json.loads(found.result)
                        return answer
                await asyncio.sleep(LOOK_S)

    async def living(self, level: str, uids: Sequence[str], before: int) -> AsyncGenerator[list[Listed]]:
        """Every page of what lives under some UIDs below a record. Raises NotDone."""
        after = 0
        while True:
            answer = await self.ask("list", level=level, uids=list(uids), before=before, after=after)
            page = of_page(answer["items"])
            if not page:
                return
            yield page
            after = page[-1].sequence


def keeper_of(config: Path | None, zookeeper: str, cluster: Path | None) -> Keeper:
    """Where ZooKeeper is, and how it is spoken to. Raises typer.Exit."""
    from perenne.cli.status import NoCluster
    from perenne.cli.switchover import zookeeper_of
    from perenne.config_tls import zookeeper_access

    try:
        settings = read_config(config)
        hosts = zookeeper or (zookeeper_of(cluster) if cluster else settings.coordination.zookeeper)
    except NoCluster as error:
        raise bad_usage(str(error)) from error
    if not hosts and config is not None:
        if cause := unusable_directory(settings.node.data_dir):
            raise bad_usage(cause)
        return Keeper("", zookeeper_access(settings), settings.node.data_dir)
    if not hosts:
        raise bad_usage("nobody to ask: give --config, --zookeeper or --cluster FILE")
    return Keeper(hosts, zookeeper_access(settings))


def bad_usage(text: str) -> typer.Exit:
    return fail(text, 2)


def person(named: str) -> str:
    """Who acts, as he says himself, or as the system knows him."""
    return " ".join((named or getpass.getuser()).split())


@asynccontextmanager
async def leader_at(keeper: Keeper, seconds: float = 60.0) -> AsyncGenerator[Leader]:
    """Raises NotDone when ZooKeeper does not answer."""
    from perenne.session import SessionWaiter
    from replication.coordination.zookeeper import ZooKeeperCoordination

    if keeper.data_dir is not None:
        desk = OrderDesk(keeper.data_dir)
        try:
            yield Leader(desk, seconds)
        finally:
            desk.close()
        return
    coordination = ZooKeeperCoordination(keeper.hosts, session_timeout_ms=6000, access=keeper.access)
    waiter = SessionWaiter()
    await coordination.start(waiter)
    try:
        try:
            async with asyncio.timeout(CONNECT_S):
                await waiter.event.wait()
        except TimeoutError as error:
            raise NotDone(f"ZooKeeper at {keeper.hosts} does not answer") from error
        yield Leader(coordination, seconds)
    finally:
        await coordination.close()


def carry_out(work: Coroutine[Any, Any, int], *, as_json: bool) -> typer.Exit:
    """Run a verb; turn what went wrong into words and an exit code."""
    try:
        return typer.Exit(asyncio.run(work))
    except NotDone as error:
        if as_json:
            sys.stdout.write(json.dumps({"ok": False, "cause": str(error)}) + "\n")
        else:
            sys.stderr.write(f"perenne: {error}\n")
        return typer.Exit(1)
    except KeyboardInterrupt:
        sys.stderr.write("perenne: stopped; the same command goes on where this one ended\n")
        return typer.Exit(INTERRUPTED)


def say(document: dict[str, Any], text: str, *, as_json: bool) -> None:
    """What a verb did, for scripts or for eyes."""
    sys.stdout.write((json.dumps(document) if as_json else text) + "\n")


def agreed(question: str, *, yes: bool) -> bool:
    """Ask a person, unless he said so before. Raises typer.Exit where there is nobody to ask."""
    if yes:
        return True
    if not sys.stdin.isatty():
        raise bad_usage("nobody is there to ask: give --yes, or --dry-run to see what it would do")
    return asked(lambda: typer.confirm(question))


def progress(*, hidden: bool) -> Progress:
    """On a terminal only."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, *times, console=console, disable=hidden or not console.is_terminal)


def bytes_text(size: int) -> str:
    """
    >>> bytes_text(1_500_000)
    '1.5 MB'
    """
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"
