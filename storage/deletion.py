"""What a tombstone or a note says: small JSON that people read with tar, and that the index follows.

A tombstone covers instances at positions below its own (protocol, section 11). A note is other replicated state: a
study under legal hold, a delete that waits for a second person.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from msgspec import Struct

from storage.position import DIGEST_BYTES, LogPosition, RecordKind

COVERS_LIMIT: Final = 128
"""Instances that one tombstone covers at most: it stays a record of some tens of kilobytes."""
SMALL_LIMIT_BYTES: Final = 256 * 1024
SMALL_KINDS: Final = frozenset({RecordKind.TOMBSTONE, RecordKind.NOTE})


class Covered(Struct, frozen=True):
    """One instance that a tombstone covers: its UID and the BLAKE3 of its data set."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    dataset: bytes


class Tombstone(Struct, frozen=True):
    """Who wanted what deleted, and why. request, part: one order may take several tombstones.

    approved_by: empty where one person's word is enough. asked_us: Unix microseconds.
    """

    covers: tuple[Covered, ...]
    reason: str
    asked_by: str
    approved_by: str
    asked_us: int
    request: str
    part: int = 1


class Note(Struct, frozen=True):
    """what: the kind of note. subject: whom or what it is about. A note of an unknown kind is kept and ignored."""

    what: str
    subject: str
    facts: Mapping[str, str]


class NotUnderstood(ValueError):
    """A small record says what this version does not know."""


def encode_tombstone(tombstone: Tombstone) -> bytes:
    """Return the payload: one line of JSON, always the same for the same tombstone."""
    if not 0 < len(tombstone.covers) <= COVERS_LIMIT:
        raise NotUnderstood(f"a tombstone covers 1 to {COVERS_LIMIT} instances, not {len(tombstone.covers)}")
    return _line(
        {
            "asked_by": tombstone.asked_by,
            "approved_by": tombstone.approved_by,
            "asked_us": tombstone.asked_us,
            "reason": tombstone.reason,
            "request": tombstone.request,
            "part": tombstone.part,
            "covers": [
                {
                    "study": covered.study_instance_uid,
                    "series": covered.series_instance_uid,
                    "sop": covered.sop_instance_uid,
                    "dataset": covered.dataset.hex(),
                }
                for covered in tombstone.covers
            ],
        }
    )


def encode_note(note: Note) -> bytes:
    return _line({"what": note.what, "subject": note.subject, "facts": dict(note.facts)})


def decode_small(kind: RecordKind, payload: bytes) -> Tombstone | Note:
    """Read the payload of a tombstone or note. Raises NotUnderstood."""
    try:
        facts: Any = json.loads(payload)
        return _tombstone(facts) if kind is RecordKind.TOMBSTONE else _note(facts)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise NotUnderstood(f"a {kind.value} cannot be read: {type(error).__name__}: {error}") from error


def small_path(position: LogPosition, kind: RecordKind) -> str:
    """The member name of a small record."""
    return f"perenne/{position.sequence:012d}-{kind.value}.json"


def in_parts(covers: Iterable[Covered]) -> list[tuple[Covered, ...]]:
    """Cut what is to be deleted into pieces for one tombstone each."""
    whole = list(covers)
    return [tuple(whole[at : at + COVERS_LIMIT]) for at in range(0, len(whole), COVERS_LIMIT)]


def _line(facts: Mapping[str, object]) -> bytes:
    return json.dumps(facts, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def _tombstone(facts: Any) -> Tombstone:
    covers = tuple(
        Covered(str(c["study"]), str(c["series"]), str(c["sop"]), bytes.fromhex(c["dataset"])) for c in facts["covers"]
    )
    if not covers or len(covers) > COVERS_LIMIT or any(len(c.dataset) != DIGEST_BYTES for c in covers):
        raise ValueError("it covers nothing, too much, or no digest")
    return Tombstone(
        covers,
        str(facts["reason"]),
        str(facts["asked_by"]),
        str(facts["approved_by"]),
        int(facts["asked_us"]),
        str(facts["request"]),
        int(facts["part"]),
    )


def _note(facts: Any) -> Note:
    return Note(str(facts["what"]), str(facts["subject"]), {str(k): str(v) for k, v in facts["facts"].items()})
