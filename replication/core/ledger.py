"""The log as the core reckons with it: what lies on disk, and what was handed to the log thread since.

The driver carries out appends later than the core decides them; the ledger closes that gap, so that a decision
never depends on how far the log thread has come.
"""

from collections import deque
from collections.abc import Sequence

from replication.core.ports import LogView
from storage.position import GENESIS, EpochSpan, LogPoint, RecordHeader, chain_after

REMEMBERED = 4096


class Ledger:
    """Points of this node's log, records still on their way to the disk included.

    The newest points are remembered beyond their durability: confirmations and commits ask for them again.
    """

    def __init__(self, log: LogView) -> None:
        self._log = log
        self._newest: deque[LogPoint] = deque()
        self.end = GENESIS
        self.durable = GENESIS
        self.resync()

    def resync(self) -> None:
        """Start over from the log itself: at the start, and after a truncation or an installed segment."""
        self._newest.clear()
        self.end = self._log.end
        self.durable = self._log.durable

    @property
    def intact(self) -> bool:
        return self._log.intact

    def damaged(self) -> frozenset[int]:
        return frozenset(self._log.damaged())

    def appended(self, header: RecordHeader, chain: bytes) -> None:
        """Note a record that the driver was told to append. It is the next one: the callers have checked."""
        self.end = LogPoint(header.position, chain)
        self._newest.append(self.end)

    def became_durable(self, point: LogPoint) -> None:
        """Note what the log thread reports; reports from before a truncation are of no interest."""
        if self.durable.sequence < point.sequence <= self.end.sequence:
            self.durable = point
            while len(self._newest) > REMEMBERED and self._newest[0].sequence <= point.sequence:
                self._newest.popleft()

    def point_at(self, sequence: int) -> LogPoint | None:
        """`GENESIS` for 0; None beyond the end."""
        if self._newest and sequence >= self._newest[0].sequence:
            index = sequence - self._newest[0].sequence
            return self._newest[index] if index < len(self._newest) else None
        return self._log.point_at(sequence) if sequence <= self.end.sequence else None

    def sealed_at(self, sequence: int) -> EpochSpan | None:
        """The records of the sealed segment that holds this one; None where it is still written, or not there yet."""
        return self._log.sealed_at(sequence)

    def holds(self, point: LogPoint) -> bool:
        """Whether this log has exactly this prefix: position and chain."""
        return self.point_at(point.sequence) == point

    def continued_by(self, header: RecordHeader, chain: bytes) -> bool:
        """Whether this record, proved by its chain, is the one that comes next: of this epoch, or of a later one."""
        end, position = self.end, header.position
        follows = position.sequence == end.sequence + 1 and position.epoch >= end.epoch
        return follows and chain == chain_after(end.chain, header)

    def epochs(self) -> Sequence[EpochSpan]:
        """Oldest first, queued records included."""
        spans = [span for span in self._log.epochs() if span.first <= self.end.sequence]
        queued: list[LogPoint] = []
        for point in reversed(self._newest):  # few are newer than the log itself
            if spans and point.sequence <= spans[-1].last:
                break
            queued.append(point)
        for point in reversed(queued):
            if not spans or spans[-1].epoch < point.epoch:
                spans.append(EpochSpan(point.epoch, point.sequence, point.sequence))
            else:
                spans[-1] = EpochSpan(point.epoch, spans[-1].first, point.sequence)
        return spans
