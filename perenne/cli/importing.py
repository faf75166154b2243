"""`perenne import`: an existing archive into a running cluster."""

import json
import random
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvloop
from rich.progress import Progress

from perenne.cli.journal import Findings as Verdict
from perenne.cli.journal import check
from perenne.cli.progress import moving_bytes
from perenne.cli.status import addresses, described
from perenne.journal import Journal, events, owed
from perenne.moving.courier import Target
from perenne.moving.examine import Examiner
from perenne.moving.findings import HEADER_ONLY, NOT_DICOM, Findings
from perenne.moving.importing import Import
from perenne.moving.known import Known, claimed
from perenne.moving.trees import files
from perenne.nodeaccess import NodeAccess

_GIB: Final = 1 << 30


class BadUsage(Exception):
    """The text says what to give instead."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the command line asks for. rate: MB per second. largest: GiB."""

    paths: list[Path]
    to: list[str]
    cluster: Path | None
    called_ae: str
    calling_ae: str
    journal: Path
    associations: int
    rate: float | None
    verify: str
    url: list[str]
    access: NodeAccess
    largest: float
    patience: float
    work: Path | None
    same_archive: bool
    dry_run: bool
    as_json: bool

    @property
    def left_out(self) -> Path:
        return self.journal.with_name(f"{self.journal.name}.left-out")


def bring(wishes: Wishes) -> int:
    """Import as wished; return the exit code. Raises BadUsage, NoCluster, InUse, JournalUnreadable, OSError."""
    target, nodes = _target(wishes)
    _check(wishes, nodes)
    return _import(target, nodes, wishes)


def _target(wishes: Wishes) -> tuple[Target, list[str]]:
    nodes = addresses(wishes.url, Path()) if wishes.url else []
    found = [_address(one) for one in wishes.to]
    if wishes.cluster is not None:
        found = found or [("127.0.0.1", int(node["dicom_port"])) for node in described(wishes.cluster)["nodes"]]
        nodes = nodes or addresses([], wishes.cluster)
    if not found and not wishes.dry_run:
        raise BadUsage("where to? Give --to HOST:PORT of each node's DICOM port, or --cluster FILE")
    return Target(found, wishes.called_ae, wishes.calling_ae, wishes.patience), nodes


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise BadUsage(f"--to {text}: write HOST:PORT, such as n1.pacs.example:11112")
    return host.strip("[]"), int(port)


def _check(wishes: Wishes, nodes: list[str]) -> None:
    for path in wishes.paths:
        if not path.exists():
            raise BadUsage(f"{path}: there is no such file or directory")
    if wishes.verify and wishes.verify != "all" and not wishes.verify.isdecimal():
        raise BadUsage(f"--verify {wishes.verify}: write all, or a number such as 1000")
    if wishes.verify and not nodes:
        raise BadUsage("--verify needs to ask the nodes: give --url http://HOST:PORT of each, or --cluster FILE")


def _import(target: Target, nodes: list[str], wishes: Wishes) -> int:
    known = Known.of(wishes.journal) if wishes.journal.exists() else Known()
    if not wishes.same_archive:
        _check_archive(known, target, wishes)
    began = time.monotonic()
    with (
        claimed(wishes.journal),
        Findings(wishes.left_out) as found,
        tempfile.TemporaryDirectory(prefix="perenne-import-", dir=wishes.work) as folder,
        moving_bytes(quiet=wishes.as_json) as bar,
    ):
        job = Import(wishes.paths, Examiner(Path(folder), int(wishes.largest * _GIB)), known, found)
        tell = _teller(job, wishes.paths, bar)
        if wishes.dry_run:
            job.survey(tell)
        else:
            journal = Journal(wishes.journal)
            rate = None if wishes.rate is None else wishes.rate * 1e6
            try:
                uvloop.run(job.run(target, journal, associations=wishes.associations, rate=rate, tell=tell))
            finally:
                journal.close()
    seconds = time.monotonic() - began
    verdict = _verify(nodes, wishes) if wishes.verify and not wishes.dry_run else None
    _show(job, found, verdict, wishes, seconds)
    wrong = found.wrong or job.summary.stopped or (verdict is not None and verdict.exit_code)
    return 1 if wrong or not _anything(job, found) else 0


