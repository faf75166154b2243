"""Group commit: one thread takes everything queued, appends all of it, syncs once, and says
what is durable.
"""

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from time import perf_counter
from typing import Final, TypeVar

from msgspec import Struct

from storage.errors import LogContradiction, SegmentPoisoned, StorageError
from storage.log import Log
from storage.position import LogPoint, RecordHeader
from storage.reader import BytesPayload, Payload
from storage.timing import Timings

T = TypeVar("T")
GROUP_BYTES: Final = 32 * 1024 * 1024
"""A group is closed beyond this, so that the first record does not wait for gigabytes queued after it."""


class _Record(Struct, frozen=True):
    """tombstone: of a stub, which has no payload."""

    header: RecordHeader
    chain: bytes
    payload: Payload
    tombstone: int = 0


class CommitQueue(ABC):
    """What waits for the log. Whoever calls `work_once` owns the log's writing methods meanwhile; callbacks run there
    and must return quickly.

    on_durable(point): everything up to `point` is on stable storage. on_failure(error): the records that were
    queued are not; nothing more is accepted until `resume` (after StorageFull) or a new process.
    """

    def __init__(
        self, log: Log, on_durable: Callable[[LogPoint], None], on_failure: Callable[[StorageError], None]
    ) -> None:
        self._log = log
        self._on_durable = on_durable
        self._on_failure = on_failure
        self._queue: deque[_Record | Callable[[], None]] = deque()
        self._failed = False
        self._poisoned = False
        self.fsync = Timings()
        """How long the medium takes for a group, on the thread that waits for it."""
        self.failures = 0
        """Groups that could not be written or synced."""

    def submit(self, header: RecordHeader, chain: bytes, payload: Payload) -> None:
        """Queue the next record. `payload` must stay valid until it is reported durable or failed."""
        self._put(_Record(header, chain, payload))

    def submit_stub(self, header: RecordHeader, chain: bytes, tombstone: int) -> None:
        """Queue what is left of a deleted instance."""
        self._put(_Record(header, chain, BytesPayload(b""), tombstone))

    def call(self, work: Callable[[], T]) -> "Future[T]":
        """Run `work` in the log thread, after what was submitted before it is durable."""
        future: Future[T] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except Exception as error:  # noqa: BLE001 - it belongs to whoever asked
                    future.set_exception(error)

        self._put(run)
        return future

    def resume(self) -> "Future[None]":
        """Accept records again after a failure that left the log whole, such as StorageFull."""

        def reset() -> None:
            self._failed = False

        return self.call(reset)

    @abstractmethod
    def close(self) -> None:
        """Commit what is queued and take nothing more. The log stays open."""

    @abstractmethod
    def _put(self, item: _Record | Callable[[], None]) -> None:
        """Queue an item and see to it that `work_once` is called."""

    def work_once(self) -> None:
        """Commit one group, or make one call."""
        try:
            self._commit_group()
        except Exception as error:  # noqa: BLE001 - a bug here must fence the node, not silence its log thread
            self._failed = True
            self._on_failure(StorageError(f"the log thread failed: {type(error).__name__}: {error}"))
        if self._log.failure is not None and not self._poisoned:
            # Whatever it came by, a call or a group that also lacked room: else a node would go on that cannot write.
            self._failed = self._poisoned = True
            self.failures += 1
            self._on_failure(SegmentPoisoned(f"the log stopped writing: {self._log.failure}"))

    def _commit_group(self) -> None:
        size = appended = 0
        failure: StorageError | None = None
        while self._queue and size < GROUP_BYTES and not callable(self._queue[0]):
            record = self._queue.popleft()
            assert isinstance(record, _Record)
            if self._failed:
                continue
            try:
                if record.tombstone:
                    self._log.append_stub(record.header, record.chain, record.tombstone)
                else:
                    self._log.append(record.header, record.chain, record.payload)
                size += record.payload.size
                appended += 1
            except StorageError as error:
                failure = error
                self._failed = True
        if appended:
            try:
                self._on_durable(self._synced())
            except StorageError as error:
                failure = failure or error
                self._failed = True
        if failure is not None and self._log.failure is None:
            self.failures += 1
            self._on_failure(failure)
        if self._queue and callable(self._queue[0]) and not appended:
            work = self._queue.popleft()
            assert not isinstance(work, _Record)
            work()

    def _synced(self) -> LogPoint:
        began = perf_counter()
        try:
            return self._log.sync()
        finally:
            self.fsync.took(perf_counter() - began)


class GroupCommit(CommitQueue):
    """A queue with a thread of its own: the log thread."""

    def __init__(
        self, log: Log, on_durable: Callable[[LogPoint], None], on_failure: Callable[[StorageError], None]
    ) -> None:
        super().__init__(log, on_durable, on_failure)
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="perenne-log", daemon=True)
        self._thread.start()

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _put(self, item: _Record | Callable[[], None]) -> None:
        with self._changed:
            if self._closing:
                raise LogContradiction("the log thread is closing")
            self._queue.append(item)
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closing)
                if not self._queue:
                    return
            self.work_once()
