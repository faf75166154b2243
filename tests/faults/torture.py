"""`script/torture`: round after round of real faults on real processes, and what became of every acknowledgement.

Rounds are kept in DIR/rounds.jsonl: a run that was interrupted goes on where it stopped, and the summary counts all.
"""

import argparse
import json
import secrets
import shutil
import signal
import statistics
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from perenne.local.processes import DidNotStart
from tests.faults.arena import FaultFailed, Unavailable
from tests.faults.catalogue import CATALOGUE
from tests.faults.rounds import Outcome, Rounds
from tests.faults.schedule import SHARES, Batch, Schedule
from tests.simulation.summary import source_of


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="script/torture", description=__doc__)
    parser.add_argument("--rounds", type=int, default=len(CATALOGUE), help="how many in all, earlier ones included")
    parser.add_argument("--seed", type=int, help="of the first cluster; the others follow from it")
    parser.add_argument("--dir", type=Path, default=Path(".local/torture"), help="where clusters and results lie")
    parser.add_argument("--only", action="append", choices=sorted(CATALOGUE), metavar="FAULT", help="may be repeated")
    parser.add_argument("--tier", choices=SHARES, default="half", help="how many rounds have a bucket (default: half)")
    parser.add_argument("--list", action="store_true", help="name every fault and leave")
    parser.add_argument("--fresh", action="store_true", help="forget earlier rounds")
    parser.add_argument("--json", action="store_true", help="the summary as one JSON document")
    chosen = parser.parse_args(arguments)
    if chosen.list:
        sys.stdout.write("\n".join(CATALOGUE) + "\n")
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    chosen.dir.mkdir(parents=True, exist_ok=True)
    kept = chosen.dir / "rounds.jsonl"
    if chosen.fresh:
        kept.unlink(missing_ok=True)
    outcomes = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    if outcomes and not chosen.json:
        sys.stderr.write(f"going on after {len(outcomes)} rounds\n")
    try:
        faults = [CATALOGUE[name] for name in chosen.only or CATALOGUE]
        _play(chosen.dir, kept, outcomes, Schedule(faults, chosen.rounds, chosen.tier), chosen.seed)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: run it again to go on\n")
    return _report(outcomes, as_json=chosen.json)


def _play(directory: Path, kept: Path, outcomes: list[dict[str, Any]], schedule: Schedule, seed: int | None) -> None:
    while (batch := schedule.following(outcomes)) is not None:
        first = len(outcomes)
        cluster_seed = (seed if seed is not None else secrets.randbelow(1 << 30)) + first
        own = directory / f"cluster-{first:04d}"
        shutil.rmtree(own, ignore_errors=True)
        if not _one_cluster(own, kept, outcomes, batch, cluster_seed):
            sys.stderr.write(f"kept for a closer look: {own}\n")
        else:
            shutil.rmtree(own, ignore_errors=True)


def _one_cluster(own: Path, kept: Path, outcomes: list[dict[str, Any]], batch: Batch, seed: int) -> bool:
    """Play a batch on one cluster; return whether all was well."""
    mode = "not started" if batch.tier else ""
    try:
        rounds = Rounds(own, seed=seed, ensemble=batch.ensemble, namespaces=batch.namespaces, tier=batch.tier)
    except Unavailable as why:
        for fault in batch.faults:
            skipped = Outcome(len(outcomes), fault.name, seed, batch.ensemble, skipped=str(why), tier=mode)
            _keep(kept, outcomes, skipped)
        return True
    except (DidNotStart, FaultFailed) as error:
        outcome = Outcome(len(outcomes), "start of the cluster", seed, batch.ensemble, violations=[str(error)])
        outcome.tier = mode
        _keep(kept, outcomes, outcome)
        return False
    well = True
    try:
        for fault in batch.faults:
            if not rounds.alive:
                break
            outcome = rounds.play(len(outcomes), fault)
            _keep(kept, outcomes, outcome)
            well = well and not outcome.violations
    finally:
        rounds.end()
    return well


def _keep(kept: Path, outcomes: list[dict[str, Any]], outcome: Outcome) -> None:
    found = {**asdict(outcome), "commit": source_of(Path(__file__).parent)}
    outcomes.append(found)
    with kept.open("a") as file:
        file.write(json.dumps(found) + "\n")
    state = "skipped: " + outcome.skipped if outcome.skipped else "; ".join(outcome.violations)[:2000] or "ok"
    tier = {"": "-", "standby": "t", "synchronous": "s"}.get(outcome.tier, "?")
    sys.stderr.write(
        f"{outcome.number:4d} {outcome.nodes}{tier} {outcome.fault:80s}"
        f" {outcome.acknowledged_in_round:5d} acknowledged, pause {outcome.pause_s:5.2f} s, copies {outcome.copies}:"
        f" {state}\n"
    )


def summary(outcomes: list[dict[str, Any]]) -> dict[str, Any]:
    """Totals over all rounds that were played."""
    played = [one for one in outcomes if not one["skipped"]]
    pauses = sorted(one["pause_s"] for one in played)

    def at(share: float) -> float:
        return pauses[min(len(pauses) - 1, int(share * len(pauses)))] if pauses else 0.0

    by_fault: dict[str, list[float]] = {}
    for one in played:
        by_fault.setdefault(one["fault"], []).append(one["pause_s"])
    return {
        "commit": "; ".join(sorted({one.get("commit", "not kept") for one in played})),
        "rounds": len(played),
        "rounds by tier": dict(Counter(one.get("tier") or "none" for one in played)),
        "requests to the bucket that met a fault": sum(one.get("struck", 0) for one in played),
        "PUTs that came late": sum(one.get("late_puts", 0) for one in played),
        "done by an operator": _done(played),
        "skipped": dict(Counter(f"{one['fault']}: {one['skipped']}" for one in outcomes if one["skipped"])),
        "acknowledged": sum(one["acknowledged_in_round"] for one in played),
        "refused": sum(one["refused"] for one in played),
        "broken associations": sum(one["broken"] for one in played),
        "reads during faults": sum(one["reads"] for one in played),
        "lost": sum(one["lost"] for one in played),
        "altered": sum(one["altered"] for one in played),
        "rounds with a violation": sum(bool(one["violations"]) for one in played),
        "pause p50/p95/max s": [at(0.5), at(0.95), at(1.0)],
        "by fault: rounds, median pause s, longest": {
            name: [len(found), statistics.median(found), max(found)] for name, found in sorted(by_fault.items())
        },
    }


def _done(played: list[dict[str, Any]]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for one in played:
        counts.update(one.get("done") or {})
    return dict(sorted(counts.items()))


def _report(outcomes: list[dict[str, Any]], *, as_json: bool) -> int:
    totals = summary(outcomes)
    if as_json:
        sys.stdout.write(json.dumps(totals, indent=2) + "\n")
    else:
        console = Console(width=120)
        table = Table("fault", "rounds", "median pause s", "longest")
        for name, (count, median, longest) in totals.pop("by fault: rounds, median pause s, longest").items():
            table.add_row(name, str(count), f"{median:.2f}", f"{longest:.2f}")
        console.print(table)
        for name, value in totals.items():
            console.print(f"{name}: {value}")
    return 1 if totals["rounds with a violation"] or not totals["rounds"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