def _anything(job: Import, found: Findings) -> bool:
    """Whether there was an instance at all, or anything that was taken for one."""
    summary = job.summary
    seen = summary.acknowledged + summary.already + summary.pairs.total() + found.wrong
    return bool(seen + found.counts[HEADER_ONLY])


def _check_archive(known: Known, target: Target, wishes: Wishes) -> None:
    """What the journal says is not sent again, so it has to be this archive's. Raises BadUsage."""
    asked = {f"{host}:{port}" for host, port in target.addresses}
    if asked and known.nodes and not asked & known.nodes:
        raise BadUsage(
            f"{wishes.journal} says what {', '.join(sorted(known.nodes)[:3])} acknowledged, none of which is named by"
            " --to: what another archive has would not be sent to this one. Give another --journal; or, if these are"
            " nodes of the same archive, --same-archive"
        )


def _teller(job: Import, paths: list[Path], bar: Progress) -> Any:
    """Move the bar after each instance; how much there is in all is counted meanwhile."""
    if bar.disable:
        return lambda: None
    task = bar.add_task("importing", total=None)

    def count() -> None:
        sizes = (one[1].st_size for one in files(paths) if isinstance(one, tuple))
        bar.update(task, total=sum(sizes))

    threading.Thread(target=count, daemon=True).start()
    return lambda: bar.update(task, completed=job.progress.done)


def _verify(nodes: list[str], wishes: Wishes) -> Verdict:
    debts = owed(events(wishes.journal))
    due = [uid for uid, debt in debts.items() if debt.datasets]
    if wishes.verify != "all":
        due = random.sample(due, min(int(wishes.verify), len(due)))
    return check(nodes, {uid: debts[uid] for uid in due}, access=wishes.access)


def _show(job: Import, found: Findings, verdict: Verdict | None, wishes: Wishes, seconds: float) -> None:
    summary = job.summary
    if wishes.as_json:
        sys.stdout.write(json.dumps(_document(job, found, verdict, wishes, seconds)) + "\n")
        return
    write = sys.stdout.write
    for (sop_class, syntax), count in summary.pairs.most_common():
        write(f"would send {count:>9} of class {sop_class} in {syntax}\n")
    for one in found.named:
        write(f"{one.what}: {one.name}{' ' + one.uid if one.uid else ''}: {one.why}\n")
    if found.wrong > len(found.named):
        write(f"and {found.wrong - len(found.named)} more that were refused or unreadable: see {found.path}\n")
    for (what, why), count in found.reasons.most_common(20):
        write(f"{count:>9} {what}: {why}\n")
    if verdict is not None:
        missing = f"{len(verdict.lost)} lost, {len(verdict.altered)} altered, {len(verdict.unavailable)} unavailable"
        write(f"verified: {verdict.acknowledged} instances, {verdict.checked} answers: {missing}\n")
    write(
        f"{summary.acknowledged} acknowledged ({summary.bytes / 1e6:.1f} MB in {seconds:.1f} s),"
        f" {summary.already} acknowledged before, {found.counts[NOT_DICOM]} not DICOM,"
        f" {found.wrong} refused or unreadable\n"
    )
    if not _anything(job, found):
        write("no DICOM file is there: are these the right paths, and is everything mounted?\n")
    if summary.stopped is not None:
        write(f"stopped: {summary.stopped}\nThe same command goes on from {wishes.journal}\n")


def _document(job: Import, found: Findings, verdict: Verdict | None, wishes: Wishes, seconds: float) -> dict[str, Any]:
    summary = job.summary
    named = [{"name": one.name, "uid": one.uid, "what": one.what, "why": one.why} for one in found.named]
    return {
        "acknowledged": summary.acknowledged,
        "already": summary.already,
        "bytes": summary.bytes,
        "seconds": round(seconds, 3),
        "files": job.progress.files,
        "left_out": dict(found.counts),
        "reasons": [{"what": what, "why": why, "count": n} for (what, why), n in found.reasons.items()],
        "named": named,
        "would_send": [{"class": c, "syntax": s, "count": n} for (c, s), n in summary.pairs.items()],
        "stopped": summary.stopped,
        "verified": verdict.document() if verdict is not None else None,
        "journal": str(wishes.journal),
        "left_out_file": str(wishes.left_out),
    }
