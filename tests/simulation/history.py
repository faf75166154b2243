"""What truly happened, as nobody inside the cluster can see it: every record ever numbered, and what was committed.

The checks compare nodes with this, and never nodes with each other.
"""

from dataclasses import dataclass, field

from storage.position import GENESIS, LogPoint, LogPosition, RecordHeader, RecordKind
from storage.record import encode_header
from tests.simulation.world import Violation


@dataclass
class History:
    """By chain, since a chain names one record on one branch.

    committed: the chain of each committed sequence; only ever grows. committed_at: the newest record by the digest of
    its data set, or of a tombstone. content: data sets by their digest.
    """

    headers: dict[bytes, RecordHeader] = field(default_factory=dict[bytes, RecordHeader])
    before: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    at: dict[LogPosition, bytes] = field(default_factory=dict[LogPosition, bytes])
    committed: list[bytes] = field(default_factory=lambda: [GENESIS.chain])
    committed_at: dict[bytes, int] = field(default_factory=dict[bytes, int])
    content: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    acknowledged: dict[bytes, str] = field(default_factory=dict[bytes, str])
    """UID by data set digest: what a sender was told Success for."""

    def appended(self, header: RecordHeader, chain: bytes, previous: bytes) -> None:
        """A node writes a record. Raises Violation when another record has its position, or another parent."""
        known = self.at.setdefault(header.position, chain)
        if known != chain:
            raise Violation(f"two records at {header.position}: {known[:4].hex()} and {chain[:4].hex()}")
        if self.before.setdefault(chain, previous) != previous:
            raise Violation(f"record {header.position} follows from two others")
        self.headers[chain] = header

    def head(self, chain: bytes) -> bytes:
        """How the record of this chain begins in a log: with its header, and the chain."""
        return encode_header(self.headers[chain], chain)

    def ancestor(self, chain: bytes, sequence: int, wanted: int) -> bytes:
        """The chain at `wanted` on the branch whose record `sequence` is `chain`."""
        while sequence > wanted:
            chain = self.before[chain]
            sequence -= 1
        return chain

    def branch_holds(self, end: LogPoint, point: LogPoint) -> bool:
        """Whether the log that ends at `end` contains `point`."""
        if end.sequence < point.sequence:
            return False
        return self.ancestor(end.chain, end.sequence, point.sequence) == point.chain

    @property
    def committed_point(self) -> LogPoint:
        chain = self.committed[-1]
        return LogPoint(self.headers[chain].position, chain) if len(self.committed) > 1 else GENESIS

    def commits(self, point: LogPoint, who: str) -> bool:
        """A leader counts everything up to `point` as committed. Returns whether that is news.

        Raises Violation when something else was committed there.
        """
        last = len(self.committed) - 1
        if point.sequence <= last:
            if self.committed[point.sequence] != point.chain:
                raise Violation(f"{who} commits another record {point.sequence} than was committed before")
            return False
        news: list[bytes] = []
        chain = point.chain
        for _ in range(point.sequence - last):
            news.append(chain)
            chain = self.before[chain]
        if chain != self.committed[last]:
            raise Violation(f"{who} commits up to {point.sequence} on a branch without the committed record {last}")
        for chain in reversed(news):
            header = self.headers[chain]
            if header.kind is RecordKind.INSTANCE:
                self.committed_at[header.dataset] = len(self.committed)
            else:
                self.committed_at[header.digest] = len(self.committed)
            self.committed.append(chain)
        return True

    def common(self, tip: LogPoint) -> int:
        """The last committed sequence that the log ending at `tip` holds."""
        sequence = min(tip.sequence, len(self.committed) - 1)
        chain = self.ancestor(tip.chain, tip.sequence, sequence)
        while chain != self.committed[sequence]:
            chain = self.before[chain]
            sequence -= 1
        return sequence

    def forget_after(self, kept: int) -> list[RecordHeader]:
        """A person accepted that what was committed after `kept` is lost. Returns what that was."""
        gone = [self.headers[chain] for chain in self.committed[kept + 1 :]]
        del self.committed[kept + 1 :]
        self.committed_at = {}
        for sequence, chain in enumerate(self.committed[1:], 1):
            header = self.headers[chain]
            instance = header.kind is RecordKind.INSTANCE
            self.committed_at[header.dataset if instance else header.digest] = sequence
        for digest in [digest for digest in self.acknowledged if digest not in self.committed_at]:
            del self.acknowledged[digest]
        return gone

    def cuts_committed(self, end: LogPoint, after: int) -> int | None:
        """The first committed record that a log ending at `end` loses when it is cut after `after`."""
        first = after + 1
        if first > end.sequence or first >= len(self.committed):
            return None
        return first if self.ancestor(end.chain, end.sequence, first) == self.committed[first] else None
