"""Many who read from one node, again and again, whatever happens to it: an answer is right, or it is none."""

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final

from perenne.journal import Owed, digest_of
from perenne.local.cluster import LocalNode
from storage.digest import part10_meta_length
from tests.faults.arena import Arena, FaultFailed
from tests.faults.judge import debts_of

READERS: Final = 4


def kept(arena: Arena) -> dict[str, Owed]:
    """What is owed since this cluster began, by UID, each under one data set alone: nobody deletes any of it."""
    debts = debts_of(arena.operator.journal_path)
    return {uid: debt for uid, debt in debts.items() if debt.datasets and len(debt.offered) == 1}


@contextmanager
def read_from(arena: Arena, node: LocalNode, paused: Callable[[], bool] = lambda: False) -> Generator[None]:
    """Read all of it there, in any order, until this ends. Raises FaultFailed at a lie, or when nothing was read."""
    owed = sorted((uid, *debt.datasets) for uid, debt in kept(arena).items())
    if not owed:
        raise FaultFailed("nothing was acknowledged that could be read")
    stopping = threading.Event()
    lies: list[str] = []
    right = [0] * READERS

    def read(own: int) -> None:
        at = own
        while not stopping.wait(0.002):
            if paused():
                continue
            at = (at + 7919) % len(owed)
            uid, digest = owed[at]
            status, content = node.get(f"/instances/{uid}", timeout=10)
            if status in (404, 410):
                lies.append(f"{node.id} answered {status} for the acknowledged {uid}")
            elif status == 200 and digest_of(memoryview(content)[part10_meta_length(content) :]) != digest:
                lies.append(f"{node.id} served {uid} altered")
            right[own] += status == 200

    threads = [threading.Thread(target=read, args=(own,), daemon=True) for own in range(READERS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
    arena.operator.done["reads where segments are evicted"] += sum(right)
    if lies:
        raise FaultFailed(f"{len(lies)} lies: {lies[:3]}")
    if not sum(right):
        raise FaultFailed(f"{node.id} answered nothing at all")
