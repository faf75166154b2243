"""Damage that a read finds is remembered, unless it lies elsewhere."""

from typing import Protocol

from storage.errors import MediumUnreadable, RecordAbsent, RecordCorrupt
from storage.position import LogPoint


class _Log(Protocol):
    @property
    def end(self) -> LogPoint: ...

    def distrusts(self, sequence: int) -> bool: ...

    def note_damage(self, sequence: int) -> None: ...


class NotingDamage:
    """Remembers damage that leaves the block as a RecordCorrupt, with its sequence; a record cut meanwhile is absent.

    Bytes that the disk does not give back are damaged like others.
    """

    def __init__(self, log: _Log, sequence: int) -> None:
        self._log = log
        self._sequence = sequence

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, RecordCorrupt | MediumUnreadable):
            if self._sequence > self._log.end.sequence:
                raise RecordAbsent(self._sequence) from error
            if self._log.distrusts(self._sequence):
                raise RecordCorrupt(self._sequence, str(error)) from error  # in the tier, not here
            self._log.note_damage(self._sequence)
            if isinstance(error, MediumUnreadable):
                raise RecordCorrupt(self._sequence, str(error)) from error
            if error.sequence != self._sequence:
                raise RecordCorrupt(self._sequence, error.reason) from error
