"""Where the bytes of one arriving instance go: hashed and staged in the loop while it is small, in a thread
once it is large, so that other associations are served while a file is written."""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Final

from storage.staging import Receiving, Staged

_BUFFER: Final = 1024 * 1024


class Intake:
    """Wraps a `Receiving`. Ends with `finish` or `abandon`; each at most once, not both at once.

    background_bytes: size beyond which writes move to the executor. on_progress: called in the loop whenever
    `backlogged` or `failure` may have changed.
    """

    def __init__(
        self, receiving: Receiving, executor: Executor, background_bytes: int, on_progress: Callable[[], None]
    ) -> None:
        self._receiving = receiving
        self._executor = executor
        self._background_bytes = background_bytes
        self._on_progress = on_progress
        self._full: deque[memoryview] = deque()
        self._spare: list[bytearray] = []
        self._filling = memoryview(b"")
        self._room = 0
        self._pump: asyncio.Task[None] | None = None
        self.size = 0
        self.failure: Exception | None = None

    @property
    def backlogged(self) -> bool:
        """Whether the writer is behind by more than one buffer; then the socket should rest."""
        return len(self._full) > 1

    @property
    def in_background(self) -> bool:
        return self.size > self._background_bytes

    def write(self, data: memoryview) -> None:
        """Take the next bytes of the data set; they are copied. Raises what `Receiving.write` raises."""
        self.size += len(data)
        if self.size <= self._background_bytes:
            self._receiving.write(data)
            return
        while data:
            if not self._room:
                self._filling = memoryview(self._spare.pop() if self._spare else bytearray(_BUFFER))
                self._room = _BUFFER
            taken = min(self._room, len(data))
            start = _BUFFER - self._room
            self._filling[start : start + taken] = data[:taken]
            self._room -= taken
            data = data[taken:]
            if not self._room:
                self._queue(self._filling)

    async def finish(self) -> Staged:
        """Return the whole payload. Raises the failure of an earlier write, after abandoning."""
        if self._room:
            self._queue(self._filling[: _BUFFER - self._room])
            self._room = 0
        if self._pump is not None:
            await self._pump
        if self.failure is not None:
            failure = self.failure
            await self.abandon()
            raise failure
        if not self.in_background:
            return self._receiving.finish()
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._receiving.finish)

    async def abandon(self) -> None:
        """Give everything back, once the thread has let go of it."""
        self._full.clear()
        self._room = 0
        if self._pump is not None:
            await self._pump
        if self.in_background:
            # Removing a file syncs its directory.
            await asyncio.get_running_loop().run_in_executor(self._executor, self._receiving.abandon)
        else:
            self._receiving.abandon()

    def abandon_now(self) -> None:
        """The same for an intake that never went to the background."""
        self._receiving.abandon()

    def _queue(self, filled: memoryview) -> None:
        if self.failure is not None:
            return
        self._full.append(filled)
        if self._pump is None or self._pump.done():
            self._pump = asyncio.get_running_loop().create_task(self._write_queued())

    async def _write_queued(self) -> None:
        loop = asyncio.get_running_loop()
        while self._full:
            filled = self._full[0]
            try:
                await loop.run_in_executor(self._executor, self._receiving.write, filled)
            except Exception as error:  # told by `failure`, to be answered when the message ends
                self.failure = error
                self._full.clear()
            else:
                if self._full:
                    self._full.popleft()
                owner = filled.obj
                if isinstance(owner, bytearray) and len(self._spare) < 2:
                    self._spare.append(owner)
            self._on_progress()
