"""What may be asked behind a `?`. `/instances`: which instances a node holds, a page at a time, for moving them."""

import re
from typing import Any, Final

from starlette.datastructures import QueryParams

from storage.index import Listed, Selection

MOST: Final = 5000
_UIDS: Final = 100
_UID: Final = re.compile(r"[0-9.]{1,64}")
_DATE: Final = re.compile(r"[0-9]{8}")
_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_NAMES: Final = frozenset(
    ("study", "series", "instance", "patient_id", "accession", "modality", "from", "to", "after", "limit")
)


class BadQuery(ValueError):
    """The text says what may be asked."""


def selection(query: QueryParams) -> Selection:
    """Raises BadQuery. A name that is not known is an error: ignored, it would list too much."""
    if unknown := set(query) - _NAMES:
        raise BadQuery(f"{', '.join(sorted(unknown))}: not known; there are {', '.join(sorted(_NAMES))}")
    uids = {name: tuple(query.getlist(name)) for name in ("study", "series", "instance")}
    if any(len(values) > _UIDS or not all(map(_UID.fullmatch, values)) for values in uids.values()):
        raise BadQuery(f"study, series and instance are UIDs, at most {_UIDS} of each")
    days = query.get("from", ""), query.get("to", "")
    if not all(_DATE.fullmatch(day) for day in days if day):
        raise BadQuery("from and to are days, YYYYMMDD")
    after, limit = query.get("after", "0"), query.get("limit", "1000")
    if not (_NUMBER.fullmatch(after) and _NUMBER.fullmatch(limit) and int(limit) <= MOST):
        raise BadQuery(f"after and limit are numbers, limit at most {MOST}")
    return Selection(
        **uids,
        patient_id=query.get("patient_id", ""),
        accession=query.get("accession", ""),
        modality=query.get("modality", ""),
        first_date=days[0],
        last_date=days[1],
        after=int(after),
        limit=int(limit),
    )


def max_lag(query: QueryParams) -> int | None:
    """Of `/replica`: records; None where it is not given. Raises BadQuery: a limit that is overlooked is none."""
    wanted = query.getlist("max_lag")
    if set(query) - {"max_lag"} or len(wanted) > 1 or not all(map(_NUMBER.fullmatch, wanted)):
        raise BadQuery("/replica?max_lag=N: so many records may the node be behind; without it, however many")
    return int(wanted[0]) if wanted else None


def page(where: Selection, found: list[Listed], *, indexed: int, committed: int, holes: list[int]) -> dict[str, Any]:
    """What is answered. next: what to ask `after` for the next page; None after the last one.

    indexed: what is listed is complete up to this record. holes: records too damaged to say whose they are.
    """
    more = len(found) == where.limit and where.limit > 0
    return {
        "instances": [
            {
                "sequence": one.sequence,
                "uid": one.sop_instance_uid,
                "study": one.study_instance_uid,
                "series": one.series_instance_uid,
                "digest": one.digest.hex(),
                "size": one.size,
            }
            for one in found
        ],
        "next": found[-1].sequence if more else None,
        "indexed": indexed,
        "committed": committed,
        "holes": holes,
    }
