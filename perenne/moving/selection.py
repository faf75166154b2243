"""What an export is asked for. All that is given must hold; of several UIDs of one kind, one."""

import re
from typing import Final

from msgspec import Struct

from storage.dataset import Attributes

_DATE: Final = re.compile(r"[0-9]{8}")


class BadSelection(Exception):
    """The text says what to write instead."""


class Wanted(Struct, frozen=True, kw_only=True):
    """Empty means: whatever. Dates are YYYYMMDD, both inclusive."""

    studies: frozenset[str] = frozenset()
    series: frozenset[str] = frozenset()
    instances: frozenset[str] = frozenset()
    patient_id: str = ""
    accession: str = ""
    modality: str = ""
    first_date: str = ""
    last_date: str = ""

    @property
    def everything(self) -> bool:
        return self == Wanted()

    @property
    def by_header(self) -> bool:
        """Whether it takes more than the UIDs to tell."""
        return bool(self.patient_id or self.accession or self.modality or self.first_date or self.last_date)

    def excludes(self, study: str, series: str, sop: str) -> bool:
        """Whether an instance with these UIDs is certainly not wanted; those that are `unknown` may be any."""
        return any(
            wanted and uid not in wanted and uid != "unknown"
            for wanted, uid in ((self.studies, study), (self.series, series), (self.instances, sop))
        )

    def matches(self, found: Attributes) -> bool:
        if self.excludes(found.study_instance_uid, found.series_instance_uid, found.sop_instance_uid):
            return False
        pairs = ((self.patient_id, found.patient_id), (self.accession, found.accession_number))
        if any(wanted and wanted != value for wanted, value in (*pairs, (self.modality, found.modality))):
            return False
        date = found.study_date.replace(".", "")
        if self.first_date or self.last_date:
            return bool(date) and (self.first_date or date) <= date <= (self.last_date or date)
        return True


def dates(text: str) -> tuple[str, str]:
    """Read FROM-TO, either of which may be left out, or one day. Raises BadSelection.

    >>> dates("20240101-20241231"), dates("20240101"), dates("-20241231")
    (('20240101', '20241231'), ('20240101', '20240101'), ('', '20241231'))
    """
    first, dash, last = text.partition("-")
    last = last if dash else first
    if not (first or last) or not all(_DATE.fullmatch(day) for day in (first, last) if day):
        raise BadSelection(f"--study-date {text}: write YYYYMMDD-YYYYMMDD, or one day, or leave out one end")
    return first, last
