"""`claim/<epoch>-<boot>`: to which history of a standalone node the bucket belongs (protocol, section 3; ADR 0013).

A standalone node keeps its cluster state in a file, and a file fences nothing: a disk that was cloned, a node that was
restored elsewhere while the old one still runs, each has a state of its own that says that it leads. So each start puts
a claim before it leads, and looks at the claims again after its puts and before it counts the tier. One that is not of
the history on its own disk is another's, who came later: whoever sees it acknowledges nothing any more.
"""

import asyncio
import json
from collections.abc import Iterable
from typing import Any, Final

from replication.coordination.port import ClusterRecord, CoordinationUnavailable, NodeRetired
from replication.tier.keys import CLAIM, Claim, parse_claim
from replication.tier.manifest import claim_for
from replication.tier.port import ObjectStore, TierError
from storage.disk import Disk
from storage.errors import FormatError, StorageError

HISTORY_FILE: Final = "standalone-claims.json"
_FORMAT: Final = 1


class Claims:
    """Of one data directory."""

    def __init__(self, disk: Disk, store: ObjectStore, cluster: ClusterRecord) -> None:
        self._disk = disk
        self._store = store
        self._cluster = cluster
        self._mine: Claim | None = None
        self._known: frozenset[Claim] | None = None
        """The history, once it was read; this process alone writes it."""

    async def hold(self, epoch: int, boot: str) -> None:
        """Return when the bucket shows the claim of this start, and none that is not of this history.

        Raises NodeRetired when there is another one, CoordinationUnavailable when the bucket does not say.
        """
        mine = Claim(epoch, boot)
        try:
            if mine != self._mine:
                await claim_for(self._store, self._cluster)
            found = await self._listed()
            if mine not in found:
                await asyncio.to_thread(
                    self._remember, [mine]
                )  # before it is there: after a crash it must be known for one's own
                await self._store.put(mine.key, b"{}\n")
                if mine not in (found := await self._listed()):
                    raise CoordinationUnavailable(f"the tier does not list {mine.key}, which was just put")
            if mine != self._mine:
                self._mine = mine
                await self._tidy(claim for claim in found if claim.epoch < epoch)
        except (TierError, StorageError, OSError) as error:
            raise CoordinationUnavailable(f"the tier is not claimed: {error}") from error

    async def adopt(self) -> int:
        """Make everything that is claimed part of this history: an operator says that those nodes are gone.

        Returns the highest epoch. Raises TierError, StorageError.
        """
        found = await self._all()
        await asyncio.to_thread(self._remember, found)
        return max((claim.epoch for claim in found), default=0)

    async def _all(self) -> list[Claim]:
        return [claim async for key in self._store.list(CLAIM) if (claim := parse_claim(key)) is not None]

    async def _listed(self) -> list[Claim]:
        """Raises NodeRetired, TierError, StorageError."""
        found = await self._all()
        if self._known is None:
            self._known = await asyncio.to_thread(self._history)
        if strangers := sorted(set(found) - self._known):
            raise NodeRetired(
                f"another standalone node has taken the tier over ({strangers[-1].key}): it was restored elsewhere, or"
                " this disk was cloned or put back from a copy. Keep this data directory as it is. If the other one is"
                " to stay, leave this one stopped; if it is gone for good, bring everything back into an empty"
                " data_dir: perenne restore --config FILE --cluster"
            )
        return found

    async def _tidy(self, older: Iterable[Claim]) -> None:
        """Earlier starts of this history say nothing any more. One that is retained is listed on, and does no harm."""
        for claim in older:
            try:
                await self._store.delete(claim.key)
            except TierError:
                return

    def _history(self) -> frozenset[Claim]:
        """Raises FormatError."""
        if not self._disk.exists(HISTORY_FILE):
            return frozenset()
        try:
            facts: Any = json.loads(self._disk.read(HISTORY_FILE))
            if facts["format"] != _FORMAT:
                raise ValueError(f"format {facts['format']} is not known to this version")
            return frozenset(Claim(int(epoch), str(boot)) for epoch, boot in facts["claims"])
        except (ValueError, KeyError, TypeError) as error:
            raise FormatError(f"{HISTORY_FILE} cannot be read: {error}") from error

    def _remember(self, claims: Iterable[Claim]) -> None:
        known = self._history() | set(claims)
        facts = {"format": _FORMAT, "claims": [[claim.epoch, claim.boot] for claim in sorted(known)]}
        self._disk.write_atomically(HISTORY_FILE, json.dumps(facts).encode() + b"\n")
        self._known = known
