"""A blocking store for the event loop: a bounded pool of threads, own attempts with the same key and bytes.

An attempt whose answer was lost may have been applied. So when a later one meets "already there", the object is read
back and compared byte for byte before it counts; an ETag or an echoed checksum proves nothing (pitfalls, S3).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Final, TypeVar

from blake3 import blake3

from replication.tier.bodies import Body, BodyFacts, body_facts
from replication.tier.port import (
    AlreadyThere,
    BlockingStore,
    ChecksumRefused,
    NotThere,
    ObjectDamaged,
    ObjectInfo,
    Page,
    Refused,
    SourceUnreadable,
    Stored,
    Unreachable,
    check_key,
)

_T = TypeVar("_T")
_AT_ONCE: Final = 64 * 1024
"""Digests of so much take less than the way to a thread and back."""
_COMPARED_PIECE: Final = 8 * 1024 * 1024
_LONGEST_PAUSE_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long one call goes on. After `give_up_s` no new attempt begins: the tier has failed.

    slowest_bytes_per_s: an object gets `give_up_s`, and its size at this rate besides, before it is given up whatever
    its thread does. pause_s: before the second attempt; it doubles, up to a second.
    """

    give_up_s: float = 5.0
    slowest_bytes_per_s: int = 1024 * 1024
    pause_s: float = 0.05


class RetryingStore:
    """Implements `port.ObjectStore` over one blocking store. `executor` is its own: threads that hang are its bound."""

    def __init__(self, store: BlockingStore, executor: Executor, patience: Patience | None = None) -> None:
        self._store = store
        self._executor = executor
        self._patience = patience or Patience()

    async def put(
        self, key: str, body: Body, *, crc32: int | None = None, only_if_absent: bool = True, lock: bool = False
    ) -> Stored:
        check_key(key)
        try:
            small = isinstance(body, bytes) and len(body) <= _AT_ONCE
            facts = body_facts(body) if small else await self._in_thread(lambda: body_facts(body), _size(body))
        except OSError as error:
            raise SourceUnreadable(f"what was to become {key} cannot be read: {error}") from error
        sent = facts if crc32 is None else BodyFacts(facts.size, crc32, facts.digest)

        async def attempt() -> Stored:
            try:
                put = self._store.put
                await self._in_thread(
                    lambda: put(key, body, sent, only_if_absent=only_if_absent, lock=lock), facts.size
                )
            except AlreadyThere:
                if await self._holds(key, facts):
                    return Stored.THERE_BEFORE
                raise
            return Stored.CREATED

        return await self._patiently(attempt)

    async def get(self, key: str) -> bytes:
        return await self._patiently(lambda: self._in_thread(lambda: self._store.get(key), 0))

    async def get_range(self, key: str, offset: int, size: int) -> bytes:
        if offset < 0 or size <= 0:
            raise ValueError(f"no range begins at {offset} and has {size} bytes")
        return await self._patiently(lambda: self._in_thread(lambda: self._store.get_range(key, offset, size), size))

    async def head(self, key: str) -> ObjectInfo:
        return await self._patiently(lambda: self._in_thread(lambda: self._store.head(key), 0))

    async def list(self, prefix: str, after: str = "") -> AsyncIterator[str]:
        more = True
        while more:
            page = await self._page(prefix, after)
            for key in page.keys:
                if key <= after:
                    raise _out_of_order(self._store, after, key)
                yield key
                after = key
            more = page.more and bool(page.keys)

    async def _page(self, prefix: str, after: str) -> Page:
        return await self._patiently(lambda: self._in_thread(lambda: self._store.list_page(prefix, after), 0))

    async def delete(self, key: str) -> None:
        await self._patiently(lambda: self._in_thread(lambda: self._store.delete(key), 0))

    async def close(self) -> None:
        """A thread that hangs in a dead mount is left behind."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._store.close()

    async def _holds(self, key: str, facts: BodyFacts) -> bool:
        """Read back whether the key holds exactly these bytes."""
        try:
            info = await self._in_thread(lambda: self._store.head(key), 0)
            if info.size != facts.size:
                return False
            hasher = blake3()
            for offset in range(0, facts.size, _COMPARED_PIECE):
                wanted = min(_COMPARED_PIECE, facts.size - offset)
                hasher.update(await self._in_thread(_ranged(self._store, key, offset, wanted), wanted))
        except NotThere as error:
            raise Unreachable(f"{key}: the store says that it is there, and that it is not") from error
        if hasher.digest() == facts.digest:
            return True
        if info.digest == facts.digest:
            raise ObjectDamaged(f"{key}: these very bytes were put there, and others come back")
        return False

    async def _patiently(self, attempt: Callable[[], Awaitable[_T]]) -> _T:
        """Try again while the store says "later", and once if it received something else than was sent."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience.give_up_s
        pause, refusals = self._patience.pause_s, 0
        while True:
            try:
                return await attempt()
            except Unreachable:
                if loop.time() + pause >= deadline:
                    raise
            except ChecksumRefused:
                refusals += 1
                if refusals > 1:
                    raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    async def _in_thread(self, work: Callable[[], _T], size: int) -> _T:
        """Run one blocking step. Raises Unreachable when it takes longer than patience allows for `size` bytes."""
        loop = asyncio.get_running_loop()
        limit = self._patience.give_up_s + size / self._patience.slowest_bytes_per_s
        try:
            async with asyncio.timeout(limit):
                return await loop.run_in_executor(self._executor, work)
        except TimeoutError as error:
            raise Unreachable(f"{self._store.description}: nothing came of it in {limit:.1f} s") from error


def _out_of_order(store: BlockingStore, before: str, key: str) -> Refused:
    """SeaweedFS sorts by directory: `a/b` before `a-b`. No name of keys.py is concerned."""
    step = "Give the tier a prefix of its own, and keep everything else out of it."
    return Refused(f"{store.description}: the listing has {key} behind {before}", step)


def _size(body: Body) -> int:
    return len(body) if isinstance(body, bytes) else body.size


def _ranged(store: BlockingStore, key: str, offset: int, size: int) -> Callable[[], bytes]:
    return lambda: store.get_range(key, offset, size)
