"""Instances that wait for their verdict: from senders here, and from other nodes."""

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Final

from replication.api import CommitOutcome, ConflictRefused, Draft, NotPromised, OnHold, WasDeleted
from replication.core import effects as fx
from replication.core import events as ev
from replication.core.values import Identity
from replication.messages import Propose, ProposeResult, ProposeSmall, to_point
from storage.deletion import Tombstone
from storage.errors import StorageFull
from storage.position import LogPoint
from storage.record import instance_path
from storage.staging import Staged
from storage.timing import Timings

_COUNTED: Final = {fx.Verdict.STORED: "stored", fx.Verdict.DUPLICATE: "duplicates"}


@dataclass(slots=True)
class Offer:
    """waiter: of a sender here. link, origin, ticket_there: of the node that offers it. since: when it was taken."""

    staged: Staged
    draft: Draft
    waiter: asyncio.Future[CommitOutcome] | None = None
    link: int = 0
    origin: Identity | None = None
    ticket_there: int = 0
    since: float = 0.0


class Offers:
    """By ticket; the core settles each exactly once.

    counts: what was committed through this node. let_go(staged): gives a reference back. commit: how long a sender
    here waits for an instance that is new.
    """

    def __init__(self, let_go: Callable[[Staged], None], commit: Timings) -> None:
        self._let_go = let_go
        self._commit = commit
        self._tickets = itertools.count(1)
        self._offers: dict[int, Offer] = {}
        self.counts = {"stored": 0, "duplicates": 0, "conflicts": 0, "stored_bytes": 0}

    def get(self, ticket: int) -> Offer | None:
        return self._offers.get(ticket)

    def take(self, offer: Offer, *, now_us: int, deadline_ms: int) -> ev.Proposed:
        """Give an offer its ticket; return the event that brings it before the core."""
        ticket = next(self._tickets)
        self._offers[ticket] = offer
        offer.since = perf_counter()
        draft, staged = offer.draft, offer.staged
        path = instance_path(draft.study_instance_uid, draft.series_instance_uid, draft.sop_instance_uid, None)
        stem = path.removesuffix(".dcm")
        covers = draft.small.covers if isinstance(draft.small, Tombstone) else ()
        return ev.Proposed(
            ticket=ticket,
            sop_instance_uid=draft.sop_instance_uid,
            transfer_syntax_uid=draft.transfer_syntax_uid,
            stem=stem,
            named=stem.endswith(f"/{draft.sop_instance_uid}"),
            dataset=staged.dataset_digest,
            digest=staged.digest,
            size=staged.size,
            time_us=now_us,
            deadline_ms=deadline_ms,
            relayed_from=offer.link or None,
            kind=draft.kind,
            again=draft.again,
            studies=frozenset(covered.study_instance_uid for covered in covers),
        )

    def relayed(self, ticket: int) -> tuple[Propose | ProposeSmall, Staged]:
        """What the leader is to be sent."""
        offer = self._offers[ticket]
        draft, staged = offer.draft, offer.staged
        if draft.small is not None:
            return ProposeSmall(ticket, draft.kind.value, staged.digest), staged
        message = Propose(
            ticket,
            draft.sop_class_uid,
            draft.sop_instance_uid,
            draft.study_instance_uid,
            draft.series_instance_uid,
            draft.transfer_syntax_uid,
            staged.meta_length,
            staged.dataset_digest,
            staged.digest,
            draft.again,
        )
        return message, staged

    def settle(self, effect: fx.Settle, committed: LogPoint) -> tuple[int, ProposeResult] | None:
        """Answer a sender here; or return the link and the answer for another node."""
        offer = self._offers.pop(effect.ticket)
        answer: tuple[int, ProposeResult] | None = None
        if offer.link:
            outcome = effect.verdict.value
            answer = offer.link, ProposeResult(offer.ticket_there, outcome, effect.reason, to_point(committed))
        elif offer.waiter is not None:
            if offer.draft.small is None:
                self._count(effect.verdict, offer.staged.size)
                if effect.verdict is fx.Verdict.STORED:
                    self._commit.took(perf_counter() - offer.since)
            if not offer.waiter.done():
                _answer(offer.waiter, effect)
        self._let_go(offer.staged)
        return answer

    def _count(self, verdict: fx.Verdict, size: int) -> None:
        if verdict in fx.COMMITTED:
            self.counts[_COUNTED.get(verdict, "conflicts")] += 1
            self.counts["stored_bytes"] += size

    def give_up(self, reason: str) -> None:
        """The node stops: nobody is promised anything any more."""
        for offer in self._offers.values():
            if offer.waiter is not None and not offer.waiter.done():
                offer.waiter.set_exception(NotPromised(reason))


def _answer(waiter: asyncio.Future[CommitOutcome], effect: fx.Settle) -> None:
    if effect.verdict in fx.COMMITTED:
        waiter.set_result(CommitOutcome(effect.verdict.value))
    elif effect.verdict is fx.Verdict.CONFLICT_REFUSED:
        waiter.set_exception(ConflictRefused("other bytes are stored under this UID"))
    elif effect.verdict is fx.Verdict.DELETED:
        waiter.set_exception(WasDeleted("it was deleted after it had been stored"))
    elif effect.verdict is fx.Verdict.ON_HOLD:
        waiter.set_exception(OnHold("a study of these is on legal hold"))
    elif effect.verdict is fx.Verdict.FULL:
        waiter.set_exception(StorageFull(effect.reason))
    else:
        waiter.set_exception(NotPromised(effect.reason))
