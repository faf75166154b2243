"""What peers say, turned into events, and the payloads that came with it until the core decided about them."""

import itertools
from typing import TYPE_CHECKING

from replication.api import Draft
from replication.arriving import ArrivingSegment
from replication.core import events as ev
from replication.core.values import Identity
from replication.incoming import Gone, Payload
from replication.messages import (
    Append,
    Chains,
    ChainsAnswer,
    Confirmed,
    Fetched,
    FetchEnd,
    Lookup,
    LookupAnswer,
    Message,
    Propose,
    ProposeResult,
    ProposeSmall,
    Rejected,
    Segment,
)
from replication.offers import Offer
from replication.troubles import REJECTED
from storage.deletion import NotUnderstood, decode_small
from storage.position import RecordKind
from storage.staging import Staged

if TYPE_CHECKING:
    from replication.replicator import Replicator


class Held:
    """Payloads by the handle under which the core speaks of them."""

    def __init__(self) -> None:
        self._handles = itertools.count(1)
        self._payloads: dict[int, Payload] = {}

    def add(self, payload: Payload) -> int:
        handle = next(self._handles)
        self._payloads[handle] = payload
        return handle

    def take(self, handle: int) -> Payload:
        """None when nothing lies under it any more."""
        return self._payloads.pop(handle, None)


class Inbox:
    """One node's ear."""

    def __init__(self, replicator: "Replicator", held: Held) -> None:
        self._replicator = replicator
        self._held = held

    def message(self, link: int, peer: Identity, message: Message, payload: Payload) -> None:
        """Turn what came from a peer into an event."""
        replicator = self._replicator
        match message:
            case Append():
                self._record_came(link, peer, message, payload)
            case Confirmed():
                replicator.feed(ev.Received(link, peer, message))
                replicator.feeder.confirmed(link, message.durable.sequence)
                replicator.troubles.confirmed_by(peer.id)
            case Rejected():
                replicator.troubles.count(peer.id, REJECTED)
                replicator.feed(ev.Received(link, peer, message))
            case Propose() if isinstance(payload, Staged):
                self._propose_came(link, peer, message, payload)
            case ProposeSmall() if isinstance(payload, Staged):
                self._small_came(link, peer, message, payload)
            case ProposeResult():
                replicator.feed(ev.ProposalAnswered(link, message.ticket, message.outcome, message.reason))
            case Fetched() | FetchEnd() if replicator.mender.asked(message.nonce):
                replicator.mender.answered(message, payload)
            case Fetched() if isinstance(payload, (Staged, Gone)):
                record = message.record
                handle = self._held.add(payload)
                previous = message.previous.log_point()
                replicator.feed(ev.RecordFetched(peer, message.nonce, previous, record.header(), record.chain, handle))
            case Segment() if isinstance(payload, ArrivingSegment):
                points = (message.previous.log_point(), message.end.log_point(), message.committed.log_point())
                replicator.feed(ev.SegmentReceived(link, peer, message.epoch, *points, self._held.add(payload)))
            case Lookup():
                replicator.spawn(replicator.lookups.answer(link, message))
            case LookupAnswer():
                replicator.lookups.answered(message, payload)
            case Chains():
                replicator.spawn(replicator.comparer.answer(link, message))
            case ChainsAnswer():
                replicator.comparer.answered(message)
            case _:
                replicator.drop(payload)
                replicator.feed(ev.Received(link, peer, message))

    def _record_came(self, link: int, peer: Identity, message: Append, payload: Payload) -> None:
        replicator, record = self._replicator, message.record
        if message.proposal:
            offer = replicator.offers.get(message.proposal)
            if offer is None or offer.staged.digest != record.digest:
                replicator.hang_up(link, "the instance that was offered is gone: send it whole")
                return
            offer.staged.retain()
            payload = offer.staged
        if not isinstance(payload, (Staged, Gone)):
            replicator.hang_up(link, "a record came without its payload")
            return
        previous, committed = message.previous.log_point(), message.committed.log_point()
        header, handle = record.header(), self._held.add(payload)
        replicator.feed(ev.RecordReceived(link, peer, message.epoch, previous, committed, header, record.chain, handle))

    def _propose_came(self, link: int, peer: Identity, message: Propose, payload: Staged) -> None:
        draft = Draft(
            staged=payload,
            sop_class_uid=message.sop_class_uid,
            sop_instance_uid=message.sop_instance_uid,
            study_instance_uid=message.study_instance_uid,
            series_instance_uid=message.series_instance_uid,
            transfer_syntax_uid=message.transfer_syntax_uid,
            again=message.again,
        )
        self._replicator.offer(Offer(payload, draft, link=link, origin=peer, ticket_there=message.ticket))

    def _small_came(self, link: int, peer: Identity, message: ProposeSmall, payload: Staged) -> None:
        try:
            small = decode_small(RecordKind(message.kind), b"".join(payload.parts()))
        except NotUnderstood as error:
            self._replicator.drop(payload)
            self._replicator.hang_up(link, str(error)[:64])
            return
        draft = Draft(staged=payload, small=small)
        offer = Offer(payload, draft, link=link, origin=peer, ticket_there=message.ticket)
        self._replicator.spawn(self._replicator.deleting.offered(offer))
