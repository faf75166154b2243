"""The dashboard as tests see it: its panels, and what Grafana would make of their expressions."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BOARD = Path(__file__).resolve().parents[2] / "monitoring" / "dashboards" / "perenne.json"


@dataclass(frozen=True, slots=True)
class Panel:
    row: str
    title: str
    kind: str
    expressions: tuple[str, ...]
    facts: dict[str, Any]


def panels() -> Iterator[Panel]:
    """In their order, each with the row that it stands below."""
    row = ""
    for panel in json.loads(BOARD.read_text())["panels"]:
        if panel["type"] == "row":
            row = panel["title"]
            continue
        yield Panel(row, panel["title"], panel["type"], tuple(one["expr"] for one in panel["targets"]), panel)


def substituted(expression: str, cluster: str, node: str = ".*", interval: str = "2s") -> str:
    """As Grafana asks Prometheus: with the value of each variable."""
    for name, value in {"$cluster": cluster, "$node": node, "$ae": ".*", "$__rate_interval": interval}.items():
        expression = expression.replace(name, value)
    return expression
