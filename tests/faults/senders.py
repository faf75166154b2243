"""Modalities that never stop: each stores at any node, writes into the journal what it was told, and goes on.

Some instances are sent again, some at once at two nodes, some with other bytes under the same UID.
"""

import asyncio
import random
import threading
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from perenne.bench.load import CT, EXPLICIT_LE
from perenne.dimse.sender import AssociationAborted, AssociationRejected, Sender
from perenne.journal import ACKNOWLEDGED, BROKEN, OFFERED, REFUSED, Journal, digest_of
from perenne.local.cluster import AE_TITLE, LocalNode
from tests.integration.rig import made

ANSWER_S: Final = 25.0
PAUSE_S: Final = 0.04
"""Between two stores of one sender: what the judge has to go through after each round is what they stored."""
_SIZES: Final = (0, 1_000, 9_000, 40_000, 200_000)
Made = tuple[str, bytes]


@dataclass(frozen=True, slots=True, eq=False)
class Kept:
    """An instance that was acknowledged, and offered with one data set only. size: of its pixels."""

    number: int
    size: int
    uid: str
    digest: str


def instance(number: int, size: int) -> Made:
    """The same bytes for the same arguments."""
    return made(number, filler=number.to_bytes(8, "big") * (size // 8))


class Senders:
    """So many associations, in a thread of their own, until `stop`."""

    def __init__(
        self,
        nodes: Sequence[LocalNode],
        journal: Journal,
        *,
        first: int,
        count: int,
        seed: int,
        pause_s: float = PAUSE_S,
    ) -> None:
        self._nodes = nodes
        self._journal = journal
        self._chance = random.Random(seed)
        self._next = first
        self._stopping = False
        self._count = count
        self._pause_s = pause_s
        self._acknowledged_at: list[float] = []
        self._kept: dict[str, Kept] = {}
        self._again: list[Kept] = []
        self._lock = threading.Lock()
        self.paused = False
        self.refused = 0
        self.broken = 0
        self._thread = threading.Thread(target=lambda: asyncio.run(self._all()), name="senders", daemon=True)
        self._thread.start()

    @property
    def acknowledged(self) -> int:
        return len(self._acknowledged_at)

    @property
    def next_number(self) -> int:
        return self._next

    def some_acknowledged(self) -> Kept | None:
        """Any acknowledged instance that was offered with one data set only, and that nobody has begun to delete."""
        with self._lock:
            return self._chance.choice(list(self._kept.values())) if self._kept else None

    def keeps(self, kept: Kept) -> bool:
        """Whether nobody has begun to delete it since."""
        with self._lock:
            return self._kept.get(kept.uid) is kept

    def take(self, count: int) -> list[Kept]:
        """So many of them, or fewer, to be deleted: from now on they are not kept."""
        with self._lock:
            found = self._chance.sample(list(self._kept.values()), min(count, len(self._kept)))
            for kept in found:
                del self._kept[kept.uid]
        return found

    def give(self, kept: Iterable[Kept]) -> None:
        """Acknowledged by others, in the journal already."""
        with self._lock:
            for one in kept:
                self._kept[one.uid] = Kept(one.number, one.size, one.uid, one.digest)

    def send_again(self, kept: Iterable[Kept]) -> None:
        """What was deleted is sent again, sooner or later."""
        with self._lock:
            self._again += kept

    @contextmanager
    def calm(self) -> Generator[None]:
        """Nothing is stored or read meanwhile."""
        self.paused = True
        try:
            yield
        finally:
            self.paused = False

    def longest_pause(self, since: float) -> float:
        """Seconds between two acknowledgements, at most, since a monotonic time."""
        times = [since, *(t for t in self._acknowledged_at if t > since), time.monotonic()]
        return max(later - earlier for earlier, later in zip(times, times[1:], strict=False))

    def stop(self) -> None:
        """Finish what is under way."""
        self._stopping = True
        self._thread.join()

    async def _all(self) -> None:
        await asyncio.gather(*(self._send() for _ in range(self._count)))

    def _made(self) -> tuple[Made, Kept | None]:
        """The next instance, and what is kept of it once it is acknowledged: where its bytes are the only ones."""
        chance = self._chance
        with self._lock:
            again = self._again.pop() if self._again and chance.random() < 0.15 else None
            known = list(self._kept.values())
        if again is not None:
            return instance(again.number, again.size), again
        self._next += 1
        if known and chance.random() < 0.04:
            number = chance.choice(known).number
            return made(number, filler=bytes(1_000 + number % 7)), None  # other bytes under a known UID
        size = chance.choice(_SIZES)
        uid, data = instance(self._next, size)
        return (uid, data), Kept(self._next, size, uid, digest_of(data))

    async def _send(self) -> None:
        while not self._stopping:
            if self.paused:
                await asyncio.sleep(0.05)
                continue
            node = self._chance.choice(self._nodes)
            try:
                async with asyncio.timeout(ANSWER_S):
                    sender = await Sender.associate(
                        node.host, node.dicom_port, [(CT, [EXPLICIT_LE])], called_ae=AE_TITLE
                    )
                async with sender:
                    await self._some(sender, node)
            except (OSError, AssociationAborted, AssociationRejected, TimeoutError):
                self.broken += 1
                await asyncio.sleep(0.05)

    async def _some(self, sender: Sender, node: LocalNode) -> None:
        for _ in range(self._chance.randrange(1, 40)):
            if self._stopping or self.paused:
                return
            made_one, kept = self._made()
            twice = self._chance.random() < 0.05
            for _ in range(2 if twice else 1):
                await self._one(sender, node, made_one, kept)
            await asyncio.sleep(self._pause_s)

    async def _one(self, sender: Sender, node: LocalNode, made_one: Made, kept: Kept | None) -> None:
        uid, data = made_one
        digest = digest_of(data)
        self._journal.note(OFFERED, uid, dataset=digest, node=node.id)
        try:
            async with asyncio.timeout(ANSWER_S):
                answer = await sender.store(CT, uid, EXPLICIT_LE, [data])
        except (OSError, AssociationAborted, TimeoutError):
            self._journal.note(BROKEN, uid, dataset=digest, node=node.id)
            raise
        if answer.status == 0:
            self._journal.note(ACKNOWLEDGED, uid, dataset=digest, node=node.id)
            self._acknowledged_at.append(time.monotonic())
            if kept is not None:
                self.give([kept])
        else:
            self._journal.note(REFUSED, uid, dataset=digest, node=node.id, status=answer.status)
            self.refused += 1
            await asyncio.sleep(0.05)
