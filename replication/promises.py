"""Storing what this node swears, on a thread of its own: promise, floor and change counter, and a settled tail."""

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Future

from replication.core import effects as fx
from replication.core import events as ev
from replication.opening import UNSETTLED
from replication.runtime import Runtime
from storage.metadata import PromiseFile
from storage.position import LogPoint


class Promises:
    """The promise file of one node. `feed` is called on the event loop once what was asked is on the disk."""

    def __init__(self, promise: PromiseFile, runtime: Runtime, feed: Callable[[ev.Event], None]) -> None:
        self._promise = promise
        self._thread = runtime.executor("promise", 1)
        self._loop = asyncio.get_running_loop()
        self._feed = feed

    @property
    def floor(self) -> LogPoint:
        """The floor that is on the disk. The core's own may be ahead of it, while that is being written."""
        return self._promise.value.floor

    def persist(self, effect: fx.Persist) -> None:
        def store() -> int:
            return self._promise.store(epoch=effect.promise, floor=effect.floor, counter=effect.counter).epoch

        def stored(future: Future[int]) -> None:
            error = future.exception()
            event = ev.LocalFailed(str(error)) if error else ev.PromiseStored(future.result())
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._feed, event)

        self._thread.submit(store).add_done_callback(stored)

    def settle_tail(self) -> None:
        """The log was found to hold everything committed: a restart need not ask again."""
        boot = self._promise.value.host_boot.removesuffix(UNSETTLED)
        self._thread.submit(lambda: self._promise.store(host_boot=boot))

    def close(self) -> None:
        self._thread.shutdown()
