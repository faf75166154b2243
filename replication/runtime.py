"""What the driver takes from the machine: clocks, threads, chance. The simulator puts virtual ones in their place."""

import random
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Protocol

from storage.errors import StorageError
from storage.log import Log
from storage.position import LogPoint
from storage.writer import CommitQueue, GroupCommit


class Runtime(Protocol):
    """One process's view of its machine."""

    def now_ms(self) -> int:
        """Monotonic milliseconds."""
        ...

    def wall_us(self) -> int:
        """Unix microseconds: for record times and hints only."""
        ...

    def chance(self) -> float:
        """A number in [0, 1), so that nodes do not act in step."""
        ...

    def executor(self, name: str, threads: int) -> Executor: ...

    def commit_queue(
        self, log: Log, on_durable: Callable[[LogPoint], None], on_failure: Callable[[StorageError], None]
    ) -> CommitQueue: ...


class ThreadRuntime:
    """The real machine."""

    def now_ms(self) -> int:
        return int(time.monotonic() * 1000)

    def wall_us(self) -> int:
        return int(time.time() * 1_000_000)

    def chance(self) -> float:
        return random.random()

    def executor(self, name: str, threads: int) -> Executor:
        return ThreadPoolExecutor(threads, f"perenne-{name}")

    def commit_queue(
        self, log: Log, on_durable: Callable[[LogPoint], None], on_failure: Callable[[StorageError], None]
    ) -> CommitQueue:
        return GroupCommit(log, on_durable, on_failure)
