"""`perenne status`: asks every node, and shows a table or JSON."""

import json
import urllib.request
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

FILE_WIDTH = 160
"""Columns where the output goes to a file or another program."""


def addresses(urls: list[str], cluster: Path) -> list[str]:
    """Base addresses to ask: as given, or all that cluster.json names."""
    if urls:
        return [url.rstrip("/") if "://" in url else f"http://{url}" for url in urls]
    try:
        facts: Any = json.loads(cluster.read_text())
        return [f"http://127.0.0.1:{node['http_port']}" for node in facts["nodes"]]
    except (OSError, ValueError, KeyError):
        return []


def _ask(address: str) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(f"{address}/status", timeout=3) as answer:
            facts: dict[str, Any] = json.loads(answer.read())
            return facts
    except (OSError, ValueError) as error:
        return {"node": address, "error": str(getattr(error, "reason", error))}


def health(facts: dict[str, Any]) -> str:
    """One word, or why not."""
    if "error" in facts:
        return f"no answer: {facts['error']}"
    return str(facts["frozen"] or facts["fenced"] or facts["refusal"] or "ok")


def show(found: list[str], *, as_json: bool) -> int:
    """Print; return 0 healthy, 1 degraded, 2 cannot store."""
    nodes = [_ask(address) for address in found]
    code = 2 if all(health(n) != "ok" for n in nodes) else 1 if any(health(n) != "ok" for n in nodes) else 0
    leader = next((n for n in nodes if n.get("role") == "leader"), None)
    lags = {lag["replica"]: lag for lag in leader["lags"]} if leader else {}
    if as_json:
        Console().print_json(json.dumps({"health": ["ok", "degraded", "down"][code], "nodes": nodes}))
        return code
    columns = ("node", "role", "in sync", "position", "lag", "instances", "conflicts", "disk free")
    table = Table(*columns, Column("health", overflow="fold", min_width=20))
    for n in nodes:
        if "error" in n:
            table.add_row(str(n["node"]), "-", "-", "-", "-", "-", "-", "-", f"[red]{health(n)}")
            continue
        lag = lags.get(n["node"])
        table.add_row(
            n["node"],
            n["role"],
            "yes" if leader and n["node"] in leader["in_sync"] else "no",
            f"{n['positions']['committed']} of {n['positions']['end']}",
            f"{lag['records']} records" if lag else "-",
            str(n["instances"]),
            str(len(n["conflicts"])),
            f"{n['disk']['free_bytes'] / 2**30:.0f} GiB",
            health(n) if health(n) == "ok" else f"[red]{health(n)}",
        )
    console = Console()
    if not console.is_terminal:
        console = Console(width=FILE_WIDTH)
    console.print(table)
    return code
