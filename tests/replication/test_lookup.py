"""Goal: what a node says of an instance is true although its index goes on in another thread while it is asked.

Method: a real log and index, and a replicator of which only what a look-up asks is there: an active leader, without
peers. The index comes by everything else in the log right after it has answered a question, before anything else is
looked at.
"""

import asyncio
import contextlib
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from replication.api import InstanceDeleted, InstanceUnavailable
from replication.lookup import Lookups
from replication.recent import Recent, RecentRecord
from storage.index import Index
from storage.indexer import Indexer
from storage.position import LogPoint
from tests.storage.test_deletion import UID, covered, tombstone, write
from tests.storage.test_index import SAMPLES, opened, store

DATA = (SAMPLES / "CT_small.dcm").read_bytes()


class Node:
    """What a look-up needs of a replicator."""

    def __init__(self, directory: Path, *, policy: str = "refuse") -> None:
        self.disk, self.log = opened(directory / "data")
        self.index = Index.open(self.disk)
        self.readers = ThreadPoolExecutor(1)
        self.runtime = SimpleNamespace(now_ms=lambda: 1_000)
        self.coordinator = SimpleNamespace(fresh_since_ms=1_000)
        core = SimpleNamespace(conflict_policy=SimpleNamespace(value=policy), session_timeout_ms=10_000)
        self.settings = SimpleNamespace(core=core)
        self.tiering = None
        self.mender = None

    def knows(self, *, unseen: int) -> Recent:
        """unseen: up to there only the index will know what the log holds."""
        last = self.log.last_tombstone
        self.recent = Recent(self.index, lambda staged: None, last, budget_bytes=0, unseen=unseen)
        return self.recent

    @property
    def core(self) -> Any:
        situation = SimpleNamespace(committed=self.log.end, links={})
        leadership = SimpleNamespace(knows_commits=True, named=True)
        return SimpleNamespace(situation=situation, leadership=leadership, leader=None)

    def goes_on_after(self, monkeypatch: pytest.MonkeyPatch, asked: Any, name: str, *, times: int = 1) -> None:
        """The index takes in the rest of the log once it was asked so many times."""
        left = times
        question: Callable[[str], Any] = getattr(asked, name)

        def answered(uid: str) -> Any:
            nonlocal left
            found = question(uid)
            left -= 1
            if not left:
                with ThreadPoolExecutor(1) as thread:
                    thread.submit(Indexer(self.log, self.index).advance, self.log.end).result()
            return found

        monkeypatch.setattr(asked, name, answered)

    def read(self) -> bytes:
        replicator: Any = self

        async def asked() -> bytes:
            found = await Lookups(replicator).read(UID)
            return b"".join(bytes(part) for part in found.parts())

        return asyncio.run(asked())

    def point(self, sequence: int) -> LogPoint:
        found = self.log.point_at(sequence)
        assert found is not None
        return found

    def end(self) -> None:
        self.readers.shutdown()
        self.index.close()
        self.log.close()


@pytest.fixture
def node(tmp_path: Path) -> Generator[Node]:
    node = Node(tmp_path)
    yield node
    node.end()


@pytest.mark.parametrize("times", [1, 2, 3])
def test_what_the_index_comes_by_while_it_is_asked_is_not_called_absent(
    node: Node, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    store(node.log, DATA)
    node.log.sync()
    node.knows(unseen=1)
    node.goes_on_after(monkeypatch, node.index, "find", times=times)
    with contextlib.suppress(InstanceUnavailable):  # nobody can tell right now: that is true
        assert node.read() == DATA


def test_what_a_tombstone_covers_that_the_index_comes_by_meanwhile_is_not_served(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(node.log, DATA)
    node.log.sync()
    Indexer(node.log, node.index).advance(node.log.end)
    write(node.log, tombstone(covered(node.index.find(UID)[0])))
    node.knows(unseen=2)
    node.goes_on_after(monkeypatch, node.index.burials, "of")
    with pytest.raises((InstanceDeleted, InstanceUnavailable)):
        node.read()


def test_the_second_data_set_of_a_name_is_not_served_while_the_index_comes_by_the_first(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(node.log, DATA)
    store(node.log, DATA[:-1] + b"x")
    node.log.sync()
    recent = node.knows(unseen=1)
    header = node.log.read(2).header
    recent.add(RecentRecord(header, node.point(2).chain, None, UID))
    node.goes_on_after(monkeypatch, node.index, "find")
    with contextlib.suppress(InstanceUnavailable):
        assert node.read() == DATA


def test_an_index_that_is_made_anew_is_not_complete_before_it_has_what_lay_here_at_the_start(node: Node) -> None:
    """Of which less may be known to be committed when it is found to lie."""
    store(node.log, DATA)
    store(node.log, DATA[:-1] + b"x")
    node.log.sync()
    recent = node.knows(unseen=2)
    recent.doubtful = True
    recent.installed_upto(1)
    recent.doubtful = False
    Indexer(node.log, node.index).advance(node.point(1))
    assert not recent.complete
    Indexer(node.log, node.index).advance(node.point(2))
    assert recent.complete


def test_an_index_says_what_it_lacks_before_it_says_how_far_it_came(tmp_path: Path) -> None:
    """Another thread may look in between."""
    seen: list[tuple[int, frozenset[int], bool]] = []

    class Watched(Index):
        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            if name == "_applied" and value.sequence:
                seen.append((value.sequence, self.holes, self.blind))

    disk, log = opened(tmp_path / "data")
    index = Watched.open(disk)
    store(log, DATA)
    index.apply([], log.end, {1: True})
    assert seen == [(1, frozenset({1}), True)]
    index.close()
    log.close()


def test_the_rest_is_served_as_ever(node: Node) -> None:
    store(node.log, DATA)
    node.log.sync()
    node.knows(unseen=1)
    Indexer(node.log, node.index).advance(node.log.end)
    assert node.read() == DATA
