"""`perenne check-journal`: does the archive keep what senders were told? Reads only, against any running cluster."""

import http.client
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from blake3 import blake3
from rich.progress import Progress

from perenne.cli.progress import moving_things
from perenne.journal import Owed, events, owed
from perenne.nodeaccess import NodeAccess
from storage.digest import META_LIMIT_BYTES, part10_meta_length

TIMEOUT_S: Final = 20.0
SILENCES: Final = 3
"""So many questions in turn without a word, and a node is not asked any more: each would take `TIMEOUT_S`."""
_PIECE: Final = 1024 * 1024
_NAMED: Final = 20
"""Instances named one by one in the text; `--json` names all."""


@dataclass(slots=True)
class Findings:
    """By node address. lost: it said that there is no such instance. altered: it served other bytes than were ever
    offered. returned: it served what was deleted. unavailable: it could not say; that is no broken promise, but no
    proof either."""

    acknowledged: int = 0
    deleted: int = 0
    checked: int = 0
    returned: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    lost: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    altered: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    unavailable: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    """Why nothing could be said: node and its words, counted."""

    @property
    def exit_code(self) -> int:
        """0: everything is kept. 1: something is lost, altered or back. 3: not everything could be checked, or nothing
        was to be.
        """
        unproved = self.unavailable or not self.checked
        return 1 if self.lost or self.altered or self.returned else 3 if unproved else 0

    def named(self) -> tuple[tuple[str, list[tuple[str, str]]], ...]:
        bad = (("lost", self.lost), ("altered", self.altered), ("returned", self.returned))
        return (*bad, ("unavailable", self.unavailable))

    def document(self) -> dict[str, Any]:
        rows = {name: [{"node": node, "uid": uid} for node, uid in sorted(found)] for name, found in self.named()}
        reasons = [{"node": node, "reason": why, "count": count} for (node, why), count in self.reasons.items()]
        counts = {"acknowledged": self.acknowledged, "deleted": self.deleted, "checked": self.checked}
        return {**counts, **rows, "reasons": reasons}


class _Node:
    """One connection to one node, kept open."""

    def __init__(self, address: str, access: NodeAccess) -> None:
        self._headers = access.headers
        self._connection = access.connection(address, TIMEOUT_S)
        self._silences = 0

    def digest(self, uid: str) -> tuple[int, str]:
        """Return HTTP status, 0 for no answer, and the BLAKE3 of the data set that was served, or why none was."""
        if self._silences >= SILENCES:
            return 0, f"not asked: it was silent {SILENCES} times in a row, {TIMEOUT_S:g} s each"
        try:
            found = self._ask(uid)
            self._silences = 0
            return found
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            self._silences = self._silences + 1 if isinstance(error, TimeoutError) else 0
            return 0, f"no answer: {error}"

    def _ask(self, uid: str) -> tuple[int, str]:
        self._connection.request("GET", f"/instances/{uid}", headers=self._headers)
        answer = self._connection.getresponse()
        if answer.status != 200:
            return answer.status, answer.read()[:200].decode(errors="replace").strip()
        head = answer.read(META_LIMIT_BYTES)
        hasher = blake3(memoryview(head)[part10_meta_length(head) :])
        while piece := answer.read(_PIECE):
            hasher.update(piece)
        if answer.length:  # `read` of a part says nothing of that
            raise ConnectionError(f"cut off {answer.length} bytes before its end")
        return 200, hasher.hexdigest()

    def close(self) -> None:
        self._connection.close()


def check(
    addresses: Sequence[str],
    debts: dict[str, Owed],
    progress: Progress | None = None,
    access: NodeAccess | None = None,
) -> Findings:
    """Ask every node for every acknowledged instance, and for every deleted one."""
    access = access or NodeAccess()
    due = {uid: debt for uid, debt in debts.items() if debt.datasets or debt.gone}
    gone = sum(debt.gone for debt in due.values())
    findings = Findings(acknowledged=len(due) - gone, deleted=gone)
    task = progress.add_task("checking", total=len(due) * len(addresses)) if progress is not None else None

    def one(address: str) -> Iterator[tuple[str, str, int, str]]:
        node = _Node(address, access)
        try:
            for uid in due:
                yield address, uid, *node.digest(uid)
        finally:
            node.close()

    def run(address: str) -> list[tuple[str, str, int, str]]:
        results: list[tuple[str, str, int, str]] = []
        for result in one(address):
            results.append(result)
            if progress is not None and task is not None:
                progress.advance(task)
        return results

    with ThreadPoolExecutor(len(addresses) or 1) as pool:
        for results in pool.map(run, addresses):
            _judge(findings, results, due)
    return findings


def _judge(findings: Findings, results: Iterable[tuple[str, str, int, str]], due: dict[str, Owed]) -> None:
    for address, uid, status, digest in results:
        findings.checked += 1
        if due[uid].gone:
            _judge_deleted(findings, address, uid, status, digest)
        elif status in (404, 410):
            findings.lost.append((address, uid))
            if status == 410:  # an order that this journal knows nothing of, or a fault: a person has to say which
                findings.reasons[address, "lost to this journal, since somebody deleted it there (HTTP 410)"] += 1
        elif status != 200:
            findings.unavailable.append((address, uid))
            findings.reasons[address, digest] += 1
        elif digest in due[uid].buried:
            findings.returned.append((address, uid))
        elif digest not in due[uid].offered | due[uid].datasets:
            findings.altered.append((address, uid))


def _judge_deleted(findings: Findings, address: str, uid: str, status: int, said: str) -> None:
    if status == 200:
        findings.returned.append((address, uid))
    elif status not in (404, 410):
        findings.unavailable.append((address, uid))
        findings.reasons[address, said] += 1


def show(journal: Path, addresses: Sequence[str], access: NodeAccess, *, as_json: bool) -> int:
    """Check and report; return the exit code. Raises JournalUnreadable, OSError."""
    debts = owed(events(journal))
    with moving_things(quiet=as_json) as progress:
        findings = check(addresses, debts, progress, access)
    if as_json:
        sys.stdout.write(json.dumps(findings.document()) + "\n")
        return findings.exit_code
    for name, found in findings.named():
        for node, uid in sorted(found)[:_NAMED]:
            sys.stdout.write(f"{name}: {uid} at {node}\n")
        if len(found) > _NAMED:
            sys.stdout.write(f"{name}: and {len(found) - _NAMED} more; --json names all\n")
    for (node, why), count in findings.reasons.most_common(_NAMED):
        sys.stdout.write(f"{node}: {why}: {count} times\n")
    deleted = f" {findings.deleted} deleted, {len(findings.returned)} of them back," if findings.deleted else ""
    sys.stdout.write(
        f"{findings.acknowledged} acknowledged,{deleted} {findings.checked} answers from {len(addresses)} nodes:"
        f" {len(findings.lost)} lost, {len(findings.altered)} altered, {len(findings.unavailable)} unavailable\n"
    )
    if not findings.checked:
        sys.stdout.write("nothing in the journal was acknowledged or deleted, so nothing is proved\n")
    return findings.exit_code
