"""`script/metrics-doc`: docs/metrics.md, from the registry of a real node that has just begun to run."""

import argparse
import asyncio
import re
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from prometheus_client import CollectorRegistry

from replication.troubles import REASONS
from tests.monitoring.real_node import node_in

DOCUMENT: Final = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
UNITS: Final = {
    "timestamp_seconds": "Unix time in seconds",
    "start_time_seconds": "Unix time in seconds",
    "seconds": "seconds",
    "bytes": "bytes",
}
"""By the end of a name, without `_total`. What is not among them is a count, a number of a record, or 0 or 1."""
FORBIDDEN: Final = ("ms", "millis", "milliseconds", "minutes", "hours", "mb", "mib", "kb", "percent")
OPEN_LABELS: Final = {
    "ae": "each configured calling AE (`[[ae]] title`), and `other`",
    "replica": "each other registered node, by its id; of a lag and of the last success also `tier`",
    "listener": "each door with a certificate: `peer`, `http`, `dicom`; of an authority `peer`, `dicom`",
    "version": "the version that runs",
    "python": "the Python that it runs on",
}
"""Labels whose values a configuration decides: bounded, and without patient data."""
REASONS_OF: Final = {"perenne_replica_errors_total": REASONS}
"""Of a metric that has no series before there is another node, the values that they then have."""
OF_OTHERS: Final = frozenset({"replica"})
"""Series with these labels are there once there is another node: tests/monitoring/test_watching.py sees them."""
HEAD: Final = """# Metrics

Written by `script/metrics-doc` from the registry of a running node; change a help text in the code, and run it again.
What to look at first: docs/observability.md. Prometheus adds the labels `cluster` and `node` (docs/operating.md).
"""


@dataclass(frozen=True, slots=True)
class Described:
    """One metric as a node exports it. values: those of each label that are there from the start."""

    name: str
    kind: str
    labels: dict[str, list[str]]
    help: str
    present: bool
    """Whether it has a series."""

    @property
    def unit(self) -> str:
        base = self.name.removesuffix("_total")
        for end, unit in UNITS.items():
            if base.endswith(end):
                return unit
        if re.search(r"(^|: )1 (when|while|for|on) |^Always 1\b", self.help):
            return "0 or 1"
        return "number" if base.endswith(("_sequence", "_epoch")) else "count"


def described(registry: CollectorRegistry) -> list[Described]:
    """Everything that it exports, by name."""
    found: list[Described] = []
    for family in registry.collect():
        # A family without series yet still knows its labels, and says so only here.
        names = [str(label) for label in cast("Iterable[Any]", vars(family).get("_labelnames", ()))]
        for sample in family.samples:
            names += [label for label in sample.labels if label not in names and label != "le"]
        values = {
            label: list(dict.fromkeys(s.labels[label] for s in family.samples if label in s.labels)) for label in names
        }
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found.append(Described(name, family.type, values, family.documentation, bool(family.samples)))
    return sorted(found, key=lambda metric: metric.name)


def objections(metrics: Iterable[Described]) -> list[str]:
    """What breaks the conventions, beside what promtool finds; also a metric without a series from the start."""
    found: list[str] = []
    for metric in metrics:
        words = metric.name.split("_")
        if words[0] not in ("perenne", "process"):
            found.append(f"{metric.name}: the prefix is perenne_")
        if set(words) & set(FORBIDDEN):
            found.append(f"{metric.name}: base units are seconds, bytes and ratios")
        if (metric.kind == "counter") != metric.name.endswith("_total"):
            found.append(f"{metric.name}: counters end in _total, and nothing else does")
        if len(metric.help.split()) < 4:
            found.append(f"{metric.name}: its help does not teach: {metric.help!r}")
        if not metric.present and not OF_OTHERS & metric.labels.keys():
            found.append(f"{metric.name}: no series from the start")
    return found


def document(metrics: Iterable[Described]) -> str:
    """docs/metrics.md."""
    known = list(metrics)
    lines = [HEAD, "| metric | type | labels | unit | meaning |", "|---|---|---|---|---|"]
    for metric in known:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        text = metric.help.rstrip(".").replace("|", "\\|")
        lines.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.unit} | {text} |")
    lines += ["", "## Labels", "", "| label | of | values |", "|---|---|---|"]
    for metric, label in sorted(
        ((m, label) for m in known for label in m.labels), key=lambda one: (one[1], one[0].name)
    ):
        known_then = REASONS_OF.get(metric.name, ()) if label == "reason" else ()
        values = OPEN_LABELS.get(label) or ", ".join(f"`{value}`" for value in metric.labels[label] or known_then)
        lines.append(f"| `{label}` | `{metric.name}` | {values} |")
    return "\n".join(lines) + "\n"


async def live() -> list[Described]:
    """What a node exports that has just begun to run."""
    with tempfile.TemporaryDirectory(prefix="perenne-metrics-") as name:
        async with node_in(Path(name)) as node:
            return described(node.exported.registry)


def main() -> int:
    """Exit code 0; 1 when the document is stale (--check) or a metric breaks the conventions."""
    parser = argparse.ArgumentParser(
        prog="script/metrics-doc",
        description="Write docs/metrics.md from the metrics of a real node: names, types, labels, units, help texts.",
        epilog="Example: change a help text in monitoring/, run script/metrics-doc, and look at `git diff docs`.",
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 when it is stale")
    check: bool = parser.parse_args().check
    metrics = asyncio.run(live())
    wrong = objections(metrics)
    for line in wrong:
        sys.stderr.write(f"{line}\n")
    text = document(metrics)
    stale = not DOCUMENT.exists() or DOCUMENT.read_text() != text
    if stale:
        sys.stdout.write(f"{'stale' if check else 'written'}: {DOCUMENT}\n")
        if not check:
            DOCUMENT.write_text(text)
    return 1 if wrong or (check and stale) else 0


if __name__ == "__main__":
    sys.exit(main())
