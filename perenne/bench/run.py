"""`script/bench`: throughput beside storescp and Orthanc, its floor, failover, memory and start, imports, scrapes."""

import argparse
from collections.abc import Sequence

import uvloop

from perenne.bench.failover import failover
from perenne.bench.footprint import footprint
from perenne.bench.healing import reindex, scrub
from perenne.bench.moving import moving
from perenne.bench.parts import parts
from perenne.bench.refill import refill
from perenne.bench.restore import restore
from perenne.bench.results import Results, show
from perenne.bench.scrape import scrape
from perenne.bench.stores import stores
from perenne.bench.tier import tier
from perenne.bench.tls import tls

WHAT = (
    "stores",
    "parts",
    "failover",
    "footprint",
    "tier",
    "tls",
    "restore",
    "refill",
    "scrub",
    "reindex",
    "import",
    "scrape",
)


def run(arguments: Sequence[str]) -> int:
    """Parse, measure, print; returns the exit code."""
    parser = argparse.ArgumentParser(prog="script/bench", description=__doc__)
    parser.add_argument("what", nargs="*", metavar="|".join(WHAT), help="default: all of them")
    parser.add_argument("--seconds", type=float, default=4.0, help="per measurement of stores (%(default)s)")
    parser.add_argument("--repeat", type=int, default=3, help="medians of so many (%(default)s)")
    parser.add_argument("--rounds", type=int, default=20, help="of failover and switchover (%(default)s)")
    parser.add_argument("--instances", type=int, default=20_000, help="of footprint and reindex (%(default)s)")
    parser.add_argument("--files", type=int, default=500, help="CT slices of each import (%(default)s)")
    parser.add_argument("--giant", type=int, default=2048, metavar="MIB", help="size of the giant one (%(default)s)")
    parser.add_argument("--restored", type=int, default=50_000, help="instances of restore and refill (%(default)s)")
    parser.add_argument("--scrub", type=int, default=1024, metavar="MIB", help="log that is scrubbed (%(default)s)")
    parser.add_argument("--indexed", type=int, default=100_000, help="instances before scrape (%(default)s)")
    parser.add_argument("--windows", type=int, default=30, help="seconds with a scrape, of scrape (%(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    options = parser.parse_args(list(arguments))
    chosen = set(options.what or WHAT)
    if unknown := chosen - set(WHAT):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    results: Results = {}
    if "stores" in chosen:
        results |= stores(options.seconds, options.repeat)
    if "parts" in chosen:
        results |= parts()
    if "failover" in chosen:
        results |= uvloop.run(failover(options.rounds))
    if "footprint" in chosen:
        results |= footprint(options.instances, options.giant << 20)
    if "import" in chosen:
        results |= moving(options.files, options.repeat)
    if "tier" in chosen:
        results |= tier(options.seconds, options.repeat)
    if "tls" in chosen:
        results |= tls(options.seconds, options.repeat)
    if "restore" in chosen:
        results |= restore(options.restored, options.repeat)
    if "refill" in chosen:
        results |= refill(options.restored, options.repeat)
    if "scrub" in chosen:
        results |= scrub(options.scrub << 20, options.repeat)
    if "reindex" in chosen:
        results |= reindex(options.instances, options.repeat)
    if "scrape" in chosen:
        results |= scrape(options.indexed, options.windows)
    show(results, as_json=options.json)
    return 0
