"""`perenne export`: out of data directories or a running cluster, into plain files, a zip or a DICOM file set."""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from rich.progress import Progress

from perenne.cli.progress import moving_bytes
from perenne.cli.status import addresses
from perenne.moving.dicomdir import FILE as DICOMDIR
from perenne.moving.dicomdir import FileSetTarget
from perenne.moving.exporting import Exported, Source, export
from perenne.moving.findings import printable
from perenne.moving.holdings import in_directory
from perenne.moving.remote import OLDER_OVER_HTTP, in_cluster
from perenne.moving.selection import Wanted, dates
from perenne.moving.targets import Files, Target, Zip
from perenne.nodeaccess import NodeAccess

_NAMED: Final = 20
_KINDS: Final = ("files", "zip", "dicomdir")


class BadUsage(Exception):
    """The text says what to give instead."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the command line asks for."""

    to: str
    kind: str
    directories: list[Path]
    url: list[str]
    cluster: Path | None
    access: NodeAccess
    study: list[str]
    series: list[str]
    instance: list[str]
    patient_id: str
    accession: str
    study_date: str
    modality: str
    everything: bool
    dry_run: bool
    as_json: bool

    @property
    def path(self) -> Path:
        return Path(self.to)

    @property
    def streamed(self) -> bool:
        """Whether the zip goes to standard output, so that nothing else may."""
        return self.to == "-"


def take_out(wishes: Wishes) -> int:
    """Export as wished; return the exit code. Raises BadUsage, BadSelection, NoCluster, NoList, NotWritten, OSError."""
    wanted = _wanted(wishes)
    _check(wishes)
    began = time.monotonic()
    with moving_bytes(quiet=wishes.as_json) as bar:
        sources = _sources(wishes, wanted, _teller(wishes, bar))
        done = export(sources, None, wanted) if wishes.dry_run else _written(wishes, wanted, sources)
    _show(done, wishes, time.monotonic() - began)
    return 1 if done.left or done.absent or not done.found else 0


def _wanted(wishes: Wishes) -> Wanted:
    first, last = dates(wishes.study_date) if wishes.study_date else ("", "")
    wanted = Wanted(
        studies=frozenset(wishes.study),
        series=frozenset(wishes.series),
        instances=frozenset(wishes.instance),
        patient_id=wishes.patient_id,
        accession=wishes.accession,
        modality=wishes.modality,
        first_date=first,
        last_date=last,
    )
    if wanted.everything != wishes.everything:
        raise BadUsage(
            "what is to be exported? Give --study UID or another choice, or --all for everything"
            if wanted.everything
            else "--all and a choice contradict each other: give one of them"
        )
    return wanted


def _check(wishes: Wishes) -> None:
    if wishes.kind not in _KINDS:
        raise BadUsage(f"--as {wishes.kind}: there are {', '.join(_KINDS)}")
    if wishes.streamed and wishes.kind != "zip":
        raise BadUsage("only a zip can go to standard output: give --as zip, or a folder")
    if not wishes.directories and not wishes.url and wishes.cluster is None:
        raise BadUsage("from where? Give --from DATA_DIR of a node, --url http://HOST:PORT of nodes, or --cluster FILE")
    for directory in wishes.directories:
        if not any((directory / "log").glob("*.tar")):
            raise BadUsage(f"{directory} holds no log: give the [node] data_dir of a node")
    if len({_cluster_of(directory) for directory in wishes.directories}) > 1:
        raise BadUsage("these data directories belong to different clusters: export them one after the other")
    if wishes.kind == "zip" and not wishes.streamed and wishes.path.exists():
        raise BadUsage(f"{wishes.to} exists: it is not overwritten; give another name")
    if wishes.kind == "dicomdir" and (wishes.path / DICOMDIR).exists():
        raise BadUsage(f"{wishes.to} holds a DICOMDIR already: it is not overwritten; give another folder")


