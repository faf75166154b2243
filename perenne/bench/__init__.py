"""Measurements of one machine: throughput beside other archives, and failover. Figures are ratios within one run."""

from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Entry point of `perenne bench` and `script/bench`; returns the exit code."""
    from perenne.bench.run import run

    return run(arguments)
