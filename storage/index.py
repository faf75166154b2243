"""The index: which instances the log holds, in SQLite. Derived from committed records, disposable, rebuilt at will.

It stores the point that it reflects in the same transaction as what it says, so it is never ahead of the log and
never half a batch behind itself.
"""

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from msgspec import Struct

from storage import buried, compacted
from storage.buried import Burials, IndexedSmall
from storage.dataset import Attributes
from storage.disk import Disk
from storage.position import GENESIS, LogPoint, LogPosition

FILE: Final = "index.sqlite"
SIDE_FILES: Final = ("-wal", "-shm")
_VERSION: Final = 5
_SCHEMA: Final = f"""
CREATE TABLE facts (version INTEGER, epoch INTEGER, sequence INTEGER, chain BLOB);
CREATE TABLE instance (
    sequence INTEGER PRIMARY KEY, sop_instance_uid TEXT NOT NULL, dataset BLOB NOT NULL, digest BLOB NOT NULL,
    size INTEGER NOT NULL, transfer_syntax_uid TEXT NOT NULL, sop_class_uid TEXT NOT NULL,
    study_instance_uid TEXT NOT NULL, series_instance_uid TEXT NOT NULL, instance_number TEXT NOT NULL,
    time_us INTEGER NOT NULL, source_ae TEXT NOT NULL, deleted_by INTEGER NOT NULL DEFAULT 0,
    stub INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX instance_uid ON instance (sop_instance_uid);
CREATE INDEX instance_series ON instance (series_instance_uid);
CREATE INDEX instance_study ON instance (study_instance_uid);
CREATE INDEX instance_compactable ON instance (deleted_by) WHERE deleted_by <> 0 AND stub = 0;
CREATE TABLE conflict (sop_instance_uid TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE series (series_instance_uid TEXT PRIMARY KEY, study_instance_uid TEXT NOT NULL, modality TEXT NOT NULL,
    series_number TEXT NOT NULL, series_description TEXT NOT NULL);
CREATE INDEX series_study ON series (study_instance_uid);
CREATE TABLE study (study_instance_uid TEXT PRIMARY KEY, patient_id TEXT NOT NULL, patient_name TEXT NOT NULL,
    study_date TEXT NOT NULL, study_time TEXT NOT NULL, accession_number TEXT NOT NULL,
    study_description TEXT NOT NULL);
CREATE TABLE hole (sequence INTEGER PRIMARY KEY, blind INTEGER NOT NULL DEFAULT 0);
{buried.SCHEMA}
"""


class IndexedRecord(Struct, frozen=True):
    """One committed instance, and what its header says. time_us: when it arrived. source_ae: who sent it.

    tombstone: of a stub, what covers it; 0 where the payload is here.
    """

    sequence: int
    sop_instance_uid: str
    transfer_syntax_uid: str
    dataset: bytes
    digest: bytes
    size: int
    attributes: Attributes
    time_us: int = 0
    source_ae: str = ""
    tombstone: int = 0


class InstanceLocation(Struct, frozen=True):
    """One version of an instance. study and series are empty where the data set names none."""

    sequence: int
    dataset: bytes
    digest: bytes
    transfer_syntax_uid: str
    size: int
    study_instance_uid: str
    series_instance_uid: str
    deleted_by: int = 0
    """The tombstone that covers it; 0 when none does."""


