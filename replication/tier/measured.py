"""The tier with a stopwatch: how long each operation takes, with all its attempts, and how many come to nothing.

An operation that is given up counts as well, with the time that was spent on it: a store that hangs shows.
"""

from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final

from replication.tier.bodies import Body
from replication.tier.port import AlreadyThere, NotThere, ObjectInfo, ObjectStore, Stored, TierError
from storage.timing import TimingReport, Timings

OPERATIONS: Final = ("put", "get", "head", "list", "delete")


@dataclass(slots=True)
class Measured:
    """One kind of operation."""

    timings: Timings = field(default_factory=Timings)
    errors: int = 0

    @contextmanager
    def one(self) -> Generator[None]:
        began = perf_counter()
        try:
            yield
        except (AlreadyThere, NotThere):
            raise  # the store answered
        except TierError:
            self.errors += 1
            raise
        finally:
            self.timings.took(perf_counter() - began)


class MeasuredStore:
    """Implements `port.ObjectStore` over another one; for one event loop."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._done = {name: Measured() for name in OPERATIONS}

    def report(self) -> dict[str, tuple[TimingReport, int]]:
        """By operation: how long it took, and how many came to nothing."""
        return {name: (done.timings.report(), done.errors) for name, done in self._done.items()}

    async def put(
        self, key: str, body: Body, *, crc32: int | None = None, only_if_absent: bool = True, lock: bool = False
    ) -> Stored:
        with self._done["put"].one():
            return await self._store.put(key, body, crc32=crc32, only_if_absent=only_if_absent, lock=lock)

    async def get(self, key: str) -> bytes:
        with self._done["get"].one():
            return await self._store.get(key)

    async def get_range(self, key: str, offset: int, size: int) -> bytes:
        with self._done["get"].one():
            return await self._store.get_range(key, offset, size)

    async def head(self, key: str) -> ObjectInfo:
        with self._done["head"].one():
            return await self._store.head(key)

    async def list(self, prefix: str, after: str = "") -> AsyncIterator[str]:
        """Its time is that of the store, without what the caller does between two keys. Left early, it counts too."""
        keys, spent = self._store.list(prefix, after), 0.0
        done = self._done["list"]
        try:
            while True:
                began = perf_counter()
                try:
                    key = await anext(keys)
                except StopAsyncIteration:
                    return
                finally:
                    spent += perf_counter() - began
                yield key
        except TierError:
            done.errors += 1
            raise
        finally:
            done.timings.took(spent)

    async def delete(self, key: str) -> None:
        with self._done["delete"].one():
            await self._store.delete(key)

    async def close(self) -> None:
        await self._store.close()
