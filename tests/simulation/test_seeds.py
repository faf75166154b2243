"""A fixed set of seeds, and fresh ones, within a bounded time. A failing seed is one line to paste.

SIMULATE_SECONDS: how long (50 here, more in continuous integration); at most 2,000 seeds.
"""

import os
import secrets
import time

import pytest

from replication.connection import Connection
from tests.simulation.__main__ import a_few
from tests.simulation.plan import Order
from tests.simulation.run import run
from tests.simulation.summary import Summary

SECONDS = float(os.environ.get("SIMULATE_SECONDS", "50"))
SEEDS = 2000


@pytest.mark.timeout(400)
@pytest.mark.parametrize("first", [0, None], ids=["fixed", "fresh"])
def test_seeds(first: int | None) -> None:
    """What the summary must show: no violation, and that something was acknowledged.

    Scrub and eviction run in the fixed ones alone (docs/proof.md). In the fresh ones faults begin with the first
    acknowledgement, in the others at once.
    """
    summary = Summary(next_seed=secrets.randbelow(1 << 40) if first is None else first)
    begun = time.monotonic()
    while time.monotonic() - begun < SECONDS / 2 and summary.clusters < SEEDS / 2:
        a_few(summary, 10, Order(0, scrubs=first is not None, head_start=first is None))
    lines = "\n".join(summary.lines())
    assert not summary.violations, lines
    assert summary.proved > summary.clusters * (0.9 if first is None else 0.3), lines
    assert summary.faults > summary.clusters, lines


@pytest.mark.parametrize(("first", "runs", "scrubs"), [(0, 16, False), (100, 4, True)], ids=["alone", "with scrub"])
def test_seeds_that_compact(first: int, runs: int, scrubs: bool) -> None:
    """Asked for as --compact is: no violation, and there was something to take away."""
    summary = Summary(next_seed=first)
    a_few(summary, runs, Order(0, scrubs=scrubs, compacts=True))
    lines = "\n".join(summary.lines())
    assert not summary.violations, lines
    assert summary.rewritten > runs and summary.stubs > summary.rewritten, lines
    assert any("while rewriting" in kind for kind in summary.struck), lines


@pytest.mark.parametrize("seed", [1, 62, 2474])
def test_a_seed_is_a_run(seed: int) -> None:
    """Same seed, same trace: to the last event."""
    first, second = run(seed), run(seed)
    assert (first.trace_hash, first.steps, first.struck) == (second.trace_hash, second.steps, second.struck)
    assert first.trace_hash != run(seed + 1).trace_hash


def _hash_where(monkeypatch: pytest.MonkeyPatch, order: Order, *, upwards: bool) -> int:
    """The hash of a run in which a small set of connections is gone through in the order of their birth, or back."""
    places: dict[int, int] = {}
    seen: list[Connection] = []

    def place(connection: Connection) -> int:
        if id(connection) not in places:
            seen.append(connection)  # so that its id is not used again
            places[id(connection)] = len(seen) % 8 if upwards else 7 - len(seen) % 8
        return places[id(connection)]

    monkeypatch.setattr(Connection, "__hash__", place)
    return run(order).trace_hash


def test_a_seed_is_the_same_run_in_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where objects lie in memory differs from process to process, and with it the order of a set of them."""
    order = Order(301, small=True)
    assert _hash_where(monkeypatch, order, upwards=True) == _hash_where(monkeypatch, order, upwards=False)


@pytest.mark.parametrize("seed", [5200003712, 6100031504])
def test_seeds_that_were_false_alarms_of_the_long_runs(seed: int) -> None:
    """Harm to a disk that was lost afterwards; a cut beyond what was synced (docs/proof.md)."""
    assert not run(seed).violation
