"""The simulated bucket, and a process's way to it: the production port `ObjectStore`.

Faults: an outage, a node cut off from it, slowness; a put that fails and was applied all the same, or is applied later,
when nobody waits for it any more (also when a scenario says so); a put that is refused; a listing that shows what was
there a while ago; and, within what the promise covers, an object that is lost.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from blake3 import blake3

from replication.tier.bodies import Body
from replication.tier.contents import Link, read_run
from replication.tier.keys import form_of, parse_run
from replication.tier.port import NotThere, ObjectInfo, Refused, Stored, Unreachable
from tests.simulation.world import ProcessLoop, Violation, World

LATENCY_US = 3000
PATIENCE_US = 900_000
"""How long the production client tries before it says that the bucket does not answer; here with attempts left out."""


@dataclass
class BucketWeights:
    """Chances per request, in [0, 1). late_ms: how late a put may still be applied."""

    unanswered: float = 0.0
    late: float = 0.0
    refused: float = 0.0
    stale: float = 0.0
    late_ms: int = 4000


@dataclass
class Bucket:
    """What truly lies there. chains: by the chain of each record, the keys of the objects that hold it.

    harm: what was done to it that the promise must cover; empty while everything that it confirmed is there.
    """

    world: World
    objects: dict[str, bytes] = field(default_factory=dict[str, bytes])
    put_us: dict[str, int] = field(default_factory=dict[str, int])
    gone_us: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    """When what was deleted was put, and when it was deleted: a stale listing still shows it."""
    contents: dict[str, bytes] = field(default_factory=dict[str, bytes])
    """Of every name that was ever used: it has one content for ever."""
    packed: int = 0
    """Sealed segments put, and objects that were deleted."""
    deleted: int = 0
    ranges: int = 0
    """Parts of evicted segments that were read."""
    chains: dict[bytes, set[str]] = field(default_factory=dict[bytes, set[str]])
    up: bool = True
    away_us: int = 0
    """How far it is, beside LATENCY_US: puts overlap where that is far (ADR 0015)."""
    slow_us: int = 0
    cut_off: set[int] = field(default_factory=set[int])
    weights: BucketWeights = field(default_factory=BucketWeights)
    holding: set[int] = field(default_factory=set[int])
    held: dict[str, bytes] = field(default_factory=dict[str, bytes])
    """Records that the nodes in `holding` put wait here, unanswered, until `let_through`."""
    harm: str = ""
    lost: set[bytes] = field(default_factory=set[bytes])
    """Chains of the records in the objects that were lost: of these the bucket had a copy, and of no others."""
    struck: Callable[[str, int], None] = lambda kind, node: None
    lean: Callable[[str, int | None], float] = lambda kind, node: 0.0
    """What is to be added to the chance of a fault at a request of a node."""
    stubbed: Callable[[str, Link], None] = lambda key, link: None
    """Told of each stub that is put."""
    deleting: Callable[[str], None] = lambda key: None
    """Told of each object that is about to be deleted."""

    def apply(self, key: str, data: bytes) -> None:
        """A put takes effect."""
        run = parse_run(key)
        if self.contents.setdefault(key, data) != data:
            raise self.world.found(Violation(f"{key} is put twice, with other bytes"))
        if key in self.objects:
            return
        self.objects[key] = data
        self.put_us[key] = self.world.now_us
        if run is not None:
            links = read_run(run, data)
            if form_of(link.sequence for link in links if link.tombstone) != run.form:
                raise self.world.found(Violation(f"{key} has other stubs in it than its name says"))
            for link in links:
                self.chains.setdefault(link.chain, set()).add(key)
                if link.tombstone:
                    self.stubbed(key, link)

    def let_through(self) -> None:
        """What was held is done, late."""
        self.holding.clear()
        while self.held:
            self.apply(*self.held.popitem())

    def remove(self, key: str) -> None:
        """A delete takes effect. What is deleted must be held by another object, record by record."""
        if key in self.objects:
            self.deleting(key)
        data = self.objects.pop(key, None)
        run = parse_run(key)
        if data is None or run is None:
            return
        self.deleted += 1
        self.gone_us[key] = (self.put_us.pop(key), self.world.now_us)
        for link in read_run(run, data):
            self.chains[link.chain].discard(key)
            if not self.had(link.chain):
                raise self.world.found(Violation(f"{key} is deleted, and nothing else has record {link.sequence}"))

    def listing(self, since_us: int) -> list[str]:
        """What lay there at some time."""
        there = [key for key, put_us in self.put_us.items() if put_us < since_us and key in self.objects]
        gone = [key for key, (put_us, gone_us) in self.gone_us.items() if put_us < since_us <= gone_us]
        return sorted({*there, *gone})

    def lose(self, key: str) -> None:
        """An object is gone, and nobody is told."""
        del self.objects[key]
        for chain, keys in self.chains.items():
            if key in keys:
                keys.discard(key)
                self.lost.add(chain)
        self.harm = "lost an object"

    def heal(self) -> None:
        """Every fault ends; what was lost stays lost."""
        self.up, self.slow_us = True, 0
        self.cut_off.clear()
        self.holding.clear()
        weights = self.weights
        weights.unanswered = weights.late = weights.refused = weights.stale = 0.0

    def holds_dataset(self, dataset: bytes) -> bool:
        """Whether some object has these bytes."""
        return any(dataset in data for data in self.objects.values())

    def holds(self, chain: bytes) -> bool:
        """Whether some object has the record of this chain."""
        return bool(self.chains.get(chain))

    def had(self, chain: bytes) -> bool:
        """The same, or an object that had it was lost: such a loss is what the other copies are for."""
        return self.holds(chain) or chain in self.lost


class BucketClient:
    """One process's client."""

    def __init__(self, bucket: Bucket, loop: ProcessLoop) -> None:
        self.bucket = bucket
        self._loop = loop

    async def _way(self) -> None:
        """To the bucket and back. Raises Unreachable."""
        bucket, chance = self.bucket, self.bucket.world.random
        if not bucket.up or self._loop.number in bucket.cut_off:
            await asyncio.sleep(chance.randrange(1000, PATIENCE_US) / 1_000_000)
            raise Unreachable("the bucket does not answer")
        await asyncio.sleep(
            (chance.randrange(LATENCY_US // 2, LATENCY_US * 2) + bucket.away_us + bucket.slow_us) / 1_000_000
        )
        if not bucket.up or self._loop.number in bucket.cut_off:
            raise Unreachable("the bucket stopped answering")

    async def put(
        self, key: str, body: Body, *, crc32: int | None = None, only_if_absent: bool = True, lock: bool = False
    ) -> Stored:
        assert isinstance(body, bytes), "there are no files to put here"
        bucket, world = self.bucket, self.bucket.world
        weights, drawn = bucket.weights, world.random.random()
        await self._way()
        if self._loop.number in bucket.holding and parse_run(key) is not None:
            bucket.held[key] = body
            await asyncio.sleep(PATIENCE_US / 1_000_000)
            raise Unreachable("no answer came")
        node = self._loop.number
        unanswered = weights.unanswered + bucket.lean("a put applies without an answer", node)
        late = weights.late + bucket.lean("a put applies late", node)
        if drawn < unanswered:
            bucket.struck("a put applies without an answer", node)
            bucket.apply(key, body)
            raise Unreachable("no answer came")
        drawn -= unanswered
        if drawn < late:
            bucket.struck("a put applies late", node)
            delay = world.random.randrange(10_000, weights.late_ms * 1000)
            world.after(delay, None, bucket.apply, key, body)
            raise Unreachable("no answer came")
        drawn -= late
        if drawn < weights.refused + bucket.lean("a put is refused", node):
            bucket.struck("a put is refused", node)
            raise Refused("the bucket refuses")
        there = key in bucket.objects
        bucket.apply(key, body)
        bucket.packed += lock
        return Stored.THERE_BEFORE if there else Stored.CREATED

    async def get(self, key: str) -> bytes:
        await self._way()
        if key not in self.bucket.objects:
            raise NotThere(f"{key} is not there")
        return self.bucket.objects[key]

    async def get_range(self, key: str, offset: int, size: int) -> bytes:
        return (await self.get(key))[offset : offset + size]

    async def head(self, key: str) -> ObjectInfo:
        data = await self.get(key)
        return ObjectInfo(len(data), blake3(data).digest())

    async def list(self, prefix: str, after: str = "") -> AsyncIterator[str]:
        bucket, world = self.bucket, self.bucket.world
        await self._way()
        since_us = world.now_us + 1
        if world.random.random() < bucket.weights.stale + bucket.lean("a listing is stale", self._loop.number):
            bucket.struck("a listing is stale", self._loop.number)
            since_us = world.now_us - world.random.randrange(2_000_000)
        for key in bucket.listing(since_us):
            if key.startswith(prefix) and key > after:
                yield key

    async def delete(self, key: str) -> None:
        bucket, world = self.bucket, self.bucket.world
        await self._way()
        if world.random.random() < bucket.weights.late + bucket.lean("a delete applies late", self._loop.number):
            bucket.struck("a delete applies late", self._loop.number)
            world.after(world.random.randrange(10_000, bucket.weights.late_ms * 1000), None, bucket.remove, key)
            raise Unreachable("no answer came")
        bucket.remove(key)

    async def close(self) -> None:
        return
