"""`claim/<epoch>-<boot>`: to which history of a standalone node the bucket belongs (protocol, section 3; ADR 0013).

A standalone node keeps its cluster state in a file, and a file fences nothing: a disk that was cloned, a node that was
restored elsewhere while the old one still runs, each has a state of its own that says that it leads. So each start puts
a claim before it leads, and looks at the claims again after its puts and before it counts the tier. One that is not of
the history on its own disk is another's, who came later: whoever sees it acknowledges nothing any more.
"""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from replication.coordination.port import ClusterRecord, CoordinationUnavailable, NodeRetired
from replication.tier.bodies import Body
from replication.tier.keys import CLAIM, LOG, MARKER, Claim, Marker, parse_claim, parse_marker
from replication.tier.manifest import claim_for
from replication.tier.port import ObjectInfo, ObjectStore, Refused, Stored, TierError, Unreachable
from storage.disk import Disk
from storage.errors import FormatError, StorageError

HISTORY_FILE: Final = "standalone-claims.json"
_FORMAT: Final = 1
_FENCED: Final = (LOG, MARKER)
_BACK: Final = "bring everything back into an empty data_dir: perenne restore --config FILE --cluster"


@dataclass(frozen=True, slots=True)
class _History:
    """markers: None where nobody has noted them yet, as an earlier version did not."""

    claims: frozenset[Claim] = frozenset()
    markers: frozenset[Marker] | None = None


