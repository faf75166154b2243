"""Asks every node that an operator or ZooKeeper names what it holds, and the bucket what it shows."""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from replication.coordination.port import ClusterRecord, CoordinationCorrupt, LiveNode
from replication.coordination.surgery import Found
from replication.core.rebuild import Bucket
from replication.core.rescue import Standing
from replication.standing import read
from replication.tier.keys import LOG, MARKER, parse_marker, parse_run
from replication.tier.port import BlockingStore
from storage.position import LogPosition

TIMEOUT_S: Final = 5.0
_DIRECT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Of one address. problem: why it says nothing of use; then the rest is empty."""

    address: str
    cluster: ClusterRecord | None = None
    standing: Standing | None = None
    lost_and_found: Sequence[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    problem: str = ""


def addresses(found: Found, urls: Iterable[str]) -> list[str]:
    """Of every node that runs, as it announced itself, and of those that were named besides."""
    live = [address_of(node) for node in found.live.values()]
    named = [url.rstrip("/") if "://" in url else f"http://{url}" for url in urls]
    return list(dict.fromkeys([*named, *live]))


def address_of(node: LiveNode) -> str:
    host = f"[{node.host}]" if ":" in node.host else node.host
    return f"http://{host}:{node.http_port}"


def fetched(url: str) -> dict[str, Any] | None:
    """A JSON document; None when nobody answers with one."""
    try:
        with _DIRECT.open(url, timeout=TIMEOUT_S) as reply:
            facts: dict[str, Any] = json.loads(reply.read())
            return facts
    except (OSError, http.client.HTTPException, ValueError):
        return None


def survey(asked: Sequence[str]) -> list[Answer]:
    """Ask all of them at once; one node that is reached in two ways answers once."""
    with ThreadPoolExecutor(max(1, len(asked))) as pool:
        answers = list(pool.map(_ask, asked))
    seen: dict[object, Answer] = {}
    for answer in answers:
        seen.setdefault(answer.standing.member if answer.standing is not None else answer.address, answer)
    return list(seen.values())


def _ask(address: str) -> Answer:
    try:
        with _DIRECT.open(f"{address}/standing", timeout=TIMEOUT_S) as reply:
            facts: dict[str, Any] = json.loads(reply.read())
        cluster, standing = read(facts)
    except urllib.error.HTTPError as error:
        return Answer(address=address, problem=f"HTTP {error.code}: is it a node of this version?")
    except (OSError, http.client.HTTPException) as error:
        return Answer(address=address, problem=f"no answer: {getattr(error, 'reason', error)}")
    except (ValueError, KeyError, TypeError, CoordinationCorrupt) as error:
        return Answer(address=address, problem=f"not understood ({type(error).__name__}: {error})")
    saved: list[dict[str, Any]] = facts.get("lost_and_found", [])
    return Answer(address=address, cluster=cluster, standing=standing, lost_and_found=saved)


def bucket(store: BlockingStore) -> Bucket:
    """What a takeover would see at first: the tip, by the names alone. Raises TierError."""
    runs = [run for key in _keys(store, LOG) if (run := parse_run(key)) is not None]
    markers = [marker for key in _keys(store, MARKER) if (marker := parse_marker(key)) is not None]
    return Bucket(
        tip=max((run.end for run in runs), default=LogPosition(0, 0)),
        counter=max((marker.counter for marker in markers), default=0),
        epoch=max((run.epoch for run in runs), default=0),
    )


def _keys(store: BlockingStore, prefix: str) -> Iterable[str]:
    after = ""
    while True:
        page = store.list_page(prefix, after)
        yield from page.keys
        if not page.more or not page.keys:
            return
        after = page.keys[-1]
