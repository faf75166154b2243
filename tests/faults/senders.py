"""Modalities that never stop: each stores at any node, writes into the journal what it was told, and goes on.

Some instances are sent again, some at once at two nodes, some with other bytes under the same UID.
"""

import asyncio
import random
import threading
import time
from collections.abc import Sequence
from typing import Final

from perenne.bench.load import CT, EXPLICIT_LE
from perenne.dimse.sender import AssociationAborted, AssociationRejected, Sender
from perenne.journal import ACKNOWLEDGED, BROKEN, OFFERED, REFUSED, Journal, digest_of
from perenne.local.cluster import AE_TITLE, LocalNode
from tests.integration.rig import made

ANSWER_S: Final = 25.0
PAUSE_S: Final = 0.015
"""Between two stores of one sender: what the judge has to go through after each round is what they stored."""
_SIZES: Final = (0, 1_000, 9_000, 40_000, 200_000)
Made = tuple[str, bytes]


class Senders:
    """So many associations, in a thread of their own, until `stop`."""

    def __init__(self, nodes: Sequence[LocalNode], journal: Journal, *, first: int, count: int, seed: int) -> None:
        self._nodes = nodes
        self._journal = journal
        self._chance = random.Random(seed)
        self._next = first
        self._stopping = False
        self._count = count
        self._acknowledged_at: list[float] = []
        self._kept: list[tuple[str, str]] = []
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

    def some_acknowledged(self) -> tuple[str, str] | None:
        """Any acknowledged UID that was offered with one data set only, and the digest of that."""
        kept = self._kept
        return self._chance.choice(kept) if kept else None

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

    def _made(self) -> tuple[Made, bool]:
        """The next instance, and whether its bytes are the only ones under its UID."""
        chance = self._chance
        self._next += 1
        kind = chance.random()
        if kind < 0.04 and self._kept:
            number = int(chance.choice(self._kept)[0].rsplit(".", 1)[1])
            return made(number, filler=bytes(1_000 + number % 7)), False  # other bytes under a known UID
        size = chance.choice(_SIZES)
        return made(self._next, filler=self._next.to_bytes(8, "big") * (size // 8)), True

    async def _send(self) -> None:
        while not self._stopping:
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
            if self._stopping:
                return
            instance, only = self._made()
            twice = self._chance.random() < 0.05
            for _ in range(2 if twice else 1):
                await self._one(sender, node, instance, only)
            await asyncio.sleep(PAUSE_S)

    async def _one(self, sender: Sender, node: LocalNode, instance: Made, only: bool) -> None:
        uid, data = instance
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
            if only:
                self._kept.append((uid, digest))
        else:
            self._journal.note(REFUSED, uid, dataset=digest, node=node.id, status=answer.status)
            self.refused += 1
            await asyncio.sleep(0.05)
