"""Goal: Ctrl-C in `repair DIR` and `reindex`, wherever it comes, is one true line, and the same command goes on.

Method: a real SIGINT at each of the writes that the verbs make, one run for each, and the same command again.
"""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from perenne.cli import reindex as reindexing
from perenne.cli.reindex import NEW, reindex
from perenne.cli.repair import repair_offline
from perenne.cli.verify import verify_directory
from replication.opening import open_store
from storage.disk import RealDisk, RealFile
from storage.index import FILE, Index
from storage.indexer import Indexer
from storage.log import Log
from storage.metadata import PromiseFile
from storage.walk import Found, Walk
from tests.cli.two_nodes import two_nodes
from tests.storage.log_helpers import IDENTITY, lose

EVERY_STEP = [(RealFile, "pwrite"), (RealDisk, "rename")]


pytestmark = pytest.mark.usefixtures("ctrl_c")


@pytest.fixture
def nodes(tmp_path: Path) -> tuple[Path, Path]:
    """Two nodes with the same three segments of four records."""
    return two_nodes(tmp_path, [3000] * 4)


def before(patch: pytest.MonkeyPatch, owner: type, name: str, what: Callable[..., None]) -> None:
    """Do something before each of these steps."""
    step = getattr(owner, name)

    def done(*arguments: object, **more: object) -> object:
        what()
        return step(*arguments, **more)

    patch.setattr(owner, name, done)


