"""The port to the tier: everything that replication asks of a bucket or a directory, and nothing else.

`ObjectStore` is asynchronous, for the event loop; `retrying.RetryingStore` makes one of a `BlockingStore`, of which
there are two: `s3.S3Store` and `directory.DirectoryStore`. One conformance suite holds for both
(tests/tier/test_conformance.py). A key is never used for two contents, not even after a delete (protocol, section 11),
so there is no way to overwrite.
"""

import enum
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, Protocol

from replication.tier.bodies import Body, BodyFacts

_KEY: Final = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9._-]*/)*[A-Za-z0-9_-][A-Za-z0-9._-]*")
KEY_LIMIT: Final = 512
"""Bytes of a key, without the prefix that a bucket is given."""


class TierError(Exception):
    """Anything that a tier reports on purpose. next_step: what a person can do about it; empty where nothing helps."""

    def __init__(self, cause: str, next_step: str = "") -> None:
        super().__init__(f"{cause}. {next_step}" if next_step else cause)
        self.cause = cause
        self.next_step = next_step


class AlreadyThere(TierError):
    """The key holds other bytes than those offered; nothing was changed."""


class NotThere(TierError, LookupError):
    """No such key. Not final: a write whose outcome is unknown may still be applied."""


class Unreachable(TierError):
    """No answer in time, or the answer "not now": retry later. What a write did is unknown; it may still be applied."""


class NoRoom(Unreachable):
    """The store is full, or a quota is used up. Nothing of the object is visible."""


class Refused(TierError):
    """Credentials or configuration are wrong: the same request fails again until a person changes something."""


class ChecksumRefused(TierError):
    """The store received other bytes than their checksum says, and kept none. Damaged on the way, or before."""


class ObjectDamaged(TierError):
    """What the store returned does not match the digest kept beside it: altered there, or on the way back."""


class SourceUnreadable(TierError):
    """The local file that was to be uploaded cannot be read in full; the store was not asked."""


class Stored(enum.Enum):
    """How a put ended. `THERE_BEFORE`: the key held exactly these bytes, from an earlier attempt or another writer."""

    CREATED = "created"
    THERE_BEFORE = "there before"


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """size: bytes of the object. digest: BLAKE3 (32 bytes) as kept beside it; None where another tool dropped it."""

    size: int
    digest: bytes | None


@dataclass(frozen=True, slots=True)
class Page:
    """Keys in rising order of their bytes. more: ask again after the last one; it may be empty all the same."""

    keys: tuple[str, ...]
    more: bool


class ObjectStore(Protocol):
    """What the event loop calls. Every call ends within the store's patience (`retrying.Patience`).

    All raise Unreachable or Refused; what else they raise stands with them.
    """

    async def put(
        self, key: str, body: Body, *, crc32: int | None = None, only_if_absent: bool = True, lock: bool = False
    ) -> Stored:
        """Return once the store confirmed that it holds `body` under `key`.

        crc32: of the body, if it is known from when its bytes were known to be good; else it is taken now.
        only_if_absent: use the store's conditional write, the second belt; false where the probe showed that it has
        none: then the caller alone sees to it that the key is new. lock: retain it, where the settings say so.
        Raises AlreadyThere, ChecksumRefused, ObjectDamaged (what lies there differs), SourceUnreadable.
        """
        ...

    async def get(self, key: str) -> bytes:
        """Return the whole object, checked against its digest. Raises NotThere, ObjectDamaged."""
        ...

    async def get_range(self, key: str, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset` on, fewer only at the object's end. The caller checks them.

        Raises NotThere.
        """
        ...

    async def head(self, key: str) -> ObjectInfo:
        """Raises NotThere."""
        ...

    def list(self, prefix: str, after: str = "") -> AsyncIterator[str]:
        """Keys that begin with `prefix` and come after `after`, in rising order. It may be an old listing.

        Raises Refused when the store has another order, which names of keys.py never show.
        """
        ...

    async def delete(self, key: str) -> None:
        """Remove it; nothing happens if it is not there. Raises Refused where it is retained."""
        ...

    async def close(self) -> None: ...


class BlockingStore(Protocol):
    """One attempt at each of the above, in a thread; any number of threads at once. Raises the same errors."""

    @property
    def description(self) -> str:
        """Where it is, for people: no secrets."""
        ...

    def put(self, key: str, body: Body, facts: BodyFacts, *, only_if_absent: bool, lock: bool) -> None:
        """Raises AlreadyThere whatever lies there, also the same bytes. facts.crc32 is what the store must check."""
        ...

    def get(self, key: str) -> bytes: ...

    def get_range(self, key: str, offset: int, size: int) -> bytes: ...

    def head(self, key: str) -> ObjectInfo: ...

    def list_page(self, prefix: str, after: str) -> Page: ...

    def delete(self, key: str) -> None: ...

    def prepare(self) -> str:
        """Make what must exist before the first use, on an operator's word; say what was made or found."""
        ...

    def close(self) -> None: ...


def check_key(key: str) -> str:
    """Return `key`, or raise ValueError when no store should be asked for it.

    >>> check_key("log/000000000001/a.tar")
    'log/000000000001/a.tar'
    >>> check_key("../a")
    Traceback (most recent call last):
    ValueError: '../a' is no key of the tier
    """
    if len(key) > KEY_LIMIT or not _KEY.fullmatch(key):
        raise ValueError(f"{key!r} is no key of the tier")
    return key
