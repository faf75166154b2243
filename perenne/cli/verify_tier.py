"""`perenne verify --tier`: whether a restore would find everything in the bucket, and find it unaltered.

It goes from the newest object down. Interrupted, it names one of the branch: whatever ends above that one was read.
"""

import asyncio
import json
import sys
from dataclasses import dataclass, field
from typing import Any, Final

import typer

from perenne.cli import INTERRUPTED
from perenne.cli.progress import shown
from perenne.config import TierConfig
from perenne.config_tier import patient_store
from replication.tier.contents import Link, read_run
from replication.tier.keys import LOG, Run, parse_run
from replication.tier.port import BlockingStore, NotThere, ObjectDamaged, ObjectStore, TierError
from replication.tier.tip import Branch, Broken, TipSearch
from storage.errors import FormatError, RecordCorrupt
from storage.position import RecordKind

AT_ONCE: Final = 8


@dataclass(slots=True)
class TierVerified:
    """What was found. wrong: one line for each thing that a person must know. first: an earlier run has seen to what
    ends above this one. reached: the same for this run.
    """

    deep: bool
    study: str
    first: Run | None = None
    reached: Run | None = None
    objects: int = 0
    orphans: int = 0
    complete_upto: int = 0
    instances: int = 0
    wrong: list[str] = field(default_factory=list[str])

    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "objects": self.objects,
            "orphans": self.orphans,
            "complete_upto": self.complete_upto,
            "wrong": self.wrong,
        }
        facts |= {"first": self.first.key} if self.first else {}
        return facts | ({"study": self.study, "instances": self.instances} if self.study else {})

    def text(self) -> str:
        study = f"study {self.study}: {self.instances} instances; " if self.study else ""
        proof = "" if self.deep else " by their names and sizes"
        what = f"{self.objects} objects" if self.first is None else f"{self.first.key} and what lies below it"
        return (
            f"{study}{what} hold records 1 to {self.complete_upto}{proof},"
            f" {self.orphans} of dead branches; {len(self.wrong)} faults"
        )


def verify_tier(
    settings: TierConfig, blocking: BlockingStore, *, deep: bool, study: str, as_json: bool, first: Run | None = None
) -> int:
    """Return the exit code. first: where an interrupted run got to. Raises TierError when the store cannot be asked."""
    result = TierVerified(deep or bool(study), study, first, first)
    try:
        asyncio.run(_verified(settings, blocking, result, quiet=as_json))
    except KeyboardInterrupt:
        return _interrupted(result, as_json=as_json)
    if study and not result.instances and first is None:
        result.wrong.append(f"no instance of study {study} was found")
    if as_json:
        typer.echo(json.dumps(result.facts()))
    else:
        for line in result.wrong:
            typer.echo(line)
        typer.echo(result.text())
    return int(bool(result.wrong))


def _interrupted(result: TierVerified, *, as_json: bool) -> int:
    """Say what was found so far, and how to go on."""
    reached = result.reached.key if result.reached is not None else None
    if as_json:
        typer.echo(json.dumps({"wrong": result.wrong, "interrupted": True, "from": reached}))
    for line in () if as_json else result.wrong:
        typer.echo(line)
    on = f"`--from {reached}` goes on there" if reached else "nothing was proved yet"
    sys.stderr.write(f"perenne: interrupted; {on}\n")
    return INTERRUPTED


async def _verified(settings: TierConfig, blocking: BlockingStore, result: TierVerified, *, quiet: bool) -> None:
    store = patient_store(settings, blocking)
    try:
        runs = [run async for key in store.list(LOG) if (run := parse_run(key)) is not None]
        if result.first is not None and result.first not in runs:
            raise TierError(f"{result.first.key} is not in the tier any more", "Verify it from the beginning.")
        result.objects = len(runs)
        if result.deep:
            await _deep(store, runs, result, quiet=quiet)
        else:
            await _light(store, runs, result, quiet=quiet)
    finally:
        await store.close()


def _below(runs: list[Run], first: Run | None) -> list[Run]:
    """Those that end no higher than `first`, the highest last."""
    return sorted((run for run in runs if first is None or run.end <= first.end), key=lambda run: run.end)


async def _deep(store: ObjectStore, runs: list[Run], result: TierVerified, *, quiet: bool) -> None:
    """Follow the chain from the tip down to record 1, as a restore would; read what that does not need on the way."""
    left = _below(runs, result.first)
    search = TipSearch(left)
    read: set[Run] = set()
    with shown("reading", len(left), quiet=quiet, of_bytes=False) as reached:

        async def look(run: Run) -> tuple[Link, ...] | None:
            links = await _links(store, run, result, first=run not in read)
            read.add(run)
            reached(len(read))
            return links

        while (run := search.wanted) is not None:
            links = await look(run)
            if links is None:
                search.unreadable("it cannot be read, or is altered")
            else:
                search.found(links)
            lowest = search.lowest
            while lowest is not None and left and left[-1].end > lowest.end:
                if left[-1] not in read:
                    await look(left[-1])
                left.pop()
            result.reached = lowest or result.reached
        for run in reversed(left):
            if run not in read:
                await look(run)
    if isinstance(search.outcome, Branch):
        result.complete_upto, result.orphans = search.outcome.tip.sequence, len(search.outcome.orphans)
    elif isinstance(search.outcome, Broken):
        why = "; ".join(search.outcome.why) or "no object holds it"
        result.wrong.append(f"record {search.outcome.sequence} cannot be restored: {why}")


async def _links(store: ObjectStore, run: Run, result: TierVerified, *, first: bool) -> tuple[Link, ...] | None:
    """The records of one object, each checked; None when it is not what its name says."""
    try:
        data = await store.get(run.key)
        links = await asyncio.to_thread(read_run, run, data)
    except (NotThere, ObjectDamaged, RecordCorrupt, FormatError) as error:
        if first:
            why = str(error).removeprefix(f"{run.key}: ")
            result.wrong.append(f"{run.key}: {why}")
        return None
    if first and result.study:
        result.instances += sum(
            link.header.kind is RecordKind.INSTANCE and link.header.path.startswith(f"{result.study}/")
            for link in links
        )
    return links


async def _light(store: ObjectStore, runs: list[Run], result: TierVerified, *, quiet: bool) -> None:
    """By the names: no number is missing up to the highest. By asking for each: it is there."""
    reach = 0
    for run in sorted(runs, key=lambda run: (run.first, -run.last)):
        if run.first > reach + 1:
            result.wrong.append(f"no object holds records {reach + 1} to {run.first - 1}")
        reach = max(reach, run.last)
    result.complete_upto = reach
    left = _below(runs, result.first)[::-1]
    with shown("asking", len(left), quiet=quiet, of_bytes=False) as reached:
        for at in range(0, len(left), AT_ONCE):
            some = left[at : at + AT_ONCE]
            for run, why in zip(some, await asyncio.gather(*(_asked(store, run) for run in some)), strict=True):
                if why:
                    result.wrong.append(f"{run.key}: {why}")
            reached(at + len(some))
            result.reached = some[-1]


async def _asked(store: ObjectStore, run: Run) -> str:
    try:
        info = await store.head(run.key)
    except NotThere:
        return "it is listed, and is not there"
    return "" if info.size else "it is empty"