class Presses:
    """Ctrl-C before or after the step of this number."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int, *, after: bool) -> None:
        self.steps = 0
        self._at, self._after = at, after
        for owner, name in EVERY_STEP:
            patch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, step: Callable[..., object]) -> Callable[..., object]:
        def counted(*arguments: object, **more: object) -> object:
            self.steps += 1
            if self.steps == self._at and not self._after:
                os.kill(os.getpid(), signal.SIGINT)
            result = step(*arguments, **more)
            if self.steps == self._at and self._after:
                os.kill(os.getpid(), signal.SIGINT)
            return result

        return counted


def segments(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (directory / "log").glob("*.tar")}


def records(directory: Path) -> list[tuple[bytes, bytes]]:
    """Chain and payload of each, proved; nothing besides them is wrong."""
    walk, found = Walk(directory, verify=True), list[tuple[bytes, bytes]]()
    for path in walk.segments():
        for one in walk.segment(path):
            assert isinstance(one, Found) and one.damage is None, one
            found.append((one.chain, b"".join(map(bytes, one.payload.pieces()))))
    assert not list(walk.finish())
    return found


def damage_everywhere(one: Path) -> None:
    """A payload, a segment of which nothing can be believed, and a record in both of its places."""
    log = Log.open(RealDisk(one), IDENTITY, host_rebooted=False, spares=0)[0]
    entry = log.entry(2)
    log.close()
    assert entry is not None
    with (one / "log/000000000001.tar").open("r+b") as file:
        file.seek(entry.offset + 1500)
        file.write(b"rot")
    lose(one, 10)
    with (one / "log/000000000005.tar").open("r+b") as file:
        file.write(b"rot" * 16_000)


def damage_the_tail(one: Path) -> None:
    lose(one, 12)


def damage_two_of_the_tail(one: Path) -> None:
    """More than one record that nobody can tell apart: the whole segment is replaced."""
    lose(one, 11)
    lose(one, 12)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("damage", [damage_everywhere, damage_the_tail])
def test_an_interrupted_repair_says_what_it_leaves_and_goes_on(
    nodes: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    *,
    after: bool,
) -> None:
    one, other = nodes
    damage(one)
    damaged, number, said = segments(one), 0, set[str]()
    while True:
        number += 1
        directory = tmp_path / f"try-{number}"
        shutil.copytree(one, directory)
        with pytest.MonkeyPatch.context() as patch:
            presses = Presses(patch, number, after=after)
            code = repair_offline(directory, other=other, tier=None, dry_run=False, as_json=False)
        told = capsys.readouterr()
        if presses.steps < number:
            assert code == 0, told.out
            break
        assert (code, told.out) == (130, ""), (number, told.out)
        (line,) = told.err.splitlines()
        assert line.startswith("perenne: interrupted; ")
        said.add(line)
        assert ("nothing was changed" in line) <= (segments(directory) == damaged), number
        again = repair_offline(directory, other=other, tier=None, dry_run=False, as_json=False)
        assert again == 0, (number, capsys.readouterr().out)
        assert records(directory) == records(other), number  # the marks of a group may be as a crash leaves them
        capsys.readouterr()
        shutil.rmtree(directory)
    assert number > 3
    assert any("1 records repaired" in line for line in said), said


@pytest.mark.parametrize("damage", [damage_the_tail, damage_two_of_the_tail])
def test_a_repair_that_was_killed_anywhere_leaves_no_log_that_ends_too_early_and_may_lead(
    nodes: tuple[Path, Path], tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """Such a node may have confirmed what it lacks now; nobody else may be there to say so."""
    one, other = nodes
    promise = PromiseFile(RealDisk(one))
    promise.store(host_boot="boot")
    promise.close()
    damage(one)
    as_killed = list[Path]()

    def kept(*_: object) -> None:
        as_killed.append(tmp_path / f"killed-{len(as_killed)}")
        shutil.copytree(one, as_killed[-1])

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in EVERY_STEP:
            before(patch, owner, name, kept)
        assert repair_offline(one, other=other, tier=None, dry_run=False, as_json=False) == 0
    ends = set[int]()
    for directory in as_killed:
        store = open_store(RealDisk(directory), IDENTITY, host_boot="boot", direct=False, spares=0)
        whole = store.log.end.sequence == 12 and store.log.tail is None
        assert whole or store.log.tail is not None or store.host_rebooted, directory
        ends.add(store.log.end.sequence)
        store.log.close()
    assert len(ends) > 1


def test_a_repair_that_was_interrupted_while_it_read_changed_nothing(
    nodes: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = nodes
    damage_everywhere(one)
    before = segments(one)

    def pressed(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("perenne.cli.repair.survey", pressed)
    assert repair_offline(one, other=other, tier=None, dry_run=False, as_json=True) == 130
    assert capsys.readouterr().err == "perenne: interrupted; nothing was changed: the same command begins anew\n"
    assert segments(one) == before


def test_an_interrupted_reindex_says_what_it_leaves_and_goes_on(
    nodes: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Within the build, within the exchange, and after it."""
    one, other = nodes
    monkeypatch.setattr("perenne.cli.reindex.CHUNK", 5)
    assert reindex(other, dry_run=False, as_json=True) == 0
    for name in (FILE, f"{FILE}-wal"):
        (one / name).write_bytes(b"garbage")
    capsys.readouterr()

    def pressed_in(owner: object, name: str, call: int = 1) -> tuple[int, str]:
        """The exit code, and what is said, when the key comes after that call."""
        step, calls = getattr(owner, name), 0

        def counted(*arguments: object, **more: object) -> object:
            nonlocal calls
            calls += 1
            result = step(*arguments, **more)
            if calls == call:
                os.kill(os.getpid(), signal.SIGINT)
            return result

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, name, counted)
            code = reindex(one, dry_run=False, as_json=True)
        told = capsys.readouterr()
        assert told.out == ""
        return code, told.err

    anew = "perenne: interrupted; the index is as it was: the same command begins anew\n"
    assert pressed_in(Log, "point_at") == (130, anew)
    assert (one / FILE).read_bytes() == b"garbage" and not (one / NEW).exists()
    kept = f"perenne: interrupted; what is indexed so far is kept in {one / NEW}: the same command goes on there\n"
    assert pressed_in(Indexer, "advance", 2) == (130, kept)
    assert (one / FILE).read_bytes() == b"garbage"
    partly = Index.open(RealDisk(one), NEW)
    assert partly.applied.sequence == 10
    partly.close()
    assert pressed_in(RealDisk, "remove") == (130, kept), "the old one is gone, the new one not yet in its place"
    code, told = pressed_in(reindexing, "swap")
    assert (code, told) == (
        130,
        "perenne: interrupted; the new index was complete, and is in its place: nothing is left to be done\n",
    )
    indexes = [Index.open(RealDisk(directory)) for directory in nodes]
    assert indexes[0].everything() == indexes[1].everything()
    assert [index.applied.sequence for index in indexes] == [12, 12]
    for index in indexes:
        index.close()
    assert verify_directory(one, deep=True, study="", as_json=False) == 0
