"""Virtual time, and an asyncio loop for each simulated process. One thread; what happens follows from the seed alone.

A process that is paused hears of nothing until it is resumed; one that is dead hears of nothing any more, at whatever
`await` it stood.
"""

import asyncio
import contextlib
import zlib
from asyncio.events import _set_running_loop  # pyright: ignore[reportPrivateUsage]
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from heapq import heappop, heappush
from random import Random
from typing import Any, Protocol, TypeVar, cast

T = TypeVar("T")


class PowerCut(BaseException):
    """The process is gone in the middle of what it did. No `except Exception` sees it."""


class Violation(AssertionError):
    """The promise, or an invariant of protocol section 14, does not hold."""


class Handle:
    """A callback that will be called; the part of asyncio.TimerHandle that is used."""

    __slots__ = ("args", "callback", "loop")

    def __init__(
        self, loop: "ProcessLoop | None", callback: Callable[..., object] | None, args: tuple[Any, ...]
    ) -> None:
        self.loop = loop
        self.callback = callback
        self.args = args

    def cancel(self) -> None:
        self.callback = None

    def cancelled(self) -> bool:
        return self.callback is None


class World:
    """The one clock, in microseconds, and everything that will happen, in order."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.now_us = 0
        self.steps = 0
        self.digest = 0
        """Of what happened when: equal for equal seeds."""
        self.trace: Callable[[str], None] | None = None
        self.violation: Violation | None = None
        """The first one found: code in between may swallow exceptions, so it is kept here."""
        self._heap: list[tuple[int, int, Handle]] = []
        self._ready: deque[Handle] = deque()
        self._count = 0
        self._current: ProcessLoop | None = None

    def enter(self, loop: "ProcessLoop | None") -> "ProcessLoop | None":
        """Make a loop the running one; return which was."""
        before, self._current = self._current, loop
        _set_running_loop(loop.real if loop is not None else None)
        return before

    def at(self, when_us: int, loop: "ProcessLoop | None", callback: Callable[..., object], *args: Any) -> Handle:
        """Call back at a time; in the order of asking among equal times."""
        handle = Handle(loop, callback, args)
        if when_us <= self.now_us:
            self._ready.append(handle)
        else:
            self._count += 1
            heappush(self._heap, (when_us, self._count, handle))
        return handle

    def after(self, delay_us: int, loop: "ProcessLoop | None", callback: Callable[..., object], *args: Any) -> Handle:
        return self.at(self.now_us + delay_us, loop, callback, *args)

    def soon(self, handle: Handle) -> None:
        self._ready.append(handle)

    def run(self, until_us: int, stop: Callable[[], bool] | None = None) -> bool:
        """Let time pass; end early, and return True, when `stop` holds after a step of time."""
        try:
            return self._run(until_us, stop)
        finally:
            self.enter(None)

    def _run(self, until_us: int, stop: Callable[[], bool] | None) -> bool:
        ready, heap = self._ready, self._heap
        while True:
            while ready:
                self._call(ready.popleft())
            if stop is not None and stop():
                return True
            if not heap or heap[0][0] > until_us:
                self.now_us = max(self.now_us, until_us)
                return False
            self.now_us, _, handle = heappop(heap)
            ready.append(handle)

    def _call(self, handle: Handle) -> None:
        callback, loop = handle.callback, handle.loop
        if callback is None:
            return
        if loop is not None:
            if loop.dead:
                return
            if loop.paused:
                loop.deferred.append(handle)
                return
            self.digest = zlib.crc32(b"%d %d" % (self.now_us, loop.number), self.digest)
            if loop is not self._current:
                self._current = loop
                _set_running_loop(loop.real)
        self.steps += 1
        try:  # noqa: SIM105 - this is the hottest place of all
            callback(*handle.args)
        except PowerCut:
            pass
        if self.violation is not None:
            raise self.violation

    def found(self, violation: Violation) -> Violation:
        """Keep a violation, and return it to be raised."""
        if self.violation is None:
            self.violation = violation
        return violation

    def say(self, who: str, what: str) -> None:
        """One line of the trace."""
        self.digest = zlib.crc32(what.encode(), self.digest)
        if self.trace is not None:
            self.trace(f"{self.now_us / 1_000_000:10.4f}  {who:<4} {what}")


class Listening(Protocol):
    """What `create_server` returns."""

    @property
    def sockets(self) -> list[Any]: ...

    def close(self) -> None: ...


class Net(Protocol):
    """Where the connections of processes run."""

    def listen(self, loop: "ProcessLoop", factory: Callable[[], Any], port: int) -> Listening: ...

    async def connect(self, loop: "ProcessLoop", factory: Callable[[], Any], port: int) -> tuple[Any, Any]: ...


class ProcessLoop:
    """The event loop of one process, as far as production code uses one.

    threads_behind_us(): how long the disk work of the present callback takes: what a thread reports comes that later.
    """

    def __init__(self, world: World, number: int, name: str, net: Net) -> None:
        self.world = world
        self.number = number
        self.name = name
        self.dead = False
        self.paused = False
        self.deferred: list[Handle] = []
        self.threads_behind_us: Callable[[], int] = lambda: 0
        self.failed: Callable[[str, BaseException | None], None] = self._no_failure
        self._tasks: list[asyncio.Task[Any]] = []
        """Every task of this process, so that none is collected half-way: `bury` ends them all, in order."""
        self._net = net

    def _no_failure(self, message: str, error: BaseException | None) -> None:
        raise Violation(f"{self.name}: {message}: {error!r}") from error

    @property
    def real(self) -> asyncio.AbstractEventLoop:
        """As what asyncio takes it for."""
        return cast(asyncio.AbstractEventLoop, self)

    def resume(self) -> None:
        """Everything that was held back happens now, in order."""
        self.paused = False
        held, self.deferred = self.deferred, []
        for handle in held:
            self.world.soon(handle)

    def bury(self) -> None:
        """End what stands at some `await` of a dead process, so that nothing of it wakes up later."""
        self.dead = True
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            self._end(task)

    def _end(self, task: "asyncio.Task[Any]") -> None:
        """Close a task; the one that stands in this very callback ends by itself."""
        if task.done():
            return
        setattr(task, "_log_destroy_pending", False)  # noqa: B010 - asyncio's own name for it
        coroutine = cast("Coroutine[Any, Any, Any]", task.get_coro())
        with contextlib.suppress(BaseException):
            coroutine.close()

    def enter(self, work: Callable[[], T]) -> T:
        """Run something as this process would, outside its own callbacks."""
        before = self.world.enter(self)
        try:
            return work()
        finally:
            self.world.enter(before)

    # asyncio

    def time(self) -> float:
        return self.world.now_us / 1_000_000

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return self.dead

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Any = None) -> Handle:
        handle = Handle(self, callback, args)
        self.world.soon(handle)
        return handle

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any, context: Any = None) -> Handle:
        if self.dead:
            raise RuntimeError("the loop is closed")
        return self.world.after(self.threads_behind_us(), self, callback, *args)

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any, context: Any = None) -> Handle:
        return self.world.after(max(0, round(delay * 1_000_000)), self, callback, *args)

    def call_at(self, when: float, callback: Callable[..., object], *args: Any, context: Any = None) -> Handle:
        return self.world.at(round(when * 1_000_000), self, callback, *args)

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self.real)

    def create_task(
        self, work: Coroutine[Any, Any, T], *, name: str | None = None, context: Any = None
    ) -> "asyncio.Task[T]":
        task = asyncio.Task(work, loop=self.real, name=name)
        if self.dead:  # asked for by what a coroutine does at its end
            self._end(task)
        else:
            self._tasks.append(task)
        return task

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not self.dead and not isinstance(error, PowerCut):
            self.failed(str(context.get("message")), error)

    def run_in_executor(self, executor: Executor | None, work: Callable[..., T], *args: Any) -> "asyncio.Future[T]":
        if executor is None:
            future: asyncio.Future[T] = self.create_future()
            future.set_result(work(*args))
            return future
        return asyncio.wrap_future(executor.submit(work, *args), loop=self.real)

    async def create_server(self, factory: Callable[[], Any], host: str, port: int) -> Listening:
        return self._net.listen(self, factory, port)

    async def create_connection(self, factory: Callable[[], Any], host: str, port: int) -> tuple[Any, Any]:
        return await self._net.connect(self, factory, port)
