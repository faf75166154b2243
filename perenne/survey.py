"""Asks every node that an operator or ZooKeeper names what it holds, and the bucket what it shows."""

import http.client
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from perenne.nodeaccess import NodeAccess
from replication.coordination.access import Access
from replication.coordination.port import ClusterRecord, CoordinationCorrupt, LiveNode
from replication.coordination.surgery import Found, Surgery
from replication.core.coverage import whole_from
from replication.core.rescue import Bucket, Standing
from replication.standing import read
from replication.tier.keys import CLUSTER_KEY, LOG, MARKER, parse_marker, parse_run
from replication.tier.manifest import decode_cluster
from replication.tier.port import BlockingStore, NotThere
from storage.position import LogPosition

TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Of one address. problem: why it says nothing of use; then the rest is empty."""

    address: str
    cluster: ClusterRecord | None = None
    standing: Standing | None = None
    lost_and_found: Sequence[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How a cluster is reached: ZooKeeper with its access, and its nodes with theirs."""

    hosts: str
    zookeeper: Access = field(default_factory=Access)
    nodes: NodeAccess = field(default_factory=NodeAccess)
    scheme: str = "http"

    def surgery(self) -> Surgery:
        return Surgery(self.hosts, access=self.zookeeper)

    def address_of(self, node: LiveNode) -> str:
        host = f"[{node.host}]" if ":" in node.host else node.host
        return f"{self.scheme}://{host}:{node.http_port}"

    def addresses(self, found: Found, urls: Iterable[str]) -> list[str]:
        """Of every node that runs, as it announced itself, and of those that were named besides."""
        live = [self.address_of(node) for node in found.live.values()]
        named = [url.rstrip("/") if "://" in url else f"{self.scheme}://{url}" for url in urls]
        return list(dict.fromkeys([*named, *live]))

    def fetched(self, node: LiveNode, path: str) -> dict[str, Any] | None:
        """A JSON document; None when the node does not answer with one."""
        try:
            return self.nodes.json(self.address_of(node), path, TIMEOUT_S)
        except (OSError, http.client.HTTPException, ValueError):
            return None


def survey(asked: Sequence[str], access: NodeAccess) -> list[Answer]:
    """Ask all of them at once; one node that is reached in two ways answers once."""
    with ThreadPoolExecutor(max(1, len(asked))) as pool:
        answers = list(pool.map(partial(_ask, access), asked))
    seen: dict[object, Answer] = {}
    for answer in answers:
        seen.setdefault(answer.standing.member if answer.standing is not None else answer.address, answer)
    return list(seen.values())


def _ask(access: NodeAccess, address: str) -> Answer:
    try:
        facts = access.json(address, "/standing", TIMEOUT_S)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Answer(address=address, problem=f"no answer: {error}")
    try:
        cluster, standing = read(facts)
    except (ValueError, KeyError, TypeError, CoordinationCorrupt) as error:
        return Answer(address=address, problem=f"not understood ({type(error).__name__}: {error})")
    saved: list[dict[str, Any]] = facts.get("lost_and_found", [])
    return Answer(address=address, cluster=cluster, standing=standing, lost_and_found=saved)


def bucket(store: BlockingStore) -> Bucket:
    """What a takeover would see at first, by the names alone. Raises TierError."""
    runs = [run for key in _keys(store, LOG) if (run := parse_run(key)) is not None]
    markers = [marker for key in _keys(store, MARKER) if (marker := parse_marker(key)) is not None]
    return Bucket(
        tip=max((run.end for run in runs), default=LogPosition(0, 0)),
        counter=max((marker.counter for marker in markers), default=0),
        epoch=max((run.epoch for run in runs), default=0),
        whole_from=whole_from(runs),
    )


def cluster_of(store: BlockingStore) -> str | None:
    """Whose tier this is; None where nobody has said so. Raises TierError."""
    try:
        return decode_cluster(store.get(CLUSTER_KEY)).cluster_id
    except NotThere:
        return None


def _keys(store: BlockingStore, prefix: str) -> Iterable[str]:
    after = ""
    while True:
        page = store.list_page(prefix, after)
        yield from page.keys
        if not page.more or not page.keys:
            return
        after = page.keys[-1]
