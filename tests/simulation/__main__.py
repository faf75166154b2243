"""The command line of the simulator: one seed with its trace, or a campaign over many."""

import argparse
import gc
import multiprocessing
import secrets
import sys
import time
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

from tests.simulation.run import Result, run, run_and_collect
from tests.simulation.summary import Summary

SAVED_EACH = 50


def main(arguments: list[str]) -> int:
    """Return 1 when a promise was broken."""
    parser = argparse.ArgumentParser("script/simulate", description=__doc__)
    parser.add_argument("--seed", type=int, help="the first seed; fresh ones when left out")
    parser.add_argument("--runs", type=int, help="how many clusters; 1 with --seed, else 200")
    parser.add_argument("--minutes", type=float, help="stop after this long")
    parser.add_argument("--jobs", type=int, default=1, help="processes beside each other")
    parser.add_argument("--trace", action="store_true", help="print what happens")
    parser.add_argument("--until-violation", action="store_true", help="stop at the first")
    parser.add_argument("--resume", type=Path, help="a file that keeps the counts and the next seed")
    options = parser.parse_args(arguments)
    summary = Summary()
    if options.resume is not None and options.resume.exists():
        summary = Summary.load(options.resume)
    elif options.seed is not None:
        summary.next_seed = options.seed
    else:
        summary.next_seed = secrets.randbelow(1 << 40)
    runs = options.runs or (None if options.minutes else 1 if options.seed is not None else 200)
    campaign(
        summary,
        runs,
        options.minutes,
        options.jobs,
        trace=options.trace,
        keep=options.resume,
        until_violation=options.until_violation,
    )
    _print("\n".join(summary.lines()))
    return 1 if summary.violations else 0


def campaign(
    summary: Summary,
    runs: int | None,
    minutes: float | None,
    jobs: int,
    *,
    trace: bool = False,
    keep: Path | None = None,
    until_violation: bool = False,
) -> None:
    """Run seed after seed into `summary`. A failing seed prints one line to paste."""
    begun = last = time.monotonic()
    seeds = count(summary.next_seed) if runs is None else islice(count(summary.next_seed), runs)
    for result in _results(seeds, jobs, trace=trace):
        summary.add(result)
        summary.next_seed = max(summary.next_seed, result.seed + 1)
        if result.violation:
            _print(f"script/simulate --seed {result.seed} --trace  # {result.violation}")
        now = time.monotonic()
        summary.seconds += now - last
        last = now
        if keep is not None and summary.clusters % SAVED_EACH == 0:
            summary.save(keep)
        if until_violation and summary.violations:
            break
        if minutes is not None and now - begun > minutes * 60:
            break
    if keep is not None:
        summary.save(keep)


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _results(seeds: Iterator[int], jobs: int, *, trace: bool) -> Iterator[Result]:
    if jobs <= 1 or trace:
        for seed in seeds:
            yield run(seed, trace=_print if trace else None)
            if seed % 10 == 0:
                gc.collect()
        return
    with multiprocessing.get_context("spawn").Pool(jobs, maxtasksperchild=500) as pool:
        while batch := list(islice(seeds, jobs * 20)):
            yield from pool.imap(run_and_collect, batch)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
