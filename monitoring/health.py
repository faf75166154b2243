"""One word about a node, and the reasons for it, from its `/status`: the same here and in `perenne status`."""

from collections.abc import Mapping
from typing import Any

OK, DEGRADED, DOWN = "ok", "degraded", "cannot store"
_SHOWN = 5
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
        of_them = "1 segment has" if spoiled == 1 else f"{spoiled} segments have"
        reasons.append(f"{of_them} another content under their name in the tier (docs/tier.md)")
    reasons += _lost(tier.get("audit") or {})
    capacity: Mapping[str, Any] = facts.get("capacity") or {}
    if why := capacity.get("why_not"):
        reasons.append(f"too little room, and nothing is evicted: {why}")
    failover: Mapping[str, Any] = facts.get("failover") or {}
    if why := failover.get("why_not"):
        reasons.append(str(why))
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


def _lost(audit: Mapping[str, Any]) -> list[str]:
    """What the tier has lost, and what a person can do.

    >>> _lost({"missing": [[1, 90], [91, 99]], "altered": [], "found": 2, "why": ""})
    ['the tier has lost records 1 to 90 and 91 to 99: they are being put again']
    >>> _lost({"missing": [[7, 7]], "altered": ["log/a.tar"], "found": 1, "why": "it is evicted"})[0]
    'the tier has lost record 7, and this node cannot put it again: it is evicted (docs/recovery.md, The tier fails)'
    """
    said: list[str] = []
    if missing := audit.get("missing"):
        spans = [f"{first} to {last}" if first != last else f"{first}" for first, last in missing]
        what = f"record{'s' if spans != [spans[0]] or ' ' in spans[0] else ''} {_listed(spans)}"
        them = "them" if what.startswith("records") else "it"
        why, are = audit.get("why"), "they are" if them == "them" else "it is"
        said.append(
            f"the tier has lost {what}, and this node cannot put {them} again: {why} (docs/recovery.md, The tier fails)"
            if why
            else f"the tier has lost {what}: {are} being put again"
        )
    if altered := audit.get("altered"):
        of_them = "1 object" if len(altered) == 1 else f"{len(altered)} objects, one of them"
        said.append(
            f"not as long as the records in it: {of_them} of the tier, {altered[0]}; copy such a one away and delete"
            " it, and it is put again (docs/recovery.md, The tier fails)"
        )
    return said


def _listed(spans: list[str]) -> str:
    shown, more = spans[:_SHOWN], len(spans) - _SHOWN
    if more > 0:
        return f"{', '.join(shown)} and {more} more stretches"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
