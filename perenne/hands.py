"""Processes that a restore works with, one interpreter each: what proves records takes all of one processor's time."""

import asyncio
import multiprocessing
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Final

from perenne.config import TierConfig
from perenne.restoring import patient_with
from replication.restore.segments import LARGE_BYTES, HandsLost, assembled
from replication.tier.keys import Run
from storage.assembling import Assembled

MOST: Final = 4
"""More of them wait for the tier and for the disk."""
_ENDING_S: Final = 1.0

_Task = tuple[Run, Path, str, int]


def spare_processors() -> int:
    return min(MOST, len(os.sched_getaffinity(0)))


class _Hand:
    """One process. It ends when its pipe does: also when the restore was killed."""

    def __init__(self, tier: TierConfig) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, tier), name="perenne-restore", daemon=True)
        resource_tracker.ensure_running()  # which would let Ctrl-C through again, in between
        held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process.start()  # with the mask: Ctrl-C waits until `_work` says that it is not meant
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
        theirs.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None, "it was started"
        return self._process.pid

    def do(self, task: _Task) -> Assembled | str:
        """Raises HandsLost."""
        try:
            self._pipe.send(task)
            answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join(_ENDING_S)  # its pipe ends a moment before it does
            raise HandsLost(f"a process that restores segments ended (exit code {self._process.exitcode})") from error
        assert isinstance(answer, (Assembled, str)), "what `_work` sends"
        return answer

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


class ProcessHands:
    """Implements `replication.restore.segments.Hands`. Processes are started when they are first wanted."""

    def __init__(self, tier: TierConfig, count: int, large_bytes: int = LARGE_BYTES) -> None:
        self._tier = tier
        self._count = count
        self._large_bytes = large_bytes
        self._threads = ThreadPoolExecutor(count, "perenne-restore-hand")
        self._idle: SimpleQueue[_Hand] = SimpleQueue()
        self._all: list[_Hand] = []

    @property
    def count(self) -> int:
        return self._count

    @property
    def large_bytes(self) -> int:
        return self._large_bytes

    def processes(self) -> list[int]:
        """Their ids."""
        return [hand.pid for hand in self._all]

    async def assemble(self, run: Run, root: Path, staged: str, segment_bytes: int) -> Assembled | str:
        if len(self._all) < self._count:
            self._all.append(_Hand(self._tier))
            self._idle.put(self._all[-1])
        task = (run, root, staged, segment_bytes)
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._do, task)

    def _do(self, task: _Task) -> Assembled | str:
        hand = self._idle.get()
        try:
            return hand.do(task)
        finally:
            self._idle.put(hand)

    def close(self) -> None:
        for hand in self._all:
            hand.kill()
        self._threads.shutdown(cancel_futures=True)


def _work(pipe: Connection, tier: TierConfig) -> None:
    """What a process does: one object after another, until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the restore, which ends this one
    with asyncio.Runner() as runner:
        store = patient_with(tier)
        while True:
            try:
                run, root, staged, segment_bytes = pipe.recv()
            except EOFError:
                break
            made = runner.run(assembled(store, run, root, staged, segment_bytes))
            try:
                pipe.send(made)
            except BrokenPipeError:
                break  # the restore was killed meanwhile
        runner.run(store.close())
