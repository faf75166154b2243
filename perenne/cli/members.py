"""How `perenne node add`, `replace` and `retire` go about it, and what they show meanwhile."""

import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

from perenne.cli import INTERRUPTED
from perenne.cli.rescuing import reached
from perenne.cli.usage import fail, read_config
from perenne.membership import (
    NotPossible,
    Progress,
    answers,
    check_add,
    check_replace,
    check_retire,
    configuration,
    members,
    place_of,
    progress,
    running,
)
from perenne.survey import Reach
from replication.coordination.port import CoordinationCorrupt, CoordinationUnavailable, Operation
from replication.coordination.surgery import Found, Interfered, Surgery
from replication.core.values import Member, ReplicaId

LOOK_S: Final = 0.5
EXPIRED_S: Final = 30.0
"""How long a killed node may still be listed as running, until its session has expired."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A node that does not exist yet."""

    name: str
    data_dir: Path
    advertise_host: str
    ports: Mapping[str, int]


def _end(result: str, code: int, *, as_json: bool, **facts: Any) -> typer.Exit:
    typer.echo(json.dumps({"result": result, **facts}) if as_json else result)
    return typer.Exit(code)


def _operated(reach: Reach, work: Callable[[Surgery], typer.Exit]) -> typer.Exit:
    try:
        with reach.surgery() as surgery:
            return work(surgery)
    except NotPossible as error:
        return fail(f"refused: {error}")
    except (CoordinationUnavailable, CoordinationCorrupt, Interfered) as error:
        return fail(str(error))


def add(
    model: Path, wanted: Wanted, output: Path | None, *, wait: bool, seconds: float, dry_run: bool, as_json: bool
) -> None:
    settings = read_config(model)
    reach = reached(settings, settings.coordination.zookeeper)
    if not reach.hosts:
        raise fail(f"{model} describes a standalone node: a cluster needs [coordination] zookeeper", 2)
    try:
        text = configuration(
            model.read_text(), settings, wanted.name, wanted.data_dir, wanted.advertise_host, wanted.ports
        )
    except NotPossible as error:
        raise fail(str(error), 2) from error
    target = output or model.absolute().parent / f"{wanted.name}.toml"
    written = target.exists() and target.read_text() == text
    if target.exists() and not written:
        raise fail(f"{target} exists and says something else: give --output FILE, or move it away", 2)

    def work(surgery: Surgery) -> typer.Exit:
        found = surgery.look()
        if not written:  # else this verb is typed once more, to go on watching
            place = place_of(settings, wanted.data_dir, wanted.advertise_host, wanted.ports)
            check_add(found, wanted.name, settings, place)
        if dry_run:
            typer.echo(json.dumps({"file": str(target), "text": text}) if as_json else f"{text}\n(not written)")
            return typer.Exit(0)
        if not written:
            _write(target, text, model)
        if not as_json:
            typer.echo(f"{target}: start the node on its machine: perenne node --config {target.name}")
        if not wait:
            return _end("written", 0, as_json=as_json, file=str(target))
        return _watched(reach, surgery, wanted.name, seconds, as_json=as_json)

    raise _operated(reach, work)


def _write(target: Path, text: str, model: Path) -> None:
    """Never over something; whoever may not read the model may not read this one."""
    mode = model.stat().st_mode & 0o777
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except OSError as error:
        raise fail(f"{target} cannot be written: {error.strerror}", 2) from error
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def replace(reach: Reach, name: str, *, seconds: float, dry_run: bool, as_json: bool) -> None:
    def work(surgery: Surgery) -> typer.Exit:
        found = _settled(reach, surgery, name)
        old = check_replace(reach, found, name)
        runs = running(found, name)
        if runs is not None:
            bar = f"{name} runs, on the disk of incarnation {runs.incarnation}: no disk is barred"
            step = f"if this disk is to go, stop {name} first, and type this again"
        else:
            bar = f"the disk of incarnation {old.incarnation} is taken off the register" if old else "no disk is barred"
            step = f"start {name} with an empty data_dir and the same [node] id"
        if dry_run:
            return _end(f"{bar} (nothing was changed)", 0, as_json=as_json, barred=asdict_or_none(old))
        if old is not None:
            surgery.retire(found, [old])
        if not as_json:
            typer.echo(f"{bar}; {step}")
        return _watched(reach, surgery, name, seconds, as_json=as_json)

    raise _operated(reach, work)


