"""`perenne repair`: asks running nodes to mend what they know to be damaged, or mends the log of a stopped one."""

import asyncio
import json
import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import typer

from perenne.cli import INTERRUPTED
from perenne.cli.asking import answer_of
from perenne.cli.offline_log import OfflineNode, locked_node
from perenne.cli.progress import shown
from perenne.cli.repair_foreseen import Foreseen, foreseen
from perenne.cli.repair_offline import Repaired, Source, Surveyed, mend, survey
from perenne.cli.repair_sources import DirectorySource, TierSource, refuse_stranger
from perenne.config import TierConfig
from perenne.config_tier import patient_store
from perenne.session import SessionWaiter
from replication.coordination.access import Access
from replication.coordination.port import Coordination, CoordinationUnavailable
from replication.coordination.zookeeper import ZooKeeperCoordination
from replication.opening import UNSETTLED
from replication.tier.port import BlockingStore, TierError
from storage.disk import RealDisk
from storage.errors import StorageError
from storage.metadata import PROMISE_FILE, newest_promise

DOWN: Final = (
    "does not run, so nothing was looked at: start it and type this again, or mend its stopped log with"
    " `perenne repair DATA_DIR --from OTHER_DATA_DIR`"
)


class UnknownNode(Exception):
    """No such node is registered; the text names those that are."""


