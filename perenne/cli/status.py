"""`perenne status`: asks every node, and shows a table or JSON."""

import http.client
import json
import urllib.parse
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from monitoring.health import DOWN, OK, judge
from perenne.nodeaccess import NodeAccess, told

FILE_WIDTH = 160
"""Columns where the output goes to a file or another program."""


def addresses(urls: list[str], cluster: Path | None) -> list[str]:
    """Base addresses to ask: as given, or all that cluster.json names. Raises NoCluster."""
    if urls:
        return [_address(url) for url in urls]
    assert cluster is not None, "one of both is given"
    return [f"http://127.0.0.1:{node['http_port']}" for node in described(cluster)["nodes"]]


def _address(url: str) -> str:
    given = url.rstrip("/") if "://" in url else f"http://{url}"
    try:
        parsed = urllib.parse.urlsplit(given)
        if parsed.scheme in ("http", "https") and parsed.hostname and parsed.port != 0:
            return given
        why = ""
    except ValueError as error:
        why = f" ({error})"
    raise NoCluster(f"{url!r} is not http://HOST:PORT or https://HOST:PORT{why}")


class NoCluster(ValueError):
    """A cluster.json, or an address, cannot be used; names it, the reason and the next step."""


def described(cluster: Path) -> dict[str, Any]:
    """What a cluster.json says. Raises NoCluster."""
    try:
        facts: dict[str, Any] = json.loads(cluster.read_text())
        if [node["http_port"] for node in facts["nodes"]] and facts["zookeeper"]["address"]:
            return facts
        raise ValueError("it names no nodes")
    except OSError as error:
        why = str(error.strerror)
    except (ValueError, KeyError, TypeError) as error:
        why = f"it is no cluster.json ({type(error).__name__}: {error})"
    raise NoCluster(f"{cluster}: {why}; script/up writes one, or name nodes as http://HOST:PORT")


def _ask(address: str, access: NodeAccess) -> dict[str, Any]:
    try:
        return access.json(address, "/status", 3)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return {"node": address, "error": told(error)}


def health(facts: dict[str, Any]) -> tuple[str, list[str]]:
    """One word, and why it is not "ok"."""
    if "error" in facts:
        return DOWN, [f"no answer: {facts['error']}"]
    return judge(facts)


def show(found: list[str], access: NodeAccess, *, as_json: bool) -> int:
    """Print; return 0 healthy, 1 degraded, 2 cannot store."""
    nodes = [_ask(address, access) for address in found]
    words = [health(n)[0] for n in nodes]
    code = 2 if all(word == DOWN for word in words) else 1 if any(word != OK for word in words) else 0
    leader = next((n for n in nodes if n.get("role") == "leader"), None)
    if as_json:
        judged = [{**n, "health": health(n)[0], "reasons": health(n)[1]} for n in nodes]
        Console().print_json(json.dumps({"health": ["ok", "degraded", "down"][code], "nodes": judged}))
        return code
    columns = ("node", "role", "in sync", "position", "lag", "instances", "conflicts", "disk free", "verified")
    table = Table(*columns, Column("health", overflow="fold", min_width=20))
    for n in nodes:
        table.add_row(*_row(n, leader))
    console = Console()
    if not console.is_terminal:
        console = Console(width=FILE_WIDTH)
    console.print(table)
    if leader is not None and leader.get("tier"):
        console.print(_tier(leader["tier"]))
    for n in nodes:
        if (held := n.get("capacity")) and held["tier_only_segments"]:
            console.print(_evicted(n["node"], held))
    return code


def _evicted(node: str, held: dict[str, Any]) -> str:
    """One line about a node that reads a part of its log from the tier."""
    gib = held["tier_only_bytes"] / 2**30
    return (
        f"{node}: {held['local_segments']} segments here, {held['tier_only_segments']} ({gib:.1f} GiB) in the tier only"
    )


def _tier(tier: dict[str, Any]) -> str:
    """One line about the tier, as its leader sees it."""
    place = "in sync" if tier["in_sync"] else "follows"
    behind = "not listed yet" if tier["behind"] is None else f"{tier['behind']} records behind"
    said = f"[red]{escape(tier['failed'])}" if tier["failed"] else "answers"
    notes = [f"{tier['orphans']} orphans"] if tier.get("orphans") else []
    packing: dict[str, Any] = tier.get("packing") or {}
    audit: dict[str, Any] = tier.get("audit") or {}
    notes += [f"[red]{len(audit[name])} {what}[/red]" for name, what in _LOST.items() if audit.get(name)]
    notes += [f"{packing[name]} {what}" for name, what in _NOTES.items() if packing.get(name)]
    if packing.get("outgrown_kept") and packing.get("outgrown"):
        notes.append(f"[red]they stay: {escape(packing['outgrown_kept'])}[/red]")
    return ", ".join((f"tier ({tier['mode']}): {place}", behind, said, *notes))


_LOST = {"missing": "objects lost", "altered": "objects of another length"}
_NOTES = {
    "kept": "replaced objects that the bucket keeps",
    "spoiled": "[red]segments with another content[/red]",
    "outgrown": "segments with bytes that were deleted and compacted here",
}


def _row(n: dict[str, Any], leader: dict[str, Any] | None) -> list[str]:
    word, reasons = health(n)
    said = word if word == OK else f"[red]{word}: {'; '.join(map(escape, reasons))}"
    if "error" in n:
        return [str(n["node"]), *["-"] * 8, said]
    lags = {lag["replica"]: lag for lag in leader["lags"]} if leader else {}
    lag = lags.get(n["node"])
    return [
        n["node"],
        n["role"],
        _in_sync(n, leader),
        f"{n['positions']['committed']} of {n['positions']['end']}",
        f"{lag['records']} records" if lag else "-",
        str(n["instances"]),
        str(n.get("conflict_count", len(n["conflicts"]))),
        f"{n['disk']['free_bytes'] / 2**30:.0f} GiB",
        _verified(n.get("scrub")),
        said,
    ]


def _verified(scrub: dict[str, Any] | None) -> str:
    """Since when all headers, and all payloads, were read again."""
    if scrub is None:
        return "-"
    return f"{_age(scrub['light_age_seconds'])}, deep {_age(scrub['deep_age_seconds'])}"


def _age(seconds: float) -> str:
    """
    >>> _age(59), _age(7200), _age(864_000)
    ('59 s', '2 h', '10 d')
    """
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _in_sync(n: dict[str, Any], leader: dict[str, Any] | None) -> str:
    """What the leader says; while nobody leads, the set as this node last read it."""
    if leader is not None:
        return "yes" if n["node"] in leader["in_sync"] else "no"
    return f"{'yes' if n['node'] in n['in_sync'] else 'no'}, knows {' '.join(n['in_sync']) or 'nobody'}"
