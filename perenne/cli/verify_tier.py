"""`perenne verify --tier`: whether a restore would find everything in the bucket, and find it unaltered.

It goes from the newest object down. Interrupted, it names one of the branch: whatever ends above that one was read.
"""

import asyncio
import json
import sys
from collections.abc import Callable
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
from replication.tier.tip import Branch, Broken, Piece, TipSearch
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
    """Return the exit code. first: where an interrupted run got to; of a study, which may lie anywhere, it is None."""
    result = TierVerified(deep or bool(study), study, first, first)
    try:
        asyncio.run(_verified(settings, blocking, result, quiet=as_json))
    except KeyboardInterrupt:
        return _cut_short(result, "interrupted", INTERRUPTED, as_json=as_json)
    except TierError as error:
        return _cut_short(result, str(error), 1, as_json=as_json)
    if study and not result.instances:
        result.wrong.append(f"no instance of study {study} was found")
    if as_json:
        typer.echo(json.dumps(result.facts()))
    else:
        for line in result.wrong:
            typer.echo(line)
        typer.echo(result.text())
    return int(bool(result.wrong))


def _cut_short(result: TierVerified, why: str, code: int, *, as_json: bool) -> int:
    """Say what was found so far, and how to go on."""
    reached = result.reached.key if result.reached is not None and not result.study else None
    if as_json:
        typer.echo(json.dumps({"wrong": result.wrong, "interrupted": why, "from": reached}))
    for line in () if as_json else result.wrong:
        typer.echo(line)
    on = f"; `--from {reached}` goes on there" if reached else ""
    sys.stderr.write(f"perenne: {why}{on}\n")
    return code


async def _verified(settings: TierConfig, blocking: BlockingStore, result: TierVerified, *, quiet: bool) -> None:
    store = patient_store(settings, blocking)
    try:
        runs = await _listed(store)
        if result.first is not None and result.first not in runs:
            result.reached = None
            raise TierError(f"{result.first.key} is not in the tier any more", "Verify it from the beginning.")
        result.objects = len(runs)
        if result.deep:
            await _deep(store, runs, result, quiet=quiet)
        else:
            await _light(store, runs, result, quiet=quiet)
    finally:
        await store.close()


async def _listed(store: ObjectStore) -> list[Run]:
    return [run async for key in store.list(LOG) if (run := parse_run(key)) is not None]


def _below(runs: list[Run], first: Run | None) -> list[Run]:
    """Those that end no higher than `first`, the highest last."""
    return sorted((run for run in runs if first is None or run.end <= first.end), key=lambda run: run.end)


async def _deep(store: ObjectStore, runs: list[Run], result: TierVerified, *, quiet: bool) -> None:
    """Follow the chain from the tip down to record 1, as a restore would; read what that does not need on the way.

    Packing goes on meanwhile: it puts one object in the place of many. What was listed, and is not there when its turn
    comes, is looked for in another listing.
    """
    with shown("reading", len(_below(runs, result.first)), quiet=quiet, of_bytes=False) as reached:
        descent = Descent(store, result, reached)
        while (outcome := await descent.follow(runs)) is None:
            runs = await _listed(store)
            descent.listed_again(runs)
    if isinstance(outcome, Broken):
        why = "; ".join(outcome.why) or "no object holds it"
        result.wrong.append(f"record {outcome.sequence} cannot be restored: {why}")


