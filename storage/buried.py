"""What the index knows of deletes: instances that tombstones cover, and notes. SQL on a connection that `Index` owns.

Everything here follows from the log in the order of its records, so an index that is built anew says the same.
"""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from msgspec import Struct
from msgspec import json as msgspec_json

from storage.deletion import Note, Tombstone

SCHEMA: Final = """
CREATE TABLE buried (sop_instance_uid TEXT NOT NULL, dataset BLOB NOT NULL, sequence INTEGER NOT NULL,
    PRIMARY KEY (sop_instance_uid, dataset, sequence)) WITHOUT ROWID;
CREATE TABLE small (sequence INTEGER PRIMARY KEY, digest BLOB NOT NULL, time_us INTEGER NOT NULL, what TEXT NOT NULL,
    subject TEXT NOT NULL, facts TEXT NOT NULL);
CREATE INDEX small_digest ON small (digest);
CREATE INDEX small_subject ON small (what, subject);
"""
TABLES: Final = ("buried", "small")
TOMBSTONE: Final = "tombstone"
HOLD: Final = "hold"
RELEASE: Final = "release"
Rows = Callable[..., Sequence[Any]]


class IndexedSmall(Struct, frozen=True):
    """One committed tombstone or note."""

    sequence: int
    digest: bytes
    time_us: int
    content: Tombstone | Note


class KnownNote(Struct, frozen=True):
    """A note, or a tombstone without what it covers, as the index keeps it."""

    sequence: int
    time_us: int
    what: str
    subject: str
    facts: dict[str, str]


def insert(connection: sqlite3.Connection, small: IndexedSmall) -> None:
    """Take a tombstone or a note in; what a tombstone covers is hidden from then on."""
    content = small.content
    if isinstance(content, Note):
        what, subject, facts = content.what, content.subject, dict(content.facts)
    else:
        what, subject = TOMBSTONE, content.request
        facts = {"reason": content.reason, "asked_by": content.asked_by, "approved_by": content.approved_by}
        facts |= {"covers": str(len(content.covers)), "part": str(content.part)}
    row = (small.sequence, small.digest, small.time_us, what, subject, msgspec_json.encode(facts).decode())
    connection.execute("INSERT OR REPLACE INTO small VALUES (?,?,?,?,?,?)", row)
    if isinstance(content, Tombstone):
        _bury(connection, small.sequence, content)


def _bury(connection: sqlite3.Connection, sequence: int, tombstone: Tombstone) -> None:
    covers = [(covered.sop_instance_uid, covered.dataset, sequence) for covered in tombstone.covers]
    connection.executemany("INSERT OR IGNORE INTO buried VALUES (?,?,?)", covers)
    connection.executemany(
        "UPDATE instance SET deleted_by = ?3 WHERE sop_instance_uid = ?1 AND dataset = ?2 AND sequence < ?3"
        " AND deleted_by = 0",
        covers,
    )
    _tidy(connection, [sequence], [uid for uid, _, _ in covers])


def hide_buried(connection: sqlite3.Connection, sequences: Iterable[int]) -> None:
    """Instances that came to be known only after a tombstone that covers them."""
    rows = [(sequence,) for sequence in sequences]
    connection.executemany(
        "UPDATE instance SET deleted_by = COALESCE((SELECT MIN(b.sequence) FROM buried b WHERE"
        " b.sop_instance_uid = instance.sop_instance_uid AND b.dataset = instance.dataset"
        " AND b.sequence > instance.sequence), 0) WHERE sequence = ?",
        rows,
    )
    query = "SELECT deleted_by, sop_instance_uid FROM instance WHERE sequence = ? AND deleted_by <> 0"
    hidden = [found for row in rows if (found := connection.execute(query, row).fetchone()) is not None]
    _tidy(connection, sorted({by for by, _ in hidden}), [uid for _, uid in hidden])


def _tidy(connection: sqlite3.Connection, tombstones: Sequence[int], uids: Iterable[str]) -> None:
    """Forget series and studies that have no instance left, and conflicts that are none any more."""
    names: set[tuple[str, str]] = set()
    for sequence in tombstones:
        names |= set(
            connection.execute(
                "SELECT DISTINCT i.series_instance_uid, i.study_instance_uid FROM buried b JOIN instance i"
                " ON i.sop_instance_uid = b.sop_instance_uid WHERE b.sequence = ? AND i.deleted_by <> 0",
                (sequence,),
            )
        )
    connection.executemany(
        "DELETE FROM series WHERE series_instance_uid = ?1 AND NOT EXISTS"
        " (SELECT 1 FROM instance WHERE series_instance_uid = ?1 AND deleted_by = 0)",
        [(series,) for series, _ in names],
    )
    connection.executemany(
        "DELETE FROM study WHERE study_instance_uid = ?1 AND NOT EXISTS"
        " (SELECT 1 FROM instance WHERE study_instance_uid = ?1 AND deleted_by = 0)",
        [(study,) for _, study in names],
    )
    connection.executemany(
        "DELETE FROM conflict WHERE sop_instance_uid = ?1 AND"
        " (SELECT COUNT(DISTINCT dataset) FROM instance WHERE sop_instance_uid = ?1 AND deleted_by = 0) < 2",
        [(uid,) for uid in uids],
    )


class Burials:
    """Questions about deletes and notes; `rows` runs one query on a connection that does not wait for the writer."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def of(self, sop_instance_uid: str) -> tuple[tuple[int, bytes], ...]:
        """Sequence and data set digest of every tombstone entry for this UID, oldest first."""
        query = "SELECT sequence, dataset FROM buried WHERE sop_instance_uid = ? ORDER BY sequence"
        return tuple((int(row[0]), bytes(row[1])) for row in self._rows(query, sop_instance_uid))

    def recorded(self, digest: bytes) -> int:
        """Where a tombstone or note with exactly this content lies; 0 when there is none."""
        found = self._rows("SELECT MIN(sequence) FROM small WHERE digest = ?", digest)
        return int(found[0][0] or 0)

    def hold(self, study_instance_uid: str) -> int:
        """The note that puts a study on hold now; 0 when none does."""
        query = "SELECT sequence, what FROM small WHERE what IN (?, ?) AND subject = ? ORDER BY sequence DESC LIMIT 1"
        found = self._rows(query, HOLD, RELEASE, study_instance_uid)
        return int(found[0][0]) if found and found[0][1] == HOLD else 0

    def notes(self, *what: str, subject: str | None = None) -> tuple[KnownNote, ...]:
        """All notes of these kinds, oldest first; of one subject where it is given."""
        marks = ",".join("?" * len(what))
        query = f"SELECT sequence, time_us, what, subject, facts FROM small WHERE what IN ({marks})"  # noqa: S608 - question marks
        if subject is None:
            rows = self._rows(query + " ORDER BY sequence", *what)
        else:
            rows = self._rows(query + " AND subject = ? ORDER BY sequence", *what, subject)
        return tuple(KnownNote(r[0], r[1], r[2], r[3], msgspec_json.decode(r[4], type=dict[str, str])) for r in rows)