def _cluster_of(directory: Path) -> str:
    try:
        return str(json.loads((directory / "node.json").read_text())["cluster_id"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""  # segments alone can be exported too


def _sources(wishes: Wishes, wanted: Wanted, passed: Callable[[int], None]) -> list[Source]:
    """Directories first: each instance is read where it lies, and asked of others only where it is damaged."""
    sources: list[Source] = [partial(in_directory, directory, wanted, passed) for directory in wishes.directories]
    if wishes.url or wishes.cluster is not None:
        nodes = addresses(wishes.url, wishes.cluster or Path())
        sources.append(partial(in_cluster, nodes, wishes.access, wanted, passed))
    return sources


def _written(wishes: Wishes, wanted: Wanted, sources: list[Source]) -> Exported:
    folder = Path.cwd() if wishes.streamed else wishes.path if wishes.kind != "zip" else wishes.path.absolute().parent
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".perenne-export-", dir=None if wishes.streamed else folder) as name:
        spool = Path(name)
        target: Target
        if wishes.kind == "zip":
            target = Zip(None if wishes.streamed else wishes.path, spool)
        elif wishes.kind == "dicomdir":
            target = FileSetTarget(wishes.path, spool)
        else:
            target = Files(wishes.path, spool)
        done = export(sources, target, wanted)
        if isinstance(target, FileSetTarget):
            done.invented = dict(target.invented)
        return done


def _teller(wishes: Wishes, bar: Progress) -> Callable[[int], None]:
    """The bar moves by what was walked over: segments of directories, or pages of a list."""
    sizes = [path.stat().st_size for directory in wishes.directories for path in (directory / "log").glob("*.tar")]
    task = bar.add_task("exporting", total=sum(sizes) or None)
    return lambda size: bar.advance(task, size)


def _show(done: Exported, wishes: Wishes, seconds: float) -> None:
    out = sys.stderr if wishes.streamed else sys.stdout
    if wishes.as_json:
        out.write(json.dumps(_document(done, wishes, seconds)) + "\n")
        return
    for (sequence, _), left in sorted(done.left.items())[:_NAMED]:
        maybe = " (it may not be wanted at all)" if left.unsure else ""
        out.write(f"left out: record {sequence}: {printable(left.name)}: {left.why}{maybe}\n")
    if len(done.left) > _NAMED:
        out.write(f"left out: and {len(done.left) - _NAMED} more; --json names all\n")
    for keyword, count in done.invented.items():
        out.write(f"the DICOMDIR needs a {keyword} that {count} instances do not have: invented there, not in them\n")
    if wishes.dry_run:
        out.write(f"{done.found} would be written, {len(done.left)} left out\n")
    else:
        out.write(
            f"{done.written} written ({done.bytes / 1e6:.1f} MB in {seconds:.1f} s), {done.already} there already,"
            f" {len(done.left)} left out\n"
        )
    if any(OLDER_OVER_HTTP in left.why for left in done.left.values()):
        out.write("An older content of a UID lies in the data directory of every node: give --from DATA_DIR\n")
    if any(OLDER_OVER_HTTP not in left.why for left in done.left.values()):
        out.write("Another replica may have what is damaged here: give its --from DATA_DIR, or --url, too\n")
    for uid in done.absent:
        out.write(f"nothing is there of {uid}\n")
    if not done.left and not done.found:
        out.write("nothing of what is wanted is there\n")


def _document(done: Exported, wishes: Wishes, seconds: float) -> dict[str, Any]:
    return {
        "to": wishes.to,
        "as": wishes.kind,
        "dry_run": wishes.dry_run,
        "found": done.found,
        "written": done.written,
        "already": done.already,
        "bytes": done.bytes,
        "seconds": round(seconds, 3),
        "left_out": [
            {"sequence": sequence, "name": left.name, "why": left.why, "unsure": left.unsure}
            for (sequence, _), left in sorted(done.left.items())
        ],
        "absent": done.absent,
        "invented": done.invented,
    }
