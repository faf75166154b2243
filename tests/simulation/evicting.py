"""Eviction on a simulated node: the production `Evictor`, its pace, and its threads' way to the bucket.

A thread that waits for the bucket is a job that takes as long; what it fetches is what lies there at that moment.
"""

import asyncio
from typing import TYPE_CHECKING

from replication.evicting import Eviction, Evictor, TierSource
from replication.tier.port import NotThere, ObjectStore, Unreachable
from tests.simulation.bucket import LATENCY_US, PATIENCE_US
from tests.simulation.world import Violation

if TYPE_CHECKING:
    from tests.simulation.process import Process

ALWAYS = Eviction(below_free_bytes=1 << 60, cache_bytes=1 << 20)
NEVER = Eviction()
PAUSE_S = (0.05, 1.5)


class SimSource(TierSource):
    """Reads from the bucket without a thread. The event loop does not wait for it here either."""

    def __init__(self, process: "Process", store: ObjectStore, cache_bytes: int) -> None:
        super().__init__(store, cache_bytes)
        self._process = process

    def may_not_wait(self) -> bool:
        return not self._process.working

    def fetch(self, key: str, offset: int, size: int) -> bytes:
        process = self._process
        bucket, chance = process.bucket.bucket, process.world.random
        if not process.working:
            raise process.world.found(Violation(f"the event loop of {process.name} waits for the bucket"))
        if not bucket.up or process.number in bucket.cut_off:
            process.disk.cost_us += chance.randrange(1000, PATIENCE_US)
            raise Unreachable("the bucket does not answer")
        process.disk.cost_us += chance.randrange(LATENCY_US // 2, LATENCY_US * 2) + bucket.slow_us
        if key not in bucket.objects:
            raise NotThere(f"{key} is not there")
        bucket.ranges += 1
        return bucket.objects[key][offset : offset + size]


def evictor_of(process: "Process", store: ObjectStore | None, *, on: bool) -> Evictor:
    """on: evict whatever may go."""
    return Evictor(process.replicator, ALWAYS if on else NEVER, store, lambda s, size: SimSource(process, s, size))


async def keep_evicting(process: "Process", evictor: Evictor) -> None:
    """As the production loop does, at another pace."""
    while not process.replicator.closed:
        await asyncio.sleep(process.world.random.uniform(*PAUSE_S))
        if await evictor.evict_one():
            process.observer.evicted(process)
