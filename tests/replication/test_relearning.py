"""Goal: what a node says of the objects that it reads is true, and stays true whatever it evicts afterwards.

Method: a real log and its index; of a replicator there is only what is asked of it. Evicting is the test's own hand.
"""

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from replication.coordination import codec
from replication.coordination.port import LiveNode, NodeRegistration
from replication.core.compaction import Reads
from replication.core.events import TierOutgrown
from replication.core.values import Identity, ReplicaId
from replication.relearning import Relearning
from storage.index import Index
from storage.position import GENESIS, EpochSpan
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
    registered: dict[ReplicaId, NodeRegistration] = field(default_factory=dict[ReplicaId, NodeRegistration])
    others: dict[ReplicaId, Reads] = field(default_factory=dict[ReplicaId, Reads])

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
        said = self.told[-1] if self.told else None
        return SimpleNamespace(said=said, announce=self._announce, registrations=self._registrations, live=self._live)

    @property
    def me(self) -> Any:
        return SimpleNamespace(id="a")

    async def _registrations(self) -> Any:
        return self.registered

    async def _live(self) -> Any:
        """As they were registered first."""
        return {
            one: SimpleNamespace(reads=reads, identity=SimpleNamespace(incarnation=f"disk {one}"))
            for one, reads in self.others.items()
        }

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


def test_who_is_of_another_incarnation_than_he_says_is_away(node: Node) -> None:
    a, b, c = ReplicaId("a"), ReplicaId("b"), ReplicaId("c")
    node.registered = {one: NodeRegistration(one, f"disk {one}", GENESIS) for one in (a, b, c)}
    node.registered[c] = replace(node.registered[c], retired=True)
    node.others = {b: Reads(node.permitted), c: Reads(node.permitted)}
    node.says()
    told = asyncio.run(node.relearning.outgrown({1: 1}, node.permitted))
    assert told == TierOutgrown(((1, 1),)), "who is retired and gone keeps nothing"
    told = asyncio.run(node.relearning.outgrown({1: 1}, node.permitted + 1))
    assert told.read == {1} and told.readers.endswith("what they evicted: a b c") and not told.kept
    node.registered[b] = replace(node.registered[b], incarnation="another disk")
    told = asyncio.run(node.relearning.outgrown({1: 1}, node.permitted))
    assert told.kept.endswith("what they evicted: b")


def test_a_version_that_does_not_say_promises_nothing() -> None:
    live = LiveNode(Identity(ReplicaId("a"), "i", "b"), "h", 1, 2, 3, "AE", "1", GENESIS, True, Reads(7, (1,), 9))
    facts = json.loads(codec.encode_live(live))
    assert codec.decode_live(json.dumps(facts).encode()) == live
    del facts["reads"]
    assert codec.decode_live(json.dumps(facts).encode()) == replace(live, reads=Reads())


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
