"""What orders about deletes have in common on both sides: how they are addressed, and how lists travel."""

from collections.abc import Iterable
from typing import Any, Final

from storage.listing import Listed

DELETE_VERB: Final = "delete"
"""Under `ops/` of the coordination service."""
PAGE: Final = 200
"""Rows in one answer: a znode holds a megabyte, these take less than a tenth of it."""
UIDS_LIMIT: Final = 100
REQUEST: Final = "delete-request"
APPROVAL: Final = "delete-approval"
WITHDRAWAL: Final = "delete-withdrawal"
UNDO: Final = "delete-undo"


class OrderRefused(Exception):
    """An order that cannot be carried out as it is; the text says why."""


def by_name(name: str) -> str:
    """A person's name as it is compared: the same person is not somebody else in capitals."""
    return " ".join(name.split()).casefold()


def page_of(found: Iterable[Listed]) -> list[list[Any]]:
    return [
        [f.sequence, f.study, f.series, f.sop, f.dataset.hex(), f.transfer_syntax, f.size, f.time_us] for f in found
    ]


def of_page(rows: Iterable[list[Any]]) -> list[Listed]:
    """Raises ValueError, TypeError."""
    return [
        Listed(int(r[0]), str(r[1]), str(r[2]), str(r[3]), bytes.fromhex(r[4]), str(r[5]), int(r[6]), int(r[7]))
        for r in rows
    ]