class Descent:
    """One way down, through as many listings as it takes. Nothing is read twice but where it goes on."""

    def __init__(self, store: ObjectStore, result: TierVerified, reached: Callable[[int], None]) -> None:
        self._store = store
        self._result = result
        self._reached = reached
        self._read: set[Run] = set()
        self._passed: set[Run] = set()
        self._counted = sys.maxsize
        """The lowest record of which it is known whether it is an instance of the study."""
        self._gone: Run | None = None
        self._lost: set[Run] = set()

    async def follow(self, runs: list[Run]) -> Branch | Broken | None:
        """None when something of this listing is not there."""
        result = self._result
        tip = result.reached if result.reached in runs else None
        search = TipSearch(runs, tip=tip)
        scope = _below(runs, tip or result.first)
        left = [run for run in scope if run not in self._passed]
        if tip is None or tip == result.first:
            result.complete_upto = scope[-1].last if scope else 0
        while (run := search.wanted) is not None and self._gone is None:
            links = await self._look(run)
            if links is None:
                search.unreadable("it cannot be read, or is altered")
            else:
                search.found(links)
            lowest = search.lowest
            if lowest is None or links is None:
                continue
            self._count(links, lowest)
            while left and left[-1].end > lowest.run.end and self._gone is None:
                await self._pass(left.pop(), search)
            if self._gone is None:
                result.reached = lowest.run
        while left and self._gone is None:
            await self._pass(left.pop(), search)
        if self._gone is not None:
            return None
        if isinstance(search.outcome, Broken):
            result.complete_upto = 0
        return search.outcome

    def listed_again(self, runs: list[Run]) -> None:
        """What was not there is lost if it is listed all the same; else something took its place, or nothing did."""
        gone, self._gone = self._gone, None
        if gone in runs and gone not in self._lost:
            self._lost.add(gone)
            self._result.wrong.append(f"{gone.key}: it is listed, and is not there")

    def _count(self, links: tuple[Link, ...], piece: Piece) -> None:
        """Each record once, however many objects have it, and none of a dead branch."""
        for link in links if piece.first < self._counted else ():
            if piece.first <= link.sequence < self._counted:
                instance = link.header.kind is RecordKind.INSTANCE
                self._result.instances += instance and link.header.path.startswith(f"{self._result.study}/")
        self._counted = min(self._counted, piece.first)

    async def _pass(self, run: Run, search: TipSearch) -> None:
        """Read it if the search did not want it."""
        if run not in self._read:
            await self._look(run)
        if self._gone is None:
            self._passed.add(run)
            self._result.orphans += not search.on_branch(run)

    async def _look(self, run: Run) -> tuple[Link, ...] | None:
        if run in self._lost:
            return None
        try:
            links = await _links(self._store, run, self._result, first=run not in self._read)
        except NotThere:
            self._gone = run
            return None
        self._read.add(run)
        self._reached(len(self._read))
        return links


async def _links(store: ObjectStore, run: Run, result: TierVerified, *, first: bool) -> tuple[Link, ...] | None:
    """The records of one object, each checked; None when it is not what its name says. Raises NotThere."""
    try:
        data = await store.get(run.key)
        links = await asyncio.to_thread(read_run, run, data)
    except (ObjectDamaged, RecordCorrupt, FormatError) as error:
        if first:
            why = str(error).removeprefix(f"{run.key}: ")
            result.wrong.append(f"{run.key}: {why}")
        return None
    return links


async def _light(store: ObjectStore, runs: list[Run], result: TierVerified, *, quiet: bool) -> None:
    """By the names: no number is missing up to the highest. By asking for each: it is there."""
    left = _below(runs, result.first)[::-1]
    gone: list[Run] = []
    with shown("asking", len(left), quiet=quiet, of_bytes=False) as reached:
        for at in range(0, len(left), AT_ONCE):
            some = left[at : at + AT_ONCE]
            for run, size in zip(some, await asyncio.gather(*(_size(store, run) for run in some)), strict=True):
                if size is None:
                    gone.append(run)
                elif not size:
                    result.wrong.append(f"{run.key}: it is empty")
            reached(at + len(some))
            result.reached = some[-1]
    if gone:
        runs = await _listed(store)  # something may have taken their place since
        listed = set(runs)
        result.wrong += [f"{run.key}: it is listed, and is not there" for run in gone if run in listed]
    reach = 0
    for run in sorted(runs, key=lambda run: (run.first, -run.last)):
        if run.first > reach + 1:
            result.wrong.append(f"no object holds records {reach + 1} to {run.first - 1}")
        reach = max(reach, run.last)
    result.complete_upto = reach


async def _size(store: ObjectStore, run: Run) -> int | None:
    """None when it is not there."""
    try:
        return (await store.head(run.key)).size
    except NotThere:
        return None
