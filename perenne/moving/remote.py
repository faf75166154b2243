"""What a running cluster holds of what is wanted, asked over HTTP: the list of one node, the bytes of any."""

import http.client
import json
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final

from perenne.moving.content import PIECE, Unreadable
from perenne.moving.holdings import Holding, Missing
from perenne.moving.selection import Wanted
from perenne.nodeaccess import NodeAccess
from storage.record import instance_path

OLDER_OVER_HTTP: Final = "it is sound, but not the current content of its UID, and nodes give no other over HTTP"
_TIMEOUT_S: Final = 30.0
_BEHIND_S: Final = 60.0
_ELECTION_S: Final = 10.0
_PAGE: Final = 1000


class NoList(Exception):
    """No node can say what there is; the text says why."""


def in_cluster(
    nodes: Sequence[str], access: NodeAccess, wanted: Wanted, passed: Callable[[int], None]
) -> Iterator[Holding | Missing]:
    """The leader is asked first: its list is complete. passed: told how many bytes each page names. Raises NoList."""
    node = _who_lists(nodes, access)
    after, uids = 0, set[str]()
    upto = int(_page(node, access, wanted, 0, 0)["committed"])
    _wait_indexed(node, access, wanted, upto)
    while True:
        page = _page(node, access, wanted, after, _PAGE)
        for row in page["instances"]:
            yield _holding(row, nodes, access, again=row["uid"] in uids)
            uids.add(row["uid"])
        passed(sum(row["size"] for row in page["instances"]))
        if page["next"] is None:
            break
        after = int(page["next"])
    for sequence in page["holes"]:
        yield Missing(sequence, sequence, f"record {sequence}", "damaged: its node cannot say whose it is", unsure=True)


def _holding(row: dict[str, Any], nodes: Sequence[str], access: NodeAccess, *, again: bool) -> Holding:
    sequence = int(row["sequence"])
    path = instance_path(row["study"], row["series"], row["uid"], sequence if again else None)
    places = [partial(_bytes, node, access, row["uid"]) for node in nodes]
    other = partial(what_came, nodes, access, row["uid"])
    return Holding(sequence, path, int(row["size"]), bytes.fromhex(row["digest"]), places, other)


def what_came(nodes: Sequence[str], access: NodeAccess, uid: str, digest: bytes) -> str:
    """What it means that a node gave other bytes than those that were listed."""
    if any(digest in contents(node, access, uid) for node in nodes):
        return OLDER_OVER_HTTP
    return "its bytes do not match its digest"


def contents(node: str, access: NodeAccess, uid: str) -> frozenset[bytes]:
    """The digests of all that a node holds under one UID, which may have come with several contents.

    Empty when it does not say.
    """
    query = urllib.parse.urlencode({"instance": uid, "limit": str(_PAGE)})
    try:
        status, body = _get(node, access, f"/instances?{query}")
        if status != 200:
            return frozenset()
        rows: list[dict[str, Any]] = json.loads(body)["instances"]
        return frozenset(bytes.fromhex(row["digest"]) for row in rows)
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return frozenset()


def _who_lists(nodes: Sequence[str], access: NodeAccess) -> str:
    """The leader, which is waited for, since an election is soon over; another node's list may lack the newest."""
    until = time.monotonic() + _ELECTION_S
    while True:
        answers: list[str] = []
        for node in nodes:
            try:
                if _get(node, access, "/leader")[0] == 200:
                    return node
                answers.append(node)
            except (OSError, http.client.HTTPException):
                continue
        if not answers:
            raise NoList(f"none of {', '.join(nodes)} answers: give http://HOST:PORT of nodes that run")
        if time.monotonic() > until:
            return answers[0]
        time.sleep(0.2)


def _wait_indexed(node: str, access: NodeAccess, wanted: Wanted, upto: int) -> None:
    """The index follows the log: wait until it names all that was committed when we came."""
    until = time.monotonic() + _BEHIND_S
    while (indexed := int(_page(node, access, wanted, 0, 0)["indexed"])) < upto:
        if time.monotonic() > until:
            raise NoList(f"{node}: its index is at record {indexed} of {upto}: try again when it has caught up")
        time.sleep(0.2)


def _page(node: str, access: NodeAccess, wanted: Wanted, after: int, limit: int) -> dict[str, Any]:
    names = {
        "study": sorted(wanted.studies),
        "series": sorted(wanted.series),
        "instance": sorted(wanted.instances),
        "patient_id": [wanted.patient_id],
        "accession": [wanted.accession],
        "modality": [wanted.modality],
        "from": [wanted.first_date],
        "to": [wanted.last_date],
        "after": [str(after)],
        "limit": [str(limit)],
    }
    query = urllib.parse.urlencode([(name, value) for name, values in names.items() for value in values if value])
    try:
        status, body = _get(node, access, f"/instances?{query}")
        if status != 200:
            raise NoList(f"{node}: {status} {body[:200].decode(errors='replace').strip()}")
        found: dict[str, Any] = json.loads(body)
        return found
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NoList(f"{node} does not say what it holds: {error}") from error


def _get(node: str, access: NodeAccess, path: str) -> tuple[int, bytes]:
    connection = access.connection(node, _TIMEOUT_S)
    try:
        connection.request("GET", path, headers=access.headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _bytes(node: str, access: NodeAccess, uid: str) -> Iterator[bytes]:
    """Raises Unreadable, OSError, HTTPException."""
    connection = access.connection(node, _TIMEOUT_S)
    try:
        connection.request("GET", f"/instances/{uid}", headers=access.headers)
        answer = connection.getresponse()
        if answer.status != 200:
            raise Unreadable(f"{node}: {answer.status} {answer.read(200).decode(errors='replace').strip()}")
        while piece := answer.read(PIECE):
            yield piece
    finally:
        connection.close()