class Selection(Struct, frozen=True, kw_only=True):
    """Which instances to list: all that is given must hold; of several UIDs of one kind, one. Dates are YYYYMMDD.

    What is asked of a study or series is what its first instance says. after, limit: a page, by sequence.
    """

    study: tuple[str, ...] = ()
    series: tuple[str, ...] = ()
    instance: tuple[str, ...] = ()
    patient_id: str = ""
    accession: str = ""
    modality: str = ""
    first_date: str = ""
    last_date: str = ""
    after: int = 0
    limit: int = 1000

    def columns(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """The columns that must have one of some values."""
        found = (
            ("i.study_instance_uid", self.study),
            ("i.series_instance_uid", self.series),
            ("i.sop_instance_uid", self.instance),
            ("s.patient_id", (self.patient_id,) if self.patient_id else ()),
            ("s.accession_number", (self.accession,) if self.accession else ()),
            ("e.modality", (self.modality,) if self.modality else ()),
        )
        return ((column, values) for column, values in found if values)


class Listed(Struct, frozen=True):
    """One version of an instance, as a list names it."""

    sequence: int
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    digest: bytes
    size: int


class Index:
    """One connection that writes, one for look-ups, one for questions about everything; each behind a lock, so that
    any thread may call.

    In WAL mode a reader does not wait for the writer, so a look-up on the write path waits for nobody.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        reading: sqlite3.Connection,
        surveying: sqlite3.Connection,
        moved_aside: str | None,
    ) -> None:
        self._connection = connection
        self._reading = reading
        self._surveying = surveying
        self._survey_lock = threading.Lock()
        self._lock = threading.Lock()
        self._read_lock = threading.Lock() if reading is not connection else self._lock
        self.moved_aside = moved_aside
        """Where a damaged index was put, when there was one."""
        self._applied = self._read_applied()
        self._holes = frozenset(int(row[0]) for row in self._connection.execute("SELECT sequence FROM hole"))
        self._blind = self._read_blind()
        self.burials = Burials(self._rows)
        """What is known of deletes and notes."""

    @classmethod
    def open(cls, disk: Disk, name: str = FILE) -> "Index":
        """Open, or begin anew; a file that is damaged or of another version is moved aside and rebuilt from the log."""
        path = disk.path(name)
        if path is None:
            only = _connect(Path(":memory:"))
            return cls(only, only, only, None)
        moved: str | None = None
        try:
            connection = _connect(path)
        except sqlite3.DatabaseError:
            moved = f"{name}.damaged"
            for suffix in ("", *SIDE_FILES):
                if disk.exists(name + suffix):
                    disk.rename(name + suffix, moved + suffix)
            connection = _connect(path)
        reading, surveying = (sqlite3.connect(path, check_same_thread=False) for _ in range(2))
        return cls(connection, reading, surveying, moved)

    def close(self) -> None:
        with self._lock, contextlib.ExitStack() as stack:
            if self._reading is not self._connection:
                stack.enter_context(self._read_lock)
                stack.enter_context(self._survey_lock)
                self._reading.close()
                self._surveying.close()
            self._connection.close()

    @property
    def applied(self) -> LogPoint:
        """The last committed record that the index reflects."""
        return self._applied

    def _read_applied(self) -> LogPoint:
        row = self._connection.execute("SELECT epoch, sequence, chain FROM facts").fetchone()
        return LogPoint(LogPosition(row[0], row[1]), bytes(row[2]))

    @property
    def holes(self) -> frozenset[int]:
        """Records that were too damaged to be indexed: what they hold is not known here, nor that it is absent."""
        return self._holes

    @property
    def blind(self) -> bool:
        """Whether a hole may be a tombstone or a note: then nothing here may be called undeleted."""
        return self._blind

    def _read_blind(self) -> bool:
        return bool(self._connection.execute("SELECT COUNT(*) FROM hole WHERE blind").fetchone()[0])

    def apply(
        self,
        batch: Iterable[IndexedRecord | IndexedSmall],
        upto: LogPoint,
        holes: Mapping[int, bool] = MappingProxyType({}),
    ) -> None:
        """Add records in their order and move `applied`, in one transaction. holes: whether each may be a tombstone."""
        with self._lock, self._connection:
            self._take_in(batch)
            self._connection.executemany("INSERT OR IGNORE INTO hole VALUES (?,?)", sorted(holes.items()))
            self._move(upto)
            blind = self._read_blind()
        self._holes |= frozenset(holes)
        self._blind = blind
        self._applied = upto  # last: whoever sees that it has come so far knows what it lacks

    def fill(self, batch: Iterable[IndexedRecord | IndexedSmall], filled: Collection[int]) -> None:
        """Add records that were holes; `filled` are holes no more."""
        found = list(batch)
        with self._lock, self._connection:
            self._take_in(found)
            buried.hide_buried(self._connection, [r.sequence for r in found if isinstance(r, IndexedRecord)])
            self._connection.executemany("DELETE FROM hole WHERE sequence = ?", [(sequence,) for sequence in filled])
            blind = self._read_blind()
        self._holes -= frozenset(filled)
        self._blind = blind

    def strip(self, stubs: Iterable[IndexedRecord], describe: Callable[[int], Attributes | None]) -> None:
        """These lost their payloads: forget what only the payloads said. A series or study that one of them described
        is described by what remains; describe(sequence): what an instance says of itself.

        Afterwards the index is as if it were built anew from the log. Blocks others who write.
        """
        with self._lock, self._connection:
            compacted.strip(self._connection, [_instance(r) for r in stubs], describe, _series, _study)

    def refilled(self, sequence: int) -> None:
        """A record that had lost its payload was repaired with it: compaction is to come by again."""
        with self._lock, self._connection:
            self._connection.execute("UPDATE instance SET stub = 0 WHERE sequence = ?", (sequence,))

    def _take_in(self, batch: Iterable[IndexedRecord | IndexedSmall]) -> None:
        """In the order of the log: what a tombstone covers came before it."""
        run: list[IndexedRecord] = []
        for record in batch:
            if isinstance(record, IndexedRecord):
                run.append(record)
                continue
            self._insert(run)
            run = []
            buried.insert(self._connection, record)
        self._insert(run)

    def _insert(self, records: Sequence[IndexedRecord]) -> None:
        run = self._connection.executemany
        run("INSERT OR REPLACE INTO instance VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)", [_instance(r) for r in records])
        run(
            "INSERT OR IGNORE INTO conflict SELECT ?1 WHERE EXISTS"
            " (SELECT 1 FROM instance WHERE sop_instance_uid = ?1 AND dataset <> ?2 AND deleted_by = 0)",
            [(r.sop_instance_uid, r.dataset) for r in records],
        )
        described = [r.attributes for r in records if not r.tombstone]
        run("INSERT OR IGNORE INTO series VALUES (?,?,?,?,?)", [_series(a) for a in described])
        run("INSERT OR IGNORE INTO study VALUES (?,?,?,?,?,?,?)", [_study(a) for a in described])

    def _move(self, upto: LogPoint) -> None:
        self._connection.execute(
            "UPDATE facts SET epoch = ?, sequence = ?, chain = ?", (upto.epoch, upto.sequence, upto.chain)
        )

    def clear(self) -> None:
        """Forget everything: the index does not belong to this log, or is to be rebuilt."""
        with self._lock, self._connection:
            for table in ("instance", "conflict", "series", "study", "hole", *buried.TABLES):
                self._connection.execute(f"DELETE FROM {table}")
            self._move(GENESIS)
        self._applied = GENESIS
        self._holes = frozenset[int]()
        self._blind = False

    def find(self, sop_instance_uid: str) -> tuple[InstanceLocation, ...]:
        """Every version of an instance, oldest first, deleted ones included."""
        rows = self._rows(
            "SELECT sequence, dataset, digest, transfer_syntax_uid, size, study_instance_uid, series_instance_uid,"
            " deleted_by FROM instance WHERE sop_instance_uid = ? ORDER BY sequence",
            sop_instance_uid,
        )
        return tuple(InstanceLocation(r[0], bytes(r[1]), bytes(r[2]), *r[3:]) for r in rows)

    def time_from(self, sequence: int) -> int | None:
        """When the first instance from `sequence` on arrived, in Unix microseconds; None where none is known."""
        rows = self._rows("SELECT time_us FROM instance WHERE sequence >= ? ORDER BY sequence LIMIT 1", sequence)
        return int(rows[0][0]) if rows else None

    def select(self, where: "Selection") -> list["Listed"]:
        """Instances that match, by their place in the log. May walk the whole index: not for the event loop."""
        conditions, values = ["i.deleted_by = 0", "i.sequence > ?"], list[object]([where.after])
        for column, wanted in where.columns():
            conditions.append(f"{column} IN ({','.join('?' * len(wanted))})")
            values += wanted
        for comparison, day in (("<=", where.first_date), (">=", where.last_date)):
            if day:
                conditions.append(f"(? {comparison} replace(s.study_date, '.', '') AND s.study_date <> '')")
                values.append(day)
        rows = self.survey(
            "SELECT i.sequence, i.sop_instance_uid, i.study_instance_uid, i.series_instance_uid, i.digest, i.size"
            " FROM instance i LEFT JOIN study s ON s.study_instance_uid = i.study_instance_uid"
            " LEFT JOIN series e ON e.series_instance_uid = i.series_instance_uid"
            f" WHERE {' AND '.join(conditions)} ORDER BY i.sequence LIMIT ?",
            *values,
            where.limit,
        )
        return [Listed(r[0], r[1], r[2], r[3], bytes(r[4]), r[5]) for r in rows]

    def count_instances(self) -> int:
        """Deleted ones left out. Walks the whole index: not for the event loop."""
        return int(self.survey("SELECT COUNT(*) FROM instance WHERE deleted_by = 0")[0][0])

    def conflicts(self, limit: int = 1000) -> tuple[str, ...]:
        """SOP Instance UIDs held with more than one data set."""
        rows = self.survey("SELECT sop_instance_uid FROM conflict ORDER BY 1 LIMIT ?", limit)
        return tuple(str(row[0]) for row in rows)

    def count_conflicts(self) -> int:
        """How many there are, also where `conflicts` does not name all."""
        return int(self.survey("SELECT COUNT(*) FROM conflict")[0][0])

    def everything(self) -> list[tuple[object, ...]]:
        """All rows in a fixed order: two indexes of one log are equal by this."""
        found: list[tuple[object, ...]] = []
        for table in ("instance", "series", "study", *buried.TABLES):
            found += self._rows(f"SELECT * FROM {table} ORDER BY 1, 2")
        return found

    def survey(self, query: str, *values: object) -> Sequence[Any]:
        """One question that may take long, on a connection of its own: not for the event loop."""
        with self._survey_lock:
            return self._surveying.execute(query, values).fetchall()

    def _rows(self, query: str, *values: object) -> Sequence[Any]:
        with self._read_lock:
            return self._reading.execute(query, values).fetchall()


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False, isolation_level="DEFERRED")
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        # A crash may lose the newest transactions, not consistency; the log brings them back.
        connection.execute("PRAGMA synchronous=NORMAL")
        tables = connection.execute("SELECT COUNT(*) FROM sqlite_master WHERE name = 'facts'").fetchone()[0]
        if not tables:
            with connection:
                for statement in _SCHEMA.split(";"):
                    connection.execute(statement)
                connection.execute("INSERT INTO facts VALUES (?,?,?,?)", (_VERSION, 0, 0, GENESIS.chain))
        if connection.execute("SELECT version FROM facts").fetchone() != (_VERSION,):
            raise sqlite3.DatabaseError("written by another version")
        if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("damaged")
    except sqlite3.DatabaseError:
        connection.close()
        raise
    return connection


def _instance(r: IndexedRecord) -> tuple[object, ...]:
    a = r.attributes
    uids = (r.transfer_syntax_uid, a.sop_class_uid, a.study_instance_uid, a.series_instance_uid, a.instance_number)
    return (
        r.sequence,
        r.sop_instance_uid,
        r.dataset,
        r.digest,
        r.size,
        *uids,
        r.time_us,
        r.source_ae,
        r.tombstone,
        int(r.tombstone > 0),
    )


def _series(a: Attributes) -> tuple[object, ...]:
    return a.series_instance_uid, a.study_instance_uid, a.modality, a.series_number, a.series_description


def _study(a: Attributes) -> tuple[object, ...]:
    dates = (a.study_date, a.study_time)
    return a.study_instance_uid, a.patient_id, a.patient_name, *dates, a.accession_number, a.study_description