def _settled(reach: Reach, surgery: Surgery, name: str) -> Found:
    """What there is once it is clear whether the node runs: one that was killed is listed until its session expires.
    One that stays listed runs, whether or not it can be reached from here. Raises NotPossible.
    """
    found = surgery.look()
    live = found.live.get(ReplicaId(name))
    if live is None or answers(reach, found, name):
        return found
    after = surgery.wait_for(lambda seen: ReplicaId(name) not in seen.live, EXPIRED_S)
    if after is None:
        raise NotPossible(
            f"{name} does not answer at {reach.address_of(live)}, and keeps its session at ZooKeeper: it runs, on a"
            f" disk that may be whole. If that disk is lost, stop {name} first"
        )
    return after


def asdict_or_none(member: Member | None) -> dict[str, str] | None:
    return {"node": member.id, "incarnation": member.incarnation} if member is not None else None


def retire(reach: Reach, name: str, *, seconds: float, dry_run: bool, as_json: bool) -> None:
    def work(surgery: Surgery) -> typer.Exit:
        found = surgery.look()
        known = found.registrations.get(ReplicaId(name))
        if known is not None and known.retired and running(found, name) is None:
            return _end(f"{name} is retired", 0, as_json=as_json)
        who = check_retire(reach, found, name)
        if dry_run:
            return _end(f"{name} can be retired (nothing was changed)", 0, as_json=as_json, retires=asdict_or_none(who))
        if running(found, name) is None:
            surgery.retire(found, [who])
            return _end(f"{name} is retired; it did not run", 0, as_json=as_json)
        return _left(surgery, found, who, seconds, as_json=as_json)

    raise _operated(reach, work)


def _under_way(surgery: Surgery, found: Found) -> Mapping[str, str] | None:
    """Whom a retirement that goes on is about. A node answers for the disk that it was asked about: one that died
    before it was done, and was retired or got another disk since, never will.
    """
    pending = surgery.operation("retire")
    if pending is None or pending.result is not None:
        return None
    registration = found.registrations.get(ReplicaId(pending.arguments.get("node", "")))
    incarnation = pending.arguments.get("incarnation", "")
    if registration is None or registration.incarnation != incarnation or registration.bars(incarnation):
        return None
    return dict(pending.arguments)


def _left(surgery: Surgery, found: Found, who: Member, seconds: float, *, as_json: bool) -> typer.Exit:
    """Ask the node itself, and wait until it is off the register and its process has ended."""
    pending = _under_way(surgery, found)
    arguments = {"node": str(who.id), "incarnation": who.incarnation}
    if pending is not None and pending != arguments:
        other = pending.get("node", "?")
        raise NotPossible(f"{other} is being retired: wait for it, one at a time (`perenne node retire {other}`)")
    if pending is None:
        surgery.request(Operation("retire", secrets.token_hex(8), arguments))

    def gone(found: Found) -> bool:
        registration = found.registrations.get(who.id)
        barred = registration is not None and registration.bars(who.incarnation)
        return barred and who not in members(found) and running(found, who.id) != who

    try:
        left = surgery.wait_for(gone, seconds or float("inf"))
    except KeyboardInterrupt:
        return _end(f"{who.id} goes on leaving by itself; type this again to watch", INTERRUPTED, as_json=as_json)
    if left is None:
        return _end(f"{who.id} has not left within {seconds:.0f} s; it goes on: `perenne status`", 1, as_json=as_json)
    return _end(f"{who.id} is retired, and its process ends; its data directory stays", 0, as_json=as_json)


# Watching a node on its way in


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.0f} records/s" if task.speed else "")


def _watched(reach: Reach, surgery: Surgery, name: str, seconds: float, *, as_json: bool) -> typer.Exit:
    """Until it is in sync. Ctrl-C ends the watching alone."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    deadline = time.monotonic() + seconds if seconds else float("inf")
    said = ""
    try:
        with Bar(*columns, console=console, disable=as_json or not console.is_terminal) as bar:
            task = bar.add_task(f"{name}: not there yet", total=None)
            while True:
                seen = progress(reach, surgery.look(), name)
                if seen is not None and seen.in_sync:
                    return _end(f"{name} is in sync", 0, as_json=as_json, incarnation=seen.incarnation)
                words = _words(seen)
                bar.update(task, description=f"{name}: {words}", **_amounts(seen))
                if words != said and not console.is_terminal and not as_json:
                    sys.stderr.write(f"{name}: {words}\n")
                said = words
                if time.monotonic() > deadline:
                    return _end(f"{name} is not in sync after {seconds:.0f} s: {words}", 1, as_json=as_json)
                time.sleep(LOOK_S)
    except KeyboardInterrupt:
        return _end(f"{name} goes on by itself; type this again to watch", INTERRUPTED, as_json=as_json)


def _words(seen: Progress | None) -> str:
    if seen is None:
        return "not there yet"
    return "joined" if seen.held is None else "is being filled"


def _amounts(seen: Progress | None) -> dict[str, Any]:
    if seen is None or seen.held is None:
        return {}
    return {"completed": seen.held, "total": seen.total}
