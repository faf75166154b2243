"""Waiting for another node's answer, which may be a payload of gigabytes: patience is for silence, not for its size."""

import asyncio
from typing import Final, Protocol, TypeVar

from replication.messages import Fetched, LookupAnswer, Message

T = TypeVar("T")
_ANSWERS: Final = (Fetched, LookupAnswer)


class Arrivals(Protocol):
    """What is under way from other nodes. `replication.peers.PeerNetwork` knows."""

    def arriving(self, link: int) -> Message | None:
        """The message whose payload comes over a link just now."""
        ...

    def received_bytes(self, link: int) -> int: ...


async def answer_of(future: "asyncio.Future[T]", arrivals: Arrivals, link: int, nonce: int, seconds: float) -> T:
    """Return the answer to the question `nonce`. Raises TimeoutError after `seconds` in which nothing of it came."""
    before = arrivals.received_bytes(link)
    while not future.done():
        await asyncio.wait({future}, timeout=seconds)
        message, received = arrivals.arriving(link), arrivals.received_bytes(link)
        coming = isinstance(message, _ANSWERS) and message.nonce == nonce and received > before
        if not coming and not future.done():
            raise TimeoutError
        before = received
    return future.result()
