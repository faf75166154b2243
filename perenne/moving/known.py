"""What a journal says was acknowledged before: neither read nor sent again. Some hundred bytes for each."""

import fcntl
from pathlib import Path
from typing import BinaryIO, Final

from blake3 import blake3

from perenne.journal import ACKNOWLEDGED, events
from perenne.moving.examine import Instance

_KEY_BYTES: Final = 16


class InUse(Exception):
    """Another import writes this journal."""


class Known:
    """Three sets of digests: instances, the places they came from, and their UIDs."""

    def __init__(self) -> None:
        self._instances: set[bytes] = set()
        self._sources: set[bytes] = set()
        self._uids: set[bytes] = set()
        self.nodes: set[str] = set()
        """Who acknowledged, before this run: HOST:PORT of each."""

    @classmethod
    def of(cls, journal: Path) -> "Known":
        """Raises JournalUnreadable, OSError."""
        known = cls()
        for event in events(journal):
            if event.event == ACKNOWLEDGED:
                known.nodes |= {event.node} if event.node else set()
                known._add(event.uid, event.dataset, event.syntax, event.source, event.stamp)
        return known

    def add(self, one: Instance) -> None:
        self._add(one.sop_instance_uid, one.dataset, one.transfer_syntax_uid, one.name, one.stamp)

    def _add(self, uid: str, dataset: str, syntax: str, source: str, stamp: str) -> None:
        self._instances.add(_key(uid, dataset, syntax))
        self._uids.add(_key(uid))
        if source:
            self._sources.add(_key(source, stamp))

    def has(self, one: Instance) -> bool:
        return _key(one.sop_instance_uid, one.dataset, one.transfer_syntax_uid) in self._instances

    def has_uid(self, uid: str) -> bool:
        return _key(uid) in self._uids

    def has_source(self, name: str, stamp: str) -> bool:
        return _key(name, stamp) in self._sources


def _key(*parts: str) -> bytes:
    return blake3("\0".join(parts).encode()).digest(_KEY_BYTES)


def claimed(journal: Path) -> BinaryIO:
    """Keep others from writing this journal, for as long as what is returned stays open. Raises InUse, OSError."""
    file = journal.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise InUse(f"another import is writing {journal}: wait for it, or give another --journal") from error
    return file
