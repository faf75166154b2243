"""Goal: what a node says of the objects that it reads is true, and stays true whatever it evicts afterwards.

Method: a real log and its index; of a replicator there is only what is asked of it. Evicting is the test's own hand.
"""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from replication.core.compaction import Reads
from replication.relearning import Relearning
from storage.index import Index
from storage.position import EpochSpan
from tests.storage.compacting import filled
from tests.storage.test_compacted_index import Archive
from tests.storage.test_index import opened


@dataclass
class Node:
    """What is asked of a replicator."""

    archive: Archive
    complete: bool = True
    permitted: int = 0
    floor: int = 1000
    told: list[Reads] = field(default_factory=list[Reads])

    @property
    def log(self) -> Any:
        return self.archive.log

    @property
    def index(self) -> Index:
        return self.archive.index

    @property
    def recent(self) -> Any:
        return SimpleNamespace(complete=self.complete)

    @property
    def promises(self) -> Any:
        return SimpleNamespace(floor=SimpleNamespace(sequence=self.floor))

    @property
    def coordinator(self) -> Any:
        return SimpleNamespace(said=self.told[-1] if self.told else None, announce=self._announce)

    def _announce(self) -> None:
        self.told.append(self.relearning.reads)

    def __post_init__(self) -> None:
        replicator: Any = self
        self.relearning = Relearning(replicator, lambda: self.permitted, ThreadPoolExecutor(1))

    def says(self) -> Reads:
        asyncio.run(self.relearning.look())
        return self.relearning.reads

    def waits(self, span: EpochSpan) -> bool:
        return asyncio.run(self.relearning.waits(span))


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """Three instances in a sealed segment; the second one is deleted, by a tombstone further behind."""
    disk, log = opened(tmp_path / "data")
    archive = Archive(disk, log, Index.open(disk))
    for number in range(3):
        archive.store(f"1.2.{number}", "1.2", "1", "DOE")
    filled(log, 30)
    found = Node(archive)
    found.permitted = archive.delete(2)
    filled(log, 30)
    archive.follow()
    return found


def test_it_promises_nothing_before_its_index_is_complete_and_its_floor_is_there(node: Node) -> None:
    upto = node.permitted
    assert node.says() == Reads(upto)
    node.floor = upto - 1
    assert node.says() == Reads(upto - 1)
    assert Node(node.archive, permitted=upto, complete=False).says() == Reads()


def test_what_it_evicted_with_such_payloads_it_names_until_it_has_none_of_them(node: Node) -> None:
    node.archive.log.evict(1)
    assert node.says() == Reads(node.permitted, (1,))
    node.permitted -= 1
    assert Node(node.archive, permitted=node.permitted).says() == Reads(node.permitted), "nobody may act upon it yet"


def test_what_is_being_evicted_counts_as_evicted(node: Node) -> None:
    node.relearning.letting_go = 1
    assert node.says() == Reads(node.permitted, (1,))
    node.relearning.letting_go = 0
    assert node.says() == Reads(node.permitted)


def test_what_holds_payloads_that_are_to_go_is_not_evicted(node: Node) -> None:
    spans = [span for segment in node.log.segments() if (span := node.log.sealed_at(segment.first)) is not None]
    assert [node.waits(span) for span in spans[:3]] == [True, False, False]
    permitted, node.permitted = node.permitted, 0
    assert not node.waits(spans[0]), "nothing is permitted to go"
    node.permitted = permitted
    node.archive.compact(2)
    assert not node.waits(spans[0])
    node.complete = False
    assert node.waits(spans[1]), "it may hold some"


def test_what_could_not_be_indexed_may_be_one_of_them(node: Node) -> None:
    node.permitted, span = 0, node.log.sealed_at(1)
    assert not node.waits(span)
    node.index.apply([], node.index.applied, {3: False})
    assert node.waits(span)
    node.log.evict(1)
    assert node.says() == Reads(0, (1,))


def test_it_says_so_once_for_each_change(node: Node) -> None:
    node.says()
    node.says()
    assert node.told == [Reads(node.permitted)]
    node.archive.log.evict(1)
    node.says()
    assert node.told == [Reads(node.permitted), Reads(node.permitted, (1,))]


def test_an_index_that_is_made_anew_meanwhile_is_not_believed(node: Node) -> None:
    begun, go = threading.Event(), threading.Event()

    def slow(*_: object) -> set[int]:
        begun.set()
        assert go.wait(10)
        return set()

    setattr(node.relearning, "_behind", slow)  # noqa: B010 - a method is replaced on purpose

    async def scene() -> None:
        look = asyncio.create_task(node.relearning.look())
        await asyncio.to_thread(begun.wait, 10)
        node.complete = False
        go.set()
        await look

    asyncio.run(scene())
    assert node.relearning.reads == Reads() and not node.told
