"""Chains compared between replicas: one equal chain proves that everything before it is equal too.

Each node says its chains at the ends of its committed segments. A difference there contradicts the protocol itself (no
rule allows it), so it is an alarm for a person, never something to be mended by a guess about who is right.
"""

import asyncio
import itertools
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from replication.core.values import ReplicaId
from replication.messages import Chains, ChainsAnswer, Point, to_point

if TYPE_CHECKING:
    from replication.replicator import Replicator

_LOG: Final = logging.getLogger("perenne.comparing")
ANSWER_S: Final = 10.0
POINTS: Final = 256
"""The newest segments' ends: where the last of them agree, all before do."""


class Comparer:
    """One node's questions. differs: by replica, the first record at which it was found to have another chain."""

    def __init__(self, replicator: "Replicator") -> None:
        self._replicator = replicator
        self._nonces = itertools.count(1)
        self._asked: dict[int, tuple[int, asyncio.Future[Sequence[Point] | None]]] = {}
        self.differs: dict[ReplicaId, int] = {}

    async def compare(self) -> None:
        """Ask every connected node."""
        replicator = self._replicator
        situation = replicator.core.situation
        own = await self._points(self._sequences())
        for replica in sorted({link.peer.id for link in situation.links.values()}):
            link = situation.link_to(replica)
            theirs = await self._ask(link.number, [point.sequence for point in own]) if link is not None else None
            if not theirs:
                continue  # nothing was said, so nothing is known to have changed
            known = {point.sequence: point for point in own}
            wrong = [point.sequence for point in theirs if known.get(point.sequence, point) != point]
            self.differs.pop(replica, None)
            if wrong:
                self.differs[replica] = min(wrong)
                facts = {"peer": replica, "at": min(wrong)}
                _LOG.critical("two logs differ at or below the commit point: keep both disks", extra=facts)

    async def answer(self, link: int, message: Chains) -> None:
        """Another node asks."""
        points = await self._points(message.sequences[:POINTS])
        self._replicator.network.send(link, ChainsAnswer(message.nonce, points))

    def answered(self, message: ChainsAnswer) -> None:
        asked = self._asked.get(message.nonce)
        if asked is not None and not asked[1].done():
            asked[1].set_result(message.points)

    def link_down(self, link: int) -> None:
        for asked, future in self._asked.values():
            if asked == link and not future.done():
                future.set_result(None)

    def _sequences(self) -> list[int]:
        committed = self._replicator.core.situation.committed.sequence
        ends = [one.last for one in self._replicator.log.segments() if one.last is not None and one.last < committed]
        return [*ends[-(POINTS - 1) :], committed] if committed else []

    async def _points(self, sequences: Sequence[int]) -> list[Point]:
        """This log's chains at these records, as far as they are committed and can be read."""
        replicator = self._replicator
        committed = replicator.core.situation.committed.sequence
        wanted = [sequence for sequence in sequences if 0 < sequence <= committed]

        def look() -> list[Point]:
            return [to_point(point) for point in map(replicator.log.point_at, wanted) if point is not None]

        return await asyncio.get_running_loop().run_in_executor(replicator.readers, look)

    async def _ask(self, link: int, sequences: list[int]) -> Sequence[Point] | None:
        nonce = next(self._nonces)
        future: asyncio.Future[Sequence[Point] | None] = asyncio.get_running_loop().create_future()
        self._asked[nonce] = (link, future)
        try:
            self._replicator.network.send(link, Chains(nonce, sequences))
            async with asyncio.timeout(ANSWER_S):
                return await future
        except TimeoutError:
            return None
        finally:
            del self._asked[nonce]
