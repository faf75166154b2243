"""What became of what was found: counted, and everything that was left out written down, one JSON object per line."""

from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from msgspec import Struct
from msgspec import json as msgspec_json

NOT_DICOM: Final = "not DICOM"
HEADER_ONLY: Final = "header only"
REFUSED: Final = "refused"
UNREADABLE: Final = "unreadable"
WRONG: Final = (REFUSED, UNREADABLE)
_NAMED: Final = 20
_REASONS: Final = 1000


class LeftOut(Struct, frozen=True, omit_defaults=True):
    """Something that was not moved.

    what: `not DICOM` and `header only` are in order; `refused` (by the archive, or not worth offering) and `unreadable`
    need a person.
    """

    name: str
    what: str
    why: str
    uid: str = ""
    status: int | None = None


class Findings:
    """Counts, and the file that names what was left out: written anew by each run, which sees everything again."""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self.path = path
        self.counts: Counter[str] = Counter()
        self.reasons: Counter[tuple[str, str]] = Counter()
        self.named: list[LeftOut] = []
        """The first few that need a person."""
        self._file = path.open("wb")

    def leave_out(self, one: LeftOut) -> None:
        self.counts[one.what] += 1
        if (one.what, one.why) in self.reasons or len(self.reasons) < _REASONS:
            self.reasons[one.what, one.why] += 1
        if one.what in WRONG and len(self.named) < _NAMED:
            self.named.append(one)
        self._file.write(msgspec_json.encode(one) + b"\n")
        self._file.flush()

    @property
    def wrong(self) -> int:
        return sum(self.counts[what] for what in WRONG)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def printable(name: str) -> str:
    """A name as it may be shown and written: names of files and of members of archives may hold anything."""
    name = name.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in name)
