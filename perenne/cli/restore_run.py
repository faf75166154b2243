"""Carries a restore out for `perenne restore`: progress, report, exit code."""

import asyncio
import json
import sys
from dataclasses import dataclass

from perenne.cli import INTERRUPTED
from perenne.cli.bar import Bar
from perenne.config import Config
from perenne.hands import ProcessHands, spare_processors
from perenne.restoring import Restoring, Unusable, Wish, patient
from replication.coordination.port import CoordinationUnavailable
from replication.restore.engine import planned
from replication.restore.plan import Plan, below
from replication.tier.port import ObjectStore, Refused, TierError
from storage.errors import LogLocked, StorageError


def carry_out(config: Config, wish: Wish, *, jobs: int, as_json: bool, dry_run: bool) -> int:
    """Return the exit code. jobs: processes at once, 0 for as many as make sense. Raises Unusable."""
    jobs = jobs or spare_processors()
    try:
        store = patient(config)
    except Refused as error:
        raise Unusable(str(error)) from error
    try:
        return asyncio.run(_carried_out(config, wish, store, jobs, as_json=as_json, dry_run=dry_run))
    except LogLocked as error:
        raise Unusable(f"{wish.to}: {error}") from error
    except (TierError, StorageError, CoordinationUnavailable, OSError) as error:
        return _stopped(str(error), as_json=as_json)
    except KeyboardInterrupt:
        _stopped("interrupted", as_json=as_json)
        return INTERRUPTED


def _stopped(why: str, *, as_json: bool) -> int:
    text = f"the restore stopped: {why}. What is there stays: run the same command again, and it goes on"
    if as_json:
        sys.stdout.write(json.dumps({"finished": False, "cause": text}) + "\n")
    sys.stderr.write(f"perenne: {text}\n")
    return 1


async def _carried_out(
    config: Config, wish: Wish, store: ObjectStore, jobs: int, *, as_json: bool, dry_run: bool
) -> int:
    try:
        if dry_run:
            refusal = await _refusal(config, wish, store)
            return _show_plan(await planned(store), wish, refusal, as_json=as_json)
        hands = ProcessHands(config.tier, jobs) if jobs > 1 else None
        with Bar("restoring", quiet=as_json) as bar:
            report = await Restoring(config, wish, store, bar, hands).run()
    finally:
        await store.close()
    sys.stdout.write((json.dumps(report.document(), indent=2) if as_json else report.text()) + "\n")
    return 0 if report.complete and report.finished else 1


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why the restore itself would not begin, and its exit code; code 0 where it would."""

    why: str = ""
    code: int = 0


async def _refusal(config: Config, wish: Wish, store: ObjectStore) -> _Refusal:
    """A look at what the tier holds is wanted also beside a full directory, or while ZooKeeper is not there yet."""
    try:
        await Restoring(config, wish, store, lambda _done, _total, _arrived: None).judge()
    except LogLocked as error:
        return _Refusal(f"{wish.to}: {error}", 2)
    except Unusable as error:
        return _Refusal(str(error), 2)
    except (StorageError, CoordinationUnavailable, OSError) as error:
        return _Refusal(str(error), 1)
    return _Refusal()


def _show_plan(plan: Plan, wish: Wish, refusal: _Refusal, *, as_json: bool) -> int:
    """What the names say; no payload was read, so damage inside of objects is not known yet."""
    if wish.until.sequence is not None:
        plan = below(plan, wish.until.sequence)
    holes = () if plan.hole is None else (plan.hole, *plan.holes)
    if as_json:
        missing = [{"first": hole.first, "last": hole.last, "certain": hole.certain} for hole in holes]
        facts = {
            "dry_run": True,
            "directory": str(wish.to),
            "refused": refusal.why,
            "objects": len(plan.pieces),
            "restorable_upto": plan.reaches,
            "tip": {"epoch": plan.tip.epoch, "sequence": plan.tip.sequence},
            "missing": missing,
            "beyond": [piece.run.key for piece in plan.beyond],
        }
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
    else:
        sys.stdout.write(
            f"would restore records 1 to {plan.reaches} of {plan.tip.sequence} from {len(plan.pieces)} objects into"
            f" {wish.to}; {len(plan.unused)} further objects hold the same again, or dead branches\n"
        )
        for hole in holes:
            sys.stdout.write(f"MISSING: records {hole.first} to {hole.last}\n")
        if refusal.why:
            sys.stdout.write(f"it would be refused now: {refusal.why}\n")
    return refusal.code or (1 if holes or not plan.pieces else 0)
