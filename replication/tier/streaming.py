"""Reading an object of any size in flat memory: range after range through a `RunReader`, the next one under way."""

import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import Executor
from typing import Final

from replication.tier.contents import Link, RunReader
from replication.tier.port import ObjectStore

RANGE_BYTES: Final = 4 * 1024 * 1024
"""What is asked for at a time; a reader holds twice that."""


async def stream_run(
    store: ObjectStore, key: str, reader: RunReader, executor: Executor
) -> AsyncGenerator[list[Link], None]:
    """Yield the records of the object `key` as they come to their end, each proved; `reader` says which they must be.

    executor: where they are hashed. The last step proves that there is nothing else. Close it when it is left early.
    Raises TierError, and what `RunReader` raises.
    """
    loop = asyncio.get_running_loop()
    offset = 0
    ahead = asyncio.ensure_future(store.get_range(key, 0, RANGE_BYTES))
    try:
        while True:
            data = await ahead
            offset += len(data)
            more = len(data) == RANGE_BYTES
            if more:
                ahead = asyncio.ensure_future(store.get_range(key, offset, RANGE_BYTES))
            yield await loop.run_in_executor(executor, reader.feed, data)
            if not more:
                reader.finish()
                return
    finally:
        ahead.cancel()
        ahead.add_done_callback(_forget)


def _forget(task: "asyncio.Future[bytes]") -> None:
    """What came of a range that nobody waits for is of no interest."""
    if not task.cancelled():
        task.exception()
