"""Bytes that change by themselves: in a record, a table, the promise, the index. Nodes are down, or do not notice.

Offsets come from the segment's own table, so that a flip lands where it is meant to.
"""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from storage.errors import FormatError
from storage.table import (
    ENTRIES_OFFSET,
    ENTRY_BYTES,
    PAGE,
    Entry,
    capacity,
    decode_entry,
    decode_segment_header,
)

_FLIPS: Final = 3


@dataclass(frozen=True, slots=True)
class Held:
    """A segment and the good entries of its table, in order."""

    path: Path
    entries: tuple[Entry, ...]


def segments(data_dir: Path) -> list[Held]:
    """Every segment that can be read, oldest first; the last may be open."""
    found: list[Held] = []
    for path in sorted((data_dir / "log").glob("*.tar")):
        with path.open("rb") as file:
            try:
                header = decode_segment_header(file.read(PAGE))
            except FormatError:
                continue
            file.seek(ENTRIES_OFFSET)
            table = file.read(capacity(header.segment_bytes) * ENTRY_BYTES)
        raw = (table[at : at + ENTRY_BYTES] for at in range(0, len(table), ENTRY_BYTES))
        entries = (decode_entry(entry, header.first + index, header.first) for index, entry in enumerate(raw))
        found.append(Held(path, tuple(entry for entry in entries if entry is not None)))
    return found


def flip(path: Path, at: int, length: int, chance: random.Random) -> None:
    """Change a few bytes somewhere in a range of a file."""
    with path.open("r+b") as file:
        for _ in range(_FLIPS):
            position = at + chance.randrange(length)
            file.seek(position)
            (old,) = file.read(1)
            file.seek(position)
            file.write(bytes([old ^ (1 << chance.randrange(8))]))


def flip_record(held: Held, entry: Entry, chance: random.Random) -> int:
    """Damage one record; return its sequence."""
    flip(held.path, entry.offset, entry.length, chance)
    return entry.position.sequence


def flip_entry(held: Held, entry: Entry, chance: random.Random) -> int:
    """Damage what the table says of one record; return its sequence."""
    index = entry.position.sequence - held.entries[0].segment
    flip(held.path, ENTRIES_OFFSET + index * ENTRY_BYTES, ENTRY_BYTES, chance)
    return entry.position.sequence