class Claims:
    """Of one data directory."""

    def __init__(self, disk: Disk, store: ObjectStore, cluster: ClusterRecord) -> None:
        self._disk = disk
        self._store = store
        self._cluster = cluster
        self._mine: Claim | None = None
        self._known: _History | None = None
        """The history, once it was read; this process alone writes it."""
        self._looked = False
        """Whether the markers were looked at since a claim of this start is there."""
        self._writing = threading.Lock()
        """Two that ask at once must not write the file over each other."""

    async def hold(self, epoch: int, boot: str, *, alone: bool = False) -> None:
        """Return when the bucket shows the claim of this start, and none that is not of this history.

        alone: whether this start leads by what its own log holds, and not through the tier. Raises NodeRetired when
        there is another one, or this disk is an old copy; CoordinationUnavailable when the bucket does not say.
        """
        mine = Claim(epoch, boot)
        try:
            if mine != self._mine:
                await claim_for(self._store, self._cluster)
            found = await self._listed()
            if mine not in found:
                if not self._looked:
                    await self._look(alone=alone)  # whoever is refused leaves no claim
                # before it is there: after a crash it must be known for one's own
                await asyncio.to_thread(self._remember, [mine])
                await self._store.put(mine.key, b"{}\n")
                if mine not in (found := await self._listed()):
                    raise CoordinationUnavailable(f"the tier does not list {mine.key}, which was just put")
            if not self._looked:
                # Whatever was counted before somebody saw this claim was marked before.
                await self._look(alone=alone)
                self._looked = True
            if mine != self._mine:
                self._mine = mine
                await self._tidy(claim for claim in found if claim.epoch < epoch)
        except (TierError, StorageError, OSError) as error:
            raise CoordinationUnavailable(f"the tier is not claimed: {error}") from error

    async def adopt(self) -> int:
        """Make everything that is claimed part of this history: an operator says that those nodes are gone.

        Returns the highest epoch. Raises TierError, StorageError.
        """
        found, markers = await self._all(), await self._markers()
        await asyncio.to_thread(self._remember, found, markers)
        return max((claim.epoch for claim in found), default=0)

    async def note(self, marker: Marker) -> None:
        """Make a marker part of this history, before it is put. Raises StorageError, OSError."""
        await asyncio.to_thread(self._remember, (), [marker])

    async def _look(self, *, alone: bool) -> None:
        """Compare the markers. Who leads through the tier finds there what was acknowledged, whatever they say.

        Raises NodeRetired, TierError, StorageError.
        """
        found, known = await self._markers(), await self._history()
        if alone and known.markers is not None and (strangers := sorted(set(found) - known.markers)):
            raise NodeRetired(
                f"this disk was put back from a copy: the tier took part in what was acknowledged since"
                f" ({strangers[-1].key}), and this log may lack it. Keep this data directory as it is, and {_BACK}"
            )
        if known.markers is None or not known.markers.issuperset(found):
            await asyncio.to_thread(self._remember, (), found)

    async def _markers(self) -> list[Marker]:
        return [marker async for key in self._store.list(MARKER) if (marker := parse_marker(key)) is not None]

    async def _all(self) -> list[Claim]:
        return [claim async for key in self._store.list(CLAIM) if (claim := parse_claim(key)) is not None]

    async def _listed(self) -> list[Claim]:
        """Raises NodeRetired, TierError, StorageError."""
        found = await self._all()
        if strangers := sorted(set(found) - (await self._history()).claims):
            raise NodeRetired(
                f"another standalone node has taken the tier over ({strangers[-1].key}): it was restored elsewhere, or"
                " this disk was cloned or put back from a copy. Keep this data directory as it is. If the other one is"
                f" to stay, leave this one stopped; if it is gone for good, {_BACK}"
            )
        return found

    async def _tidy(self, older: Iterable[Claim]) -> None:
        """Earlier starts of this history say nothing any more. One that is retained is listed on, and does no harm."""
        for claim in older:
            try:
                await self._store.delete(claim.key)
            except TierError:
                return

    async def _history(self) -> _History:
        """Raises StorageError, OSError."""
        if self._known is None:
            self._known = await asyncio.to_thread(self._read)
        return self._known

    def _read(self) -> _History:
        """Raises FormatError."""
        if not self._disk.exists(HISTORY_FILE):
            return _History()
        try:
            facts: Any = json.loads(self._disk.read(HISTORY_FILE))
            if facts["format"] != _FORMAT:
                raise ValueError(f"format {facts['format']} is not known to this version")
            markers: Any = facts.get("markers")
            return _History(
                frozenset(Claim(int(epoch), str(boot)) for epoch, boot in facts["claims"]),
                None if markers is None else frozenset(Marker(int(count), str(change)) for count, change in markers),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise FormatError(f"{HISTORY_FILE} cannot be read: {error}") from error

    def _remember(self, claims: Iterable[Claim], markers: Iterable[Marker] | None = None) -> None:
        with self._writing:
            known = self._read()
            claimed, marked = known.claims | set(claims), known.markers
            facts: dict[str, Any] = {"format": _FORMAT, "claims": [[c.epoch, c.boot] for c in sorted(claimed)]}
            if markers is not None:
                marked = (marked or frozenset[Marker]()) | set(markers)
            if marked is not None:
                facts["markers"] = [[m.counter, m.change] for m in sorted(marked)]
            self._disk.write_atomically(HISTORY_FILE, json.dumps(facts).encode() + b"\n")
            self._known = _History(claimed, marked)


class ClaimedStore:
    """Implements `port.ObjectStore` over the tier of a standalone node: of the log nothing is put, and nothing deleted,
    before the claim of the leadership that goes on is there.

    A node that began to lead while the tier was away, on an old copy of a disk or beside a successor, may have an epoch
    as high as the successor's, or a higher one: what it put would outrank what the other one has acknowledged.
    """

    def __init__(self, store: ObjectStore, claims: Claims, claimed: Callable[[], Awaitable[None]]) -> None:
        """claimed(): returns when the claim is there. Raises NodeRetired, CoordinationUnavailable."""
        self._store = store
        self._claims = claims
        self._claimed = claimed

    async def _may_change(self, key: str) -> None:
        if not key.startswith(_FENCED):
            return
        try:
            await self._claimed()
            if marker := parse_marker(key):
                await self._claims.note(marker)
        except NodeRetired as error:
            raise Refused(str(error)) from error
        except (CoordinationUnavailable, StorageError, OSError) as error:
            raise Unreachable(f"{key} is left alone: {error}") from error

    async def put(
        self, key: str, body: Body, *, crc32: int | None = None, only_if_absent: bool = True, lock: bool = False
    ) -> Stored:
        await self._may_change(key)
        return await self._store.put(key, body, crc32=crc32, only_if_absent=only_if_absent, lock=lock)

    async def get(self, key: str) -> bytes:
        return await self._store.get(key)

    async def get_range(self, key: str, offset: int, size: int) -> bytes:
        return await self._store.get_range(key, offset, size)

    async def head(self, key: str) -> ObjectInfo:
        return await self._store.head(key)

    def list(self, prefix: str, after: str = "") -> AsyncIterator[str]:
        return self._store.list(prefix, after)

    async def delete(self, key: str) -> None:
        await self._may_change(key)
        await self._store.delete(key)

    async def close(self) -> None:
        await self._store.close()