def repair_offline(
    directory: Path,
    *,
    other: Path | None,
    tier: tuple[TierConfig, BlockingStore] | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Return the exit code: 1 while anything is left. Raises StorageError, TierError."""
    done = Repaired()
    try:
        with locked_node(directory) as node:
            return _repaired(node, done, other, tier, dry_run=dry_run, as_json=as_json)
    except KeyboardInterrupt:
        sys.stderr.write(f"perenne: interrupted; {_left(done)}\n")
        return INTERRUPTED
    except (StorageError, TierError, OSError):
        if done.begun:
            sys.stderr.write(f"perenne: stopped; {_left(done)}\n")
        raise


def _left(done: Repaired) -> str:
    """What an interrupted run leaves, for a person."""
    if not done.begun:
        return "nothing was changed: the same command begins anew"
    return (
        f"{len(done.segments)} segments taken over and {len(done.records)} records repaired stay so, what was taken out"
        " lies in lost+found: the same command reads the log again, and goes on with what is still damaged"
    )


def _repaired(
    node: OfflineNode,
    done: Repaired,
    other: Path | None,
    tier: tuple[TierConfig, BlockingStore] | None,
    *,
    dry_run: bool,
    as_json: bool,
) -> int:
    if other is not None:
        refuse_stranger(node, other)
    wrong = _surveyed(node, quiet=as_json)
    if wrong.sound:
        _tell(asdict(wrong), [*_would(wrong), *_open(node)], as_json=as_json)
        return 0
    if dry_run:
        there = _foreseen(node, wrong, other, tier, quiet=as_json)
        lines = [*_would(wrong), *there.lines(), *_open(node)]
        _tell(asdict(wrong) | {"source": asdict(there)}, lines, as_json=as_json)
        return 1
    with ExitStack() as stack:
        source, before = _source(node.disk, other, tier, stack), -1
        while True:
            mend(node, wrong, source, done)
            if not done.left or done.progress == before:
                break
            before = done.progress  # what was mended may be what another waited for
            wrong = _surveyed(node, quiet=as_json)
            if wrong.sound:
                done.left = []
                break
    done.left += done.shorter
    facts = asdict(done)
    for inner in ("begun", "shorter"):
        del facts[inner]
    _tell(facts, [*_did(done), *_open(node)], as_json=as_json)
    return int(bool(done.left))


def _surveyed(node: OfflineNode, *, quiet: bool) -> Surveyed:
    sizes = sum(path.stat().st_size for path in (node.directory / "log").glob("*.tar"))
    with shown("reading", sizes, quiet=quiet) as reached:
        return survey(node.directory, reached)


def _open(node: OfflineNode) -> list[str]:
    """What a sound log does not show: a repair before this one may have been killed behind a cut, or a reboot was."""
    promise = newest_promise(node.disk.read(PROMISE_FILE))
    if promise is None or not promise.host_boot.endswith(UNSETTLED):
        return []
    return ["whether the log ends here is not settled: the others are asked before this node leads"]


def _foreseen(
    node: OfflineNode,
    wrong: Surveyed,
    other: Path | None,
    tier: tuple[TierConfig, BlockingStore] | None,
    *,
    quiet: bool,
) -> Foreseen:
    """Large records are copied to look at them: elsewhere, so that nothing changes here."""
    with ExitStack() as stack:
        elsewhere = Path(stack.enter_context(TemporaryDirectory(prefix="perenne-repair-")))
        source = _source(RealDisk(elsewhere), other, tier, stack)
        reached = stack.enter_context(shown("asking", len(set(wrong.records)), quiet=quiet, of_bytes=False))
        return foreseen(node.directory, wrong, source, reached)


def _source(
    scratch: RealDisk, other: Path | None, tier: tuple[TierConfig, BlockingStore] | None, stack: ExitStack
) -> Source:
    """scratch: for copies of what is looked at."""
    if other is not None:
        directory = DirectorySource(other, scratch)
        stack.callback(directory.close)
        return directory
    assert tier is not None, "one of the two was asked for"
    runner = stack.enter_context(asyncio.Runner())
    store = patient_store(*tier)
    stack.callback(lambda: runner.run(store.close()))
    bucket = TierSource(store, runner, scratch)
    stack.callback(bucket.close)
    return bucket


def _would(wrong: Surveyed) -> list[str]:
    if wrong.sound:
        return ["nothing is wrong"]
    lines = [f"segment {first}: {why}" for first, why in sorted(wrong.segments.items())]
    lines += [f"records {first} to {last}: no segment holds them" for first, last in wrong.missing]
    if wrong.records:
        lines.append(f"records to mend: {', '.join(map(str, wrong.records[:20]))} ({len(wrong.records)})")
    if wrong.frames:
        lines.append(f"segments to write anew around their records: {', '.join(map(str, wrong.frames))}")
    return lines


def _did(done: Repaired) -> list[str]:
    counts = (
        f"{len(done.segments)} segments taken over, {len(done.records)} records repaired,"
        f" {len(done.frames)} segments written anew around their records, {len(done.left)} left"
    )
    saved = [f"what lay there is kept in {len(done.saved)} files of lost+found"] if done.saved else []
    return [*done.left, counts, *saved]


def _tell(facts: dict[str, Any], lines: list[str], *, as_json: bool) -> None:
    typer.echo(json.dumps(facts) if as_json else "\n".join(lines))


def repair_running(
    hosts: str, names: list[str], access: Access, *, seconds: float, dry_run: bool, as_json: bool
) -> int:
    """Ask each node, one after the other; return the exit code: 1 while anything is left or a node did not answer.

    Raises UnknownNode.
    """
    results = asyncio.run(_asked(hosts, names, seconds, access, dry_run=dry_run))
    if as_json:
        typer.echo(json.dumps(results))
    else:
        for name, found in results.items():
            typer.echo(f"{name}: {_line(found, dry_run=dry_run)}")
    return int(any(found.get("left") or "error" in found for found in results.values()))


_NOTHING: Final = "nothing is known to be damaged (what `perenne verify` finds, a node learns when it reads it)"


def _line(found: dict[str, Any], *, dry_run: bool) -> str:
    if "error" in found:
        return str(found["error"])
    left = ", ".join(map(str, found["left"]))
    if dry_run:
        return f"damaged: {left}" if left else _NOTHING
    if not found["damaged"] and not left:
        return _NOTHING
    text = f"{found['damaged']} damaged, {found['repaired']} repaired, {len(found['left'])} left"
    return f"{text}: {left}" if left else text


async def _asked(
    hosts: str, names: list[str], seconds: float, access: Access, *, dry_run: bool
) -> dict[str, dict[str, Any]]:
    coordination = ZooKeeperCoordination(hosts, session_timeout_ms=6000, access=access)
    waiter = SessionWaiter()
    await coordination.start(waiter)
    try:
        async with asyncio.timeout(seconds):
            await waiter.event.wait()
            live = await coordination.live_nodes()
            found = await coordination.registrations()
        registered = {name for name, node in found.items() if not node.retired} | set(live)
        if unknown := [name for name in names if name not in registered]:
            raise UnknownNode(
                f"no node {', '.join(unknown)} is registered: there are {', '.join(sorted(registered)) or 'none'}"
            )
        wanted = names or sorted(registered)
        if not wanted:
            return {"cluster": {"error": "no node is registered"}}
        return {
            name: await _ask(coordination, name, seconds, dry_run=dry_run) if name in live else {"error": DOWN}
            for name in wanted
        }
    except (TimeoutError, CoordinationUnavailable):
        return {"cluster": {"error": f"ZooKeeper at {hosts} does not answer"}}
    finally:
        await coordination.close()


async def _ask(coordination: Coordination, name: str, seconds: float, *, dry_run: bool) -> dict[str, Any]:
    async def ended() -> str:
        if name in await coordination.live_nodes():
            return ""
        return "ended meanwhile; start it, or use perenne repair DATA_DIR"

    wishes = {"look": "only"} if dry_run else {}
    return await answer_of(coordination, "repair", name, wishes, seconds, ended)
