"""One word about a node, and the reasons for it, from its `/status`: the same here and in `perenne status`."""

from collections.abc import Mapping
from typing import Any

OK, DEGRADED, DOWN = "ok", "degraded", "cannot store"
_APART_S = 10
"""Without ZooKeeper stores go on, as long as nobody fails: by then a person should know."""


def judge(facts: Mapping[str, Any]) -> tuple[str, list[str]]:
    """`cannot store`: a C-STORE would be refused now. `degraded`: it would not, and yet a person is needed.

    >>> node = {"frozen": None, "fenced": None, "refusal": None, "not_standing": None, "leader": "n1"}
    >>> judge(node | {"node": "n1", "in_sync": ["n1"], "disk": {"damaged_records": 0}, "lost_and_found": 0, "lags": []})
    ('ok', [])
    """
    reasons = [str(facts[name]) for name in ("frozen", "fenced", "refusal") if facts.get(name)]
    word = DOWN if reasons else OK
    if why := facts.get("not_standing"):
        reasons.append(f"cannot lead: {why}")
    coordination: Mapping[str, Any] = facts.get("coordination") or {}
    if not coordination.get("connected", True) and coordination.get("fresh_seconds", 0) > _APART_S:
        reasons.append("no connection to ZooKeeper")
    tier: Mapping[str, Any] = facts.get("tier") or {}
    if tier.get("failed"):
        reasons.append(f"the tier does not answer: {tier['failed']}")
    packing: Mapping[str, Any] = tier.get("packing") or {}
    if spoiled := packing.get("spoiled"):
        reasons.append(f"{spoiled} segments have another content under their name in the tier (docs/tier.md)")
    capacity: Mapping[str, Any] = facts.get("capacity") or {}
    if why := capacity.get("why_not"):
        reasons.append(f"too little room, and nothing is evicted: {why}")
    if damaged := facts["disk"]["damaged_records"]:
        reasons.append(f"{damaged} damaged records")
    scrub: Mapping[str, Any] = facts.get("scrub") or {}
    differs: Mapping[str, int] = scrub.get("differs") or {}
    reasons += [f"the log differs from that of {replica} at record {at}" for replica, at in sorted(differs.items())]
    reasons += scrub.get("faults") or []
    if saved := facts["lost_and_found"]:
        reasons.append(f"{saved} files in lost+found")
    if facts["leader"] is not None and facts["node"] not in facts["in_sync"]:
        reasons.append("not in sync")
    behind = [lag["replica"] for lag in facts["lags"] if not lag["in_sync"]]
    if behind:
        reasons.append(f"{', '.join(behind)} not in sync")
    away = [lag["replica"] for lag in facts["lags"] if not lag.get("connected", True)]
    if away:
        reasons.append(f"{', '.join(away)} not connected")
    return (DEGRADED if reasons and word == OK else word), list(dict.fromkeys(reasons))
