"""A bucket on paper that several machines reach, each in its own way: answers lost, requests done later, outages.

It holds a log of one record per object, and knows what was promised of it.
"""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field

from blake3 import blake3

from replication.tier.bodies import Body
from replication.tier.keys import LOG, run_name
from replication.tier.port import AlreadyThere, NotThere, ObjectInfo, Stored, Unreachable
from storage.position import GENESIS, LogPoint, LogPosition


class Broken(AssertionError):
    """The promise was broken."""


@dataclass(frozen=True, slots=True)
class Record:
    """before: the chain at the record before. name: of what was stored; empty for an EPOCH record."""

    epoch: int
    sequence: int
    before: str
    name: str

    @property
    def chain(self) -> str:
        facts = (self.epoch, self.sequence, self.before, self.name)
        return blake3(json.dumps(facts).encode()).hexdigest()

    @property
    def point(self) -> LogPoint:
        return LogPoint(LogPosition(self.epoch, self.sequence), bytes.fromhex(self.chain))

    @property
    def key(self) -> str:
        return run_name(self.sequence, self.point).key

    def encoded(self) -> bytes:
        return json.dumps([self.epoch, self.sequence, self.before, self.name]).encode()


Log = tuple[Record, ...]


def end_of(log: Log) -> LogPoint:
    return log[-1].point if log else GENESIS


def holds(log: Log, point: LogPoint) -> bool:
    return point == GENESIS or (point.sequence <= len(log) and log[point.sequence - 1].point == point)


def branch_of(bodies: Iterable[bytes]) -> Log | None:
    """What a takeover or a restore finds: from the tip back along the chain. None where no log can be proved."""
    records = {record.chain: record for record in (Record(*json.loads(body)) for body in bodies)}
    top = max(((record.epoch, record.sequence) for record in records.values()), default=(0, 0))
    tips = [record for record in records.values() if (record.epoch, record.sequence) == top]
    if len(tips) > 1:
        return None
    found: list[Record] = []
    while tips:
        found.append(tips.pop())
        if found[-1].before:
            before = records.get(found[-1].before)
            if before is None:
                return None
            tips.append(before)
    return tuple(reversed(found))


@dataclass
class World:
    """One bucket, and what was promised of it."""

    chance: random.Random
    objects: dict[str, bytes] = field(default_factory=dict[str, bytes])
    promised: set[str] = field(default_factory=set[str])
    done: Counter[str] = field(default_factory=Counter[str])
    late: list["asyncio.Task[None]"] = field(default_factory=list["asyncio.Task[None]"])
    unknown: float = 0.0
    """How often an answer is lost."""
    stored: int = 0

    async def pause(self) -> None:
        """Others go on: mostly for a moment, now and then for long."""
        steps = self.chance.randint(50, 400) if self.chance.random() < 0.01 else self.chance.randint(0, 3)
        for _ in range(steps):
            await asyncio.sleep(0)

    def new_id(self) -> str:
        return f"{self.chance.getrandbits(64):016x}"

    def bodies(self) -> list[bytes]:
        return [body for key, body in self.objects.items() if key.startswith(LOG)]

    def judge(self, when: str) -> None:
        branch = branch_of(self.bodies())
        missing = self.promised - {record.name for record in branch or ()}
        if missing:
            raise Broken(f"{when}: a restore lacks {sorted(missing)}")


class Reach:
    """`port.ObjectStore`: the bucket as one machine reaches it, or does not."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.away = False

    async def _asked(self) -> None:
        await self._world.pause()
        if self.away:
            raise Unreachable("it is away")

    async def _applied_late(self, key: str, data: bytes) -> None:
        for _ in range(self._world.chance.randint(0, 300)):
            await asyncio.sleep(0)
        self._world.objects.setdefault(key, data)

    async def put(
        self, key: str, body: Body, *, crc32: int | None = None, only_if_absent: bool = True, lock: bool = False
    ) -> Stored:
        assert isinstance(body, bytes), "nothing large is put here"
        world = self._world
        await self._asked()
        if world.chance.random() < world.unknown:
            world.late.append(asyncio.ensure_future(self._applied_late(key, body)))
            raise Unreachable("no answer")
        if world.objects.setdefault(key, body) != body:
            raise AlreadyThere(key)
        await self._asked()
        return Stored.CREATED

    async def get(self, key: str) -> bytes:
        await self._asked()
        if key not in self._world.objects:
            raise NotThere(key)
        return self._world.objects[key]

    async def get_range(self, key: str, offset: int, size: int) -> bytes:
        return (await self.get(key))[offset : offset + size]

    async def head(self, key: str) -> ObjectInfo:
        return ObjectInfo(len(await self.get(key)), None)

    async def list(self, prefix: str, after: str = "") -> AsyncIterator[str]:
        await self._asked()
        found = sorted(key for key in self._world.objects if key.startswith(prefix))
        await self._asked()
        for key in found:
            yield key

    async def delete(self, key: str) -> None:
        await self._asked()
        self._world.objects.pop(key, None)

    async def close(self) -> None: ...
