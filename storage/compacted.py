"""What compaction changes in the index, and what there is to compact. SQL on connections that `Index` owns."""

import sqlite3
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from storage.dataset import Attributes

if TYPE_CHECKING:
    from storage.index import Index

_LEVELS: Final = (("series", "series_instance_uid", 5), ("study", "study_instance_uid", 7))
Row = tuple[object, ...]


class Compactable(Struct, frozen=True):
    """A deleted instance whose payload is still in the log."""

    sequence: int
    tombstone: int
    study: str
    size: int


class Extent(Struct, frozen=True):
    """How much of one study there is to take away."""

    study: str
    instances: int
    size: int


def compactable(index: "Index", upto: int, after: int, last: int) -> list[Compactable]:
    """What tombstones up to record `upto` cover, of the records behind `after` up to `last`, oldest first. May take
    long.
    """
    query = (
        "SELECT sequence, deleted_by, study_instance_uid, size FROM instance WHERE deleted_by <> 0 AND stub = 0"
        " AND deleted_by <= ? AND sequence > ? AND sequence <= ? ORDER BY sequence"
    )
    return [Compactable(int(r[0]), int(r[1]), str(r[2]), int(r[3])) for r in index.survey(query, upto, after, last)]


def next_compactable(index: "Index", upto: int, after: int) -> int:
    """The first such record behind `after`; 0 when there is none."""
    query = "SELECT MIN(sequence) FROM instance WHERE deleted_by <> 0 AND stub = 0 AND deleted_by <= ? AND sequence > ?"
    return int(index.survey(query, upto, after)[0][0] or 0)


def extent(index: "Index", upto: int) -> list[Extent]:
    """By study, what tombstones up to record `upto` cover and what still has its payload. May take long."""
    query = (
        "SELECT study_instance_uid, COUNT(*), SUM(size) FROM instance WHERE deleted_by <> 0 AND stub = 0"
        " AND deleted_by <= ? GROUP BY study_instance_uid ORDER BY 1"
    )
    return [Extent(str(r[0]), int(r[1]), int(r[2])) for r in index.survey(query, upto)]


def stubs_among(index: "Index", sequences: Sequence[int]) -> dict[int, int]:
    """Which of these records lost their payloads, and the tombstones that cover them."""
    marks = ",".join("?" * len(sequences))
    query = f"SELECT sequence, deleted_by FROM instance WHERE stub = 1 AND sequence IN ({marks})"  # noqa: S608 - question marks
    return {int(row[0]): int(row[1]) for row in index.survey(query, *sequences)}


def covered_stubs(index: "Index") -> list[tuple[int, int]]:
    """Every record that lost its payload, in order, and the tombstone that covers it. May take long."""
    rows = index.survey("SELECT sequence, deleted_by FROM instance WHERE deleted_by <> 0 AND stub = 1 ORDER BY 1")
    return [(int(row[0]), int(row[1])) for row in rows]


def tombstones(index: "Index") -> list[tuple[int, int]]:
    """Sequence and time of every tombstone, oldest first. May take long."""
    rows = index.survey("SELECT sequence, time_us FROM small WHERE what = 'tombstone' ORDER BY sequence")
    return [(int(row[0]), int(row[1])) for row in rows]


def strip(
    connection: sqlite3.Connection,
    stubs: Sequence[Row],
    describe: Callable[[int], Attributes | None],
    series: Callable[[Attributes], Row],
    study: Callable[[Attributes], Row],
) -> None:
    """See `Index.strip`."""
    named = {
        (column, row[at]) for row in stubs for column, at in (("series_instance_uid", 8), ("study_instance_uid", 7))
    }
    before = {one: _describing(connection, *one) for one in named}
    connection.executemany("INSERT OR REPLACE INTO instance VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)", stubs)
    for table, column, width in _LEVELS:
        for one in (one for one in named if one[0] == column):
            now = _describing(connection, *one)
            attributes = describe(now) if now and now != before[one] else None
            if attributes is not None:
                row = series(attributes) if table == "series" else study(attributes)
                marks = ",".join("?" * width)
                connection.execute(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", row)  # noqa: S608 - names of ours


def _describing(connection: sqlite3.Connection, column: str, uid: object) -> int:
    """The instance whose words stand for a series or study: the first since it was last empty, as the log has them; 0
    when none does.
    """
    query = f"SELECT sequence, deleted_by FROM instance WHERE {column} = ? AND stub = 0 ORDER BY sequence"  # noqa: S608 - a column of ours
    found: list[Any] = connection.execute(query, (uid,)).fetchall()
    moments = [(sequence, True, sequence) for sequence, _ in found]
    moments += [(by, False, sequence) for sequence, by in found if by]
    living: set[int] = set()
    said = 0
    for _, comes, sequence in sorted(moments):
        if comes:
            living.add(sequence)
            said = said or sequence
            continue
        living.discard(sequence)
        if not living:
            said = 0
    return said
