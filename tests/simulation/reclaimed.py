"""Whose bytes may be gone: what a committed tombstone covers, and a committed note permits to be taken away.

Reckoned from the history of the cluster, never from what a node or its index says.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from replication.core.compaction import COMPACTION
from storage.buried import HOLD, RELEASE
from storage.deletion import Note, Tombstone, decode_small
from storage.position import RecordHeader, RecordKind
from tests.simulation.history import History


@dataclass
class Reclaimed:
    """small: what each tombstone and note says, by its digest."""

    history: History
    small: dict[bytes, Tombstone | Note] = field(default_factory=dict[bytes, Tombstone | Note])
    pardoned: set[bytes] = field(default_factory=set[bytes])
    """Chains of what might be gone before a person accepted that committed records, tombstones among them, are lost."""
    _permitted: int = 0
    _upto: int = 0
    _tombstones: list[int] = field(default_factory=list[int])
    _known: dict[bytes, list[int]] = field(default_factory=dict[bytes, list[int]])
    """By data set, the committed records that hold it."""
    _covers: dict[int, list[int]] = field(default_factory=dict[int, list[int]])
    _holding: list[tuple[int, bool]] = field(default_factory=list[tuple[int, bool]])
    """Notes that hold the one study, or let go of it."""

    def said(self, header: RecordHeader, payload: bytes) -> None:
        """A tombstone or note is written."""
        self.small[header.digest] = decode_small(header.kind, payload)

    def begin_anew(self) -> None:
        """Committed records are about to be forgotten."""
        self.pardoned |= {self.history.committed[sequence] for sequence in self.gone}
        self._permitted = self._upto = 0
        self._tombstones, self._known, self._covers, self._holding = [], {}, {}, []

    @property
    def permitted(self) -> int:
        """The last tombstone that may be acted upon, by the notes that are committed."""
        self._catch_up()
        return self._permitted

    @property
    def tombstones(self) -> list[int]:
        """Those that are committed, oldest first."""
        self._catch_up()
        return self._tombstones

    @property
    def covered(self) -> Mapping[int, list[int]]:
        """Committed instances, and the committed tombstones that cover each, oldest first."""
        self._catch_up()
        return self._covers

    @property
    def gone(self) -> dict[int, int]:
        """Committed instances whose payload may be gone, and the first tombstone that covers each."""
        permitted = self.permitted
        return {sequence: by[0] for sequence, by in self._covers.items() if by[0] <= permitted}

    def held(self, upto: int) -> int:
        """The committed note up to this record that keeps the study; 0 when none does."""
        self._catch_up()
        said = [(sequence, holds) for sequence, holds in self._holding if sequence <= upto]
        return said[-1][0] if said and said[-1][1] else 0

    def may_be_gone(self, chain: bytes, sequence: int) -> bool:
        """Whether this very record is one of them."""
        permitted, committed = self.permitted, self.history.committed
        if chain in self.pardoned:
            return True
        there = sequence < len(committed) and committed[sequence] == chain
        return there and self._covers.get(sequence, [permitted + 1])[0] <= permitted

    def justified(self, chain: bytes, sequence: int, tombstone: int) -> bool:
        """Whether a stub of this record may name this tombstone."""
        return self.may_be_gone(chain, sequence) and (
            tombstone in self._covers.get(sequence, []) or chain in self.pardoned
        )

    def _catch_up(self) -> None:
        committed, headers = self.history.committed, self.history.headers
        while self._upto + 1 < len(committed):
            self._upto += 1
            header = headers[committed[self._upto]]
            if header.kind is RecordKind.INSTANCE:
                self._known.setdefault(header.dataset, []).append(self._upto)
            elif header.digest in self.small:
                self._act(self._upto, self.small[header.digest])

    def _act(self, sequence: int, small: Tombstone | Note) -> None:
        if isinstance(small, Note):
            if small.what == COMPACTION:
                self._permitted = max(self._permitted, int(small.subject))
            elif small.what in (HOLD, RELEASE):
                self._holding.append((sequence, small.what == HOLD))
            return
        self._tombstones.append(sequence)
        for covered in small.covers:
            for below in self._known.get(covered.dataset, []):
                self._covers.setdefault(below, []).append(sequence)
