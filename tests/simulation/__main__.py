"""The command line of the simulator: one seed with its trace, or a campaign over many."""

import argparse
import gc
import multiprocessing
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count, islice
from pathlib import Path

from tests.simulation.hunt import BACKGROUND, Quarry
from tests.simulation.kinds import KINDS
from tests.simulation.phases import PHASES, can_occur
from tests.simulation.plan import Order
from tests.simulation.run import Result, run, run_and_collect
from tests.simulation.summary import Summary, source_of

SAVED_EACH_S = 2.0
AT_ONCE = 40
"""Pairs that are hunted before it is looked again which are rarest."""


def main(arguments: list[str]) -> int:
    """Return 1 when a promise was broken, 2 when the command was senseless, 130 when it was interrupted."""
    parser = argparse.ArgumentParser("script/simulate", description=__doc__)
    parser.add_argument("--seed", type=int, help="the first seed; fresh ones when left out")
    parser.add_argument("--runs", type=int, help="how many clusters, besides those in FILE; 1 with --seed, else 200")
    parser.add_argument("--minutes", type=float, help="stop after this long")
    parser.add_argument("--jobs", type=int, default=1, help="processes beside each other")
    parser.add_argument("--trace", action="store_true", help="print what happens")
    parser.add_argument("--until-violation", action="store_true", help="stop at the first")
    parser.add_argument("--small", action="store_true", help="few nodes, one sender, at most 2.5 s of faults")
    parser.add_argument(
        "--scrub", action="store_true", help="nodes may scrub and evict; seeds of it are open (docs/proof.md)"
    )
    parser.add_argument("--compact", action="store_true", help="nodes compact what was deleted; some evict")
    parser.add_argument(
        "--head-start",
        action="store_true",
        help="faults begin once something was acknowledged; else many a cluster promises nothing before it heals",
    )
    parser.add_argument("--quarry", type=_quarry, help="what to hunt in each run, as KIND@PHASE")
    parser.add_argument(
        "--hunt",
        action="store_true",
        help="with --resume: hunt what occurred less than 100 times, or never, until nothing has",
    )
    parser.add_argument(
        "--resume",
        type=Path,
        help="a FILE that keeps the counts and the next seed; give the same options again: it says which there were",
    )
    options = parser.parse_args(arguments)
    summary = Summary()
    if options.hunt and (options.resume is None or not options.resume.exists() or options.quarry is not None):
        parser.error("--hunt needs --resume FILE with counts, which say what is rare, and no --quarry")
    if options.runs is not None and options.runs < 1:
        parser.error("--runs counts clusters: at least 1")
    if options.jobs < 1 or (options.minutes is not None and options.minutes <= 0):
        parser.error("--jobs and --minutes: more than 0")
    if options.seed is not None and options.seed < 0:
        parser.error("--seed: 0 or more")
    if options.resume is not None and not options.resume.parent.is_dir():
        parser.error(f"there is no directory {options.resume.parent}")
    if options.resume is not None and options.resume.exists():
        try:
            summary = Summary.load(options.resume)
        except (OSError, ValueError) as error:
            parser.error(f"--resume: {error}")
        if options.seed is not None:
            _print(f"{options.resume} goes on at seed {summary.next_seed}; --seed counts for a new file alone")
    elif options.seed is not None:
        summary.next_seed = options.seed
    else:
        summary.next_seed = secrets.randbelow(1 << 40)
    runs = options.runs or (None if options.minutes or options.hunt else 1 if options.seed is not None else 200)
    model = Order(0, options.quarry, options.small, options.scrub, options.compact, options.head_start)
    orders = _hunted(summary, model) if options.hunt else _in_turn(summary, model)
    if (source := source_of(Path(__file__).parent)) not in summary.commits:
        summary.commits.append(source)
    interrupt = _Interrupt()
    signal.signal(signal.SIGINT, interrupt)
    campaign(
        summary,
        orders if runs is None else islice(orders, runs),
        options.minutes,
        options.jobs,
        trace=options.trace,
        keep=options.resume,
        until_violation=options.until_violation,
        stop=lambda: interrupt.asked,
    )
    _print("\n".join(summary.lines()))
    if interrupt.asked:
        _print(
            f"interrupted{f'; the same command goes on from {options.resume}' if options.resume is not None else ''}"
        )
    return 1 if summary.violations else 130 if interrupt.asked else 0


class _Interrupt:
    """Ctrl-C: what is under way is finished, counted and kept. The second one ends at once."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


def _quarry(text: str) -> Quarry:
    kind, _, phase = text.partition("@")
    if kind not in {*KINDS, *BACKGROUND}:
        raise argparse.ArgumentTypeError(f"no such kind: {kind!r}; there are {', '.join([*KINDS, *BACKGROUND])}")
    if phase not in PHASES:
        raise argparse.ArgumentTypeError(f"no such phase: {phase!r}; there are {', '.join(PHASES)}")
    if not can_occur(kind, phase):
        where = ", ".join(one for one in PHASES if can_occur(kind, one))
        raise argparse.ArgumentTypeError(f"{kind} is never counted at {phase!r}; it is at {where}")
    return kind, phase


def _in_turn(summary: Summary, model: Order) -> Iterator[Order]:
    for seed in count(summary.next_seed):
        yield replace(model, seed=seed)


def _hunted(summary: Summary, model: Order) -> Iterator[Order]:
    """What is rarest first, as the counts stand by then."""
    seed = summary.next_seed
    hunts = {*KINDS, *BACKGROUND}
    while rare := [pair for pair in summary.rare() if pair[0] in hunts][:AT_ONCE]:
        for pair in rare:
            yield replace(model, seed=seed, quarry=pair)
            seed += 1


def a_few(summary: Summary, runs: int, model: Order) -> None:
    """For tests: go on with so many seeds, in this process. model: what each of them is like."""
    campaign(summary, islice(_in_turn(summary, model), runs), None, 1)


def campaign(
    summary: Summary,
    orders: Iterator[Order],
    minutes: float | None,
    jobs: int,
    *,
    trace: bool = False,
    keep: Path | None = None,
    until_violation: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Run one order after the other into `summary`. A failing seed prints one line to paste. stop: asked after each."""
    begun = last = time.monotonic()
    saved = 0.0
    for result in _results(orders, jobs, trace=trace):
        summary.add(result)
        summary.next_seed = max(summary.next_seed, result.order.seed + 1)
        if result.violation:
            _print(f"script/simulate {result.order.arguments} --trace  # {result.violation}")
        if trace:
            _print(f"seed {result.order.seed}: trace hash {result.trace_hash:08x}")
        now = time.monotonic()
        summary.seconds += now - last
        last = now
        if keep is not None and (now - saved > SAVED_EACH_S or result.violation):
            summary.save(keep)
            saved = now
        if stop() or (until_violation and summary.violations):
            break
        if minutes is not None and now - begun > minutes * 60:
            break
    if keep is not None:
        summary.save(keep)


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _results(orders: Iterator[Order], jobs: int, *, trace: bool) -> Iterator[Result]:
    if jobs <= 1 or trace:
        for order in orders:
            yield run(order, trace=_print if trace else None)
            if order.seed % 10 == 0:
                gc.collect()
        return
    # Ctrl-C reaches every process of a terminal: here alone it is answered.
    deaf = (signal.SIGINT, signal.SIG_IGN)
    with multiprocessing.get_context("spawn").Pool(jobs, signal.signal, deaf, maxtasksperchild=500) as pool:
        while batch := list(islice(orders, jobs * 20)):
            yield from pool.imap(run_and_collect, batch)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
