"""`perenne restore`, killed and interrupted, goes on: what was acknowledged is there, from the bucket alone."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

from perenne.local.cluster import LocalNode
from tests.faults.arena import Arena, FaultFailed
from tests.faults.fault import fault
from tests.faults.judge import debts_of, extracted, missing
from tests.faults.operator import Typed
from tests.faults.store_lines import Manner
from tests.faults.tiered import RESTORE, TieredArena, tiered

_SLOW = Manner(slow_s=0.4)
_TRIES = 8


def _begun(directory: Path) -> int:
    """How far it came, in segments."""
    return len(list((directory / "log").glob("*.tar")))


def _further(directory: Path) -> Callable[[], bool]:
    before = _begun(directory)
    return lambda: _begun(directory) > before


def _interrupted(own: TieredArena, words: tuple[str, ...], directory: Path) -> Typed:
    """Kill it, then Ctrl-C, each when it is a segment further; then let it end. The bucket is slow for it alone."""
    own.store_lines.treat(_SLOW, RESTORE)
    stopped: list[signal.Signals] = []
    for with_ in (signal.SIGKILL, signal.SIGINT):
        typed = own.operator.types(*words, interrupt=_further(directory), with_=with_)
        if typed.code == 0:
            return typed if stopped else _too_fast(typed)
        if typed.interrupted:
            stopped.append(with_)
        if typed.interrupted and with_ is signal.SIGINT and (typed.code != 130 or "goes on" not in typed.output):
            raise FaultFailed(f"after Ctrl-C: {typed}")
    own.store_lines.release()
    for _ in range(_TRIES):
        typed = own.operator.types(*words)
        if typed.code == 0 or typed.document().get("finished"):
            break
    return typed


def _too_fast(typed: Typed) -> Typed:
    raise FaultFailed(f"it ended before it could be interrupted: {typed}")


def _finished(typed: Typed) -> None:
    report = typed.document()
    if typed.code != 0 or not (report.get("finished") and report.get("complete")):
        raise FaultFailed(f"the restore did not end well: {typed}")
    if not report["this_run"]["resumed"]:
        raise FaultFailed(f"it began anew instead of going on: {typed}")


def _past(arena: Arena, own: TieredArena) -> None:
    """Restore what there is now into a scratch place, while senders go on, and compare it with the journal."""
    leader = own.leading()
    debts = debts_of(arena.operator.journal_path)
    reached = int(leader.status()["positions"]["committed"])

    def followed() -> bool:
        found = own.leader()
        return found is not None and (found.status()["tier"]["complete_upto"] or 0) >= reached

    own.wait_for(followed, "the bucket has what was acknowledged", 60)
    scratch = own.directory / "past"
    shutil.rmtree(scratch, ignore_errors=True)
    words = ("restore", "-c", str(own.restore_config(leader)), "--until", str(reached), "--to", str(scratch), "--json")
    _finished(_interrupted(own, words, scratch))
    if absent := missing(debts, extracted(scratch)):
        raise FaultFailed(f"{len(absent)} acknowledged instances are not in what was restored: {absent[:3]}")
    arena.operator.done["instances found in a restored past"] += sum(len(debt.datasets) for debt in debts.values())
    shutil.rmtree(scratch)


@fault("the past restored, killed, interrupted and resumed", tier=True)
def past(arena: Arena) -> None:
    arena.hold(2, 3)
    _past(arena, tiered(arena))


@fault("the past restored and interrupted while somebody deletes and the leader is killed", tier=True)
def past_while_deleting(arena: Arena) -> None:
    own = tiered(arena)
    arena.hold(2, 3)
    with arena.operator.deleting():
        arena.hold(1, 2)
    leader = arena.leading()
    arena.process(leader).kill()
    arena.start_node(leader)
    arena.wait_whole()
    _past(arena, own)


@fault("a lost disk restored from the bucket, killed, interrupted and resumed", tier=True)
def lost_disk(arena: Arena) -> None:
    """Instead of an empty directory that its peers would fill."""
    own = tiered(arena)
    arena.hold(1, 2)
    node: LocalNode = own.following()
    own.lose(node)
    arena.hold(0, 2)
    words = ("restore", "-c", str(own.restore_config(node)), "--json")
    _finished(_interrupted(own, words, node.data_dir))
    if json.loads((node.data_dir / "node.json").read_text()).get("node_id", node.id) != node.id:
        raise FaultFailed("it was restored as another node")
    arena.operator.done["disks restored"] += 1
    arena.start_node(node)
    arena.hold(0.5, 1)
