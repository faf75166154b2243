"""A whole segment that comes in: into a file beside the log, and proved while the rest of it is still on its way."""

import asyncio
from concurrent.futures import Executor, Future
from typing import Final

from storage.disk import Disk
from storage.install import ProvedSegment, SegmentProof

SYNC_BYTES: Final = 64 * 1024 * 1024
"""After so many more the file is synced while the next ones come in."""


class ArrivingSegment:
    """Written on the event loop; read and proved by `prover`, brought to the disk by `syncer`, which do one thing after
    the other each.

    Each of the three takes about as long as the others: in turn, a node would be filled half as fast.
    """

    def __init__(self, name: str, disk: Disk, proof: SegmentProof, prover: Executor, syncer: Executor) -> None:
        """name: of the file, relative to the data directory."""
        self._name = name
        self._disk = disk
        self._proof = proof
        self._prover = prover
        self._syncer = syncer
        self._file = disk.open(name, create=True)
        self._size = self._synced = 0
        self._settled: Future[None] | None = None
        self._asked = False
        self._unwanted = False
        self._failure: Exception | None = None

    def write(self, data: memoryview) -> None:
        self._file.pwrite([data], self._size)
        self._size += len(data)
        if not self._asked:
            self._asked = True
            self._prover.submit(self._advance)

        if self._size - self._synced >= SYNC_BYTES:
            self._synced = self._size
            self._syncer.submit(self._file.sync)  # after a failure the next one fails as well

    def arrived(self) -> None:
        """Nothing more comes."""
        self._settled = self._syncer.submit(self._settle)

    async def proved(self) -> ProvedSegment:
        """The outcome, once all of it is checked and durable. Raises what `SegmentProof` raises, SegmentPoisoned."""
        assert self._settled is not None, "it has arrived"
        finished = self._prover.submit(self._finish)
        await asyncio.wrap_future(self._settled)
        return await asyncio.wrap_future(finished)

    def discard(self) -> None:
        """Nobody wants it, whole or not: its file goes."""
        self._unwanted = True
        self._syncer.submit(self._file.close)
        self._prover.submit(self._remove)

    def _settle(self) -> None:
        try:
            self._file.sync()
        finally:
            self._file.close()

    def _advance(self) -> None:
        self._asked = False  # before a look at the size: what comes from here on asks again
        if self._failure is None and not self._unwanted:
            try:
                self._proof.advance(self._size)
            except Exception as error:  # noqa: BLE001 - whoever asks for the outcome gets it
                self._failure = error

    def _finish(self) -> ProvedSegment:
        if self._failure is not None:
            raise self._failure
        return self._proof.finish()

    def _remove(self) -> None:
        self._proof.close()
        self._disk.remove(self._name)
