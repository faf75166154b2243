"""Tombstones and notes on their way into the log, and what a leader must know before it deletes (ADR 0011)."""

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from replication.api import CommitOutcome, Draft, NotPromised
from replication.coordination.port import CoordinationCorrupt, CoordinationUnavailable
from replication.core import events as ev
from replication.core.values import Member
from replication.offers import Offer
from storage.deletion import Note, Tombstone, encode_note, encode_tombstone
from storage.position import RecordKind
from storage.staging import Staged, StagingArea

if TYPE_CHECKING:
    from replication.replicator import Replicator

_LOG: Final = logging.getLogger("perenne.deleting")


class Deleting:
    """Of one node."""

    def __init__(self, replicator: "Replicator") -> None:
        self._replicator = replicator

    async def commit(self, small: Tombstone | Note) -> CommitOutcome:
        """Offer a tombstone or note; return once it is committed. Raises NotPromised, OnHold, NotUnderstood."""
        staged = await asyncio.to_thread(staged_small, self._replicator.staging, small)
        await self._look_who_is_registered(small)
        return await self._replicator.commit(Draft(staged=staged, small=small))

    async def offered(self, offer: Offer) -> None:
        """Another node relays a tombstone or note."""
        assert offer.draft.small is not None, "an instance is offered at once"
        await self._look_who_is_registered(offer.draft.small)
        self._replicator.offer(offer)

    async def _look_who_is_registered(self, small: Tombstone | Note) -> None:
        """Asked for while this node leads: the core takes it for the epoch in which it was asked."""
        replicator = self._replicator
        leadership = replicator.core.leadership
        if leadership is None or not isinstance(small, Tombstone):
            return
        epoch = leadership.epoch
        try:
            found = await replicator.coordinator.registrations()
        except (CoordinationUnavailable, CoordinationCorrupt) as error:
            _LOG.warning("nothing can be deleted now", extra={"reason": str(error)})
            return  # the core refuses: it was never told, or was told before
        members = frozenset(Member(node.id, node.incarnation) for node in found.values() if not node.retired)
        replicator.feed(ev.RegisteredSeen(epoch, members))


def staged_small(staging: StagingArea, small: Tombstone | Note) -> Staged:
    """The payload of a tombstone or note, hashed. Raises NotUnderstood, NotPromised."""
    if isinstance(small, Tombstone):
        payload, kind = encode_tombstone(small), RecordKind.TOMBSTONE
    else:
        payload, kind = encode_note(small), RecordKind.NOTE
    receiving = staging.begin_raw(kind)
    try:
        receiving.write(memoryview(payload))
    except OSError as error:
        receiving.abandon()
        raise NotPromised("no room to stage it") from error
    return receiving.finish()
