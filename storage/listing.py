"""What a delete would take, and what one has taken: lists out of the index, in a fixed order and in pages.

They may be long: not for the event loop.
"""

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from storage.index import Index

LEVELS: Final = {
    "study": "study_instance_uid",
    "series": "series_instance_uid",
    "instance": "sop_instance_uid",
}
_COLUMNS: Final = (
    "sequence, study_instance_uid, series_instance_uid, sop_instance_uid, dataset, transfer_syntax_uid, size, time_us"
)


class Listed(Struct, frozen=True):
    """One record of an instance. time_us: when it arrived."""

    sequence: int
    study: str
    series: str
    sop: str
    dataset: bytes
    transfer_syntax: str
    size: int
    time_us: int


class Extent(Struct, frozen=True):
    """How much there is. studies: of all of it."""

    instances: int
    size: int
    studies: tuple[str, ...]


class StudyAge(Struct, frozen=True):
    """One study as a retention rule sees it. arrived_us: when the last of it came. modalities, sources: all of them."""

    study: str
    study_date: str
    arrived_us: int
    instances: int
    size: int
    modalities: tuple[str, ...]
    sources: tuple[str, ...]


def extent(index: Index, level: str, uids: Sequence[str], before: int) -> Extent:
    """Of what lives below record `before` under these UIDs."""
    where, values = _under(level, uids)
    query = f"SELECT COUNT(*), COALESCE(SUM(size), 0) FROM instance WHERE {where} AND deleted_by = 0 AND sequence < ?"  # noqa: S608 - column names of ours
    ((instances, size),) = index.survey(query, *values, before)
    query = f"SELECT DISTINCT study_instance_uid FROM instance WHERE {where} AND deleted_by = 0 AND sequence < ?"  # noqa: S608 - as above
    studies = sorted(str(row[0]) for row in index.survey(query, *values, before))
    return Extent(int(instances), int(size), tuple(studies))


def living(index: Index, level: str, uids: Sequence[str], before: int, after: int, limit: int) -> list[Listed]:
    """What lives under these UIDs, of the records between `after` and `before`: the oldest `limit`."""
    where, values = _under(level, uids)
    query = (
        f"SELECT {_COLUMNS} FROM instance WHERE {where} AND deleted_by = 0 AND sequence > ? AND sequence < ?"  # noqa: S608 - as above
        " ORDER BY sequence LIMIT ?"
    )
    return [_listed(row) for row in index.survey(query, *values, after, before, limit)]


def deleted(index: Index, request: str, study: str, after: int, limit: int) -> list[Listed]:
    """What the tombstones of a request took, or all of a study that was deleted; what lives again is left out."""
    query = (
        f"SELECT {_COLUMNS} FROM instance AS i WHERE sequence > ? AND deleted_by <> 0 AND (study_instance_uid = ?"  # noqa: S608 - as above
        " OR deleted_by IN (SELECT sequence FROM small WHERE what = 'tombstone' AND subject = ?))"
        " AND NOT EXISTS (SELECT 1 FROM instance AS l WHERE l.sop_instance_uid = i.sop_instance_uid"
        " AND l.dataset = i.dataset AND l.sequence > i.sequence) ORDER BY sequence LIMIT ?"
    )
    return [_listed(row) for row in index.survey(query, after, study or None, request or None, limit)]


def studies(index: Index, after: str, limit: int) -> list[StudyAge]:
    """Every study, in the order of UIDs, as a retention rule sees it."""
    query = (
        "SELECT s.study_instance_uid, s.study_date, MAX(i.time_us), COUNT(*), SUM(i.size),"
        " GROUP_CONCAT(DISTINCT r.modality), GROUP_CONCAT(DISTINCT i.source_ae)"
        " FROM (SELECT * FROM study WHERE study_instance_uid > ? ORDER BY study_instance_uid LIMIT ?) AS s"
        " JOIN instance AS i ON i.study_instance_uid = s.study_instance_uid AND i.deleted_by = 0"
        " LEFT JOIN series AS r ON r.series_instance_uid = i.series_instance_uid"
        " GROUP BY s.study_instance_uid ORDER BY s.study_instance_uid"
    )
    return [
        StudyAge(str(r[0]), str(r[1]), int(r[2]), int(r[3]), int(r[4]), _names(r[5]), _names(r[6]))
        for r in index.survey(query, after, limit)
    ]


def _names(joined: object) -> tuple[str, ...]:
    """SQLite's way to give several values; an empty one counts, as something that no rule names."""
    return tuple(sorted(str(joined or "").split(",")))


def _under(level: str, uids: Sequence[str]) -> tuple[str, list[object]]:
    marks = ",".join("?" * len(uids))
    return f"{LEVELS[level]} IN ({marks})", list(uids)


def _listed(row: Sequence[object]) -> Listed:
    sequence, study, series, sop, dataset, syntax, size, time_us = row
    assert isinstance(sequence, int) and isinstance(dataset, bytes)
    assert isinstance(size, int) and isinstance(time_us, int)
    return Listed(sequence, str(study), str(series), str(sop), dataset, str(syntax), size, time_us)
