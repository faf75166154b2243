"""Instances, tombstones and notes offered for commitment, from the offer to the answer, across changes of leader.

Every ticket is settled exactly once. An answer that depends on a record waits until that record is committed:
also "duplicate" and "conflict refused" rest on the record that was there first (protocol, section 4).
"""

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from replication.core.effects import COMMITTED, AppendProposal, CloseLink, RelayProposal, Settle, Verdict
from replication.core.events import ProposalAnswered, Proposed
from replication.core.ports import KnownTombstone, KnownVersion
from replication.core.situation import ConflictPolicy, Situation
from replication.core.values import Identity
from storage.position import LogPosition, RecordHeader, RecordKind, chain_after

RETRY_MS = 100
"""How long an offer waits after "not leader" before it asks again, unless a leader announces itself first."""


class _Stage(enum.Enum):
    HELD = "held"
    RELAYED = "relayed"
    AWAITED = "awaited"


@dataclass(slots=True)
class _Pending:
    offer: Proposed
    stage: _Stage = _Stage.HELD
    link: int = 0
    rests_on: int = 0
    verdict: Verdict = Verdict.STORED
    retry_at_ms: int = 0


@dataclass(slots=True)
class Proposals:
    """All tickets of one node that are not yet settled."""

    situation: Situation
    _pending: dict[int, _Pending] = field(default_factory=dict[int, _Pending])
    _held: dict[int, None] = field(default_factory=dict[int, None])
    """The tickets in stage HELD: asked for at every step, and nearly always none."""
    _awaiting: dict[int, list[int]] = field(default_factory=dict[int, list[int]])
    """Tickets by the sequence that their answer rests on."""
    _numbered: dict[str, list[KnownVersion]] = field(default_factory=dict[str, list[KnownVersion]])
    """What this leadership numbered and did not yet see committed: the catalogue hears of it a little later."""
    _numbered_at: dict[int, str] = field(default_factory=dict[int, str])
    _settled_to: int = 0
    _proven_from: int = 0
    """This epoch's own record: once it is committed, every member has said which records it holds damaged."""

    def __len__(self) -> int:
        return len(self._pending)

    def offer(self, offer: Proposed) -> None:
        """Take a ticket in. `number` or `relay` moves it on."""
        self._pending[offer.ticket] = _Pending(offer)
        self._held[offer.ticket] = None

    def held(self) -> list[int]:
        """Tickets that wait to be numbered or relayed, oldest first."""
        if not self._held:
            return []
        now = self.situation.now_ms
        return sorted(ticket for ticket in self._held if self._pending[ticket].retry_at_ms <= now)

    def number(self, ticket: int, epoch: int, unsound: Callable[[int], bool]) -> int:
        """Active leader: give the offer its place in the log, or find the record that it duplicates.

        unsound(sequence): a member holds that record damaged. An instance that lies in such records only is appended
        anew, so that everybody holds it again (ADR 0006). Returns the payload bytes of the offer.
        """
        offer = self._pending[ticket].offer
        if offer.kind is not RecordKind.INSTANCE:
            self._number_small(ticket, epoch)
            return offer.size
        versions = self._versions(offer.sop_instance_uid)
        buried = self.situation.ports.catalogue.tombstones(offer.sop_instance_uid) if versions or offer.again else ()
        same, others, covered = list[int](), list[int](), False
        for version in versions:
            if is_covered(version, buried):
                covered = True  # by a tombstone that may not be committed yet: what is appended now lies behind it
                continue
            equal = (version.dataset, version.transfer_syntax_uid) == (offer.dataset, offer.transfer_syntax_uid)
            (same if equal else others).append(version.sequence)
        sound = next((sequence for sequence in same if not unsound(sequence)), None)
        deleted = max((tombstone.sequence for tombstone in buried if tombstone.dataset == offer.dataset), default=0)
        if sound is not None:
            self._await(ticket, sound, Verdict.DUPLICATE)
        elif offer.again and deleted and not same:
            self._await(ticket, deleted, Verdict.DELETED)
        elif others and not same and self.situation.settings.conflict_policy is ConflictPolicy.REFUSE:
            self._await(ticket, others[-1], Verdict.CONFLICT_REFUSED)
        else:
            self._append(ticket, epoch, conflict=bool(others), taken=bool(others) or covered)
        return offer.size

    def _number_small(self, ticket: int, epoch: int) -> None:
        """A tombstone or a note. One that was numbered by an earlier leader, and then offered anew, is there once."""
        offer, catalogue = self._pending[ticket].offer, self.situation.ports.catalogue
        there = catalogue.recorded(offer.digest)
        held = max((catalogue.hold(study) for study in offer.studies), default=0)
        if there:
            self._await(ticket, there, Verdict.DUPLICATE)
        elif held:
            self._await(ticket, held, Verdict.ON_HOLD)
        else:
            path = f"perenne/{self.situation.ledger.end.sequence + 1:012d}-{offer.kind.value}.json"
            self._await(ticket, self._write(ticket, epoch, path), Verdict.STORED)

    def kind_of(self, ticket: int) -> RecordKind:
        return self._pending[ticket].offer.kind

    def refuse(self, ticket: int, reason: str) -> None:
        """Active leader: it cannot be numbered now, and whoever offers it is to know why."""
        self._settle(ticket, Verdict.NOT_PROMISED, reason)

    def _versions(self, uid: str) -> list[KnownVersion]:
        found = {version.sequence: version for version in self.situation.ports.catalogue.versions(uid)}
        found.update({version.sequence: version for version in self._numbered.get(uid, ())})
        return [found[sequence] for sequence in sorted(found)]

    def _append(self, ticket: int, epoch: int, *, conflict: bool, taken: bool) -> None:
        offer = self._pending[ticket].offer
        # Two members of one name would overwrite each other when tar extracts them; no UID has a `v` in it.
        version = f".v{self.situation.ledger.end.sequence + 1}" if taken or not offer.named else ""
        sequence = self._write(ticket, epoch, f"{offer.stem}{version}.dcm")
        known = KnownVersion(sequence, offer.dataset, offer.transfer_syntax_uid)
        self._numbered.setdefault(offer.sop_instance_uid, []).append(known)
        self._numbered_at[sequence] = offer.sop_instance_uid
        self._await(ticket, sequence, Verdict.CONFLICT_KEPT if conflict else Verdict.STORED)

    def _write(self, ticket: int, epoch: int, path: str) -> int:
        """Number the offer; return its sequence."""
        situation, offer = self.situation, self._pending[ticket].offer
        previous = situation.ledger.end
        position = LogPosition(epoch, previous.sequence + 1)
        header = RecordHeader(position, offer.kind, offer.dataset, offer.digest, offer.time_us, path, offer.size)
        chain = chain_after(previous.chain, header)
        situation.ledger.appended(header, chain)
        situation.emit(AppendProposal(ticket, header, chain))
        return position.sequence

    def _await(self, ticket: int, sequence: int, verdict: Verdict) -> None:
        pending = self._pending[ticket]
        until = max(sequence, self._proven_from)
        if until <= self._settled_to:
            self._settle(ticket, verdict, "")
            return
        self._move(pending, _Stage.AWAITED)
        pending.rests_on, pending.verdict = sequence, verdict
        self._awaiting.setdefault(until, []).append(ticket)

    def relay(self, ticket: int, link: int) -> None:
        """Follower: hand the offer to the leader at the other end of `link`."""
        pending = self._pending[ticket]
        if pending.offer.relayed_from is not None:
            self._settle(ticket, Verdict.NOT_LEADER, "not the leader")
            return
        self._move(pending, _Stage.RELAYED)
        pending.link = link
        self.situation.emit(RelayProposal(ticket, link))

    def answered(self, event: ProposalAnswered) -> None:
        """The leader answered a relayed offer; "not-leader" puts it back in line."""
        pending = self._pending.get(event.ticket)
        if pending is None or pending.stage is not _Stage.RELAYED or pending.link != event.link:
            return  # a leader that was given up says this: the new one decides
        verdict = Verdict(event.outcome)
        if verdict is Verdict.NOT_LEADER:
            self._move(pending, _Stage.HELD, self.situation.now_ms + RETRY_MS)
        else:
            self._settle(event.ticket, verdict, event.reason)

    def committed(self, sequence: int, unsound: Callable[[int], bool]) -> None:
        """Active leader: everything up to `sequence` is committed; answer whatever rested on it.

        Where the record was found damaged meanwhile, the offer starts over.
        """
        while self._settled_to < sequence:
            self._settled_to += 1
            uid = self._numbered_at.pop(self._settled_to, None)
            if uid is not None:
                self._forget_numbered(uid, self._settled_to)
            for ticket in self._awaiting.pop(self._settled_to, ()):
                pending = self._pending.get(ticket)
                if pending is None:
                    continue
                if pending.verdict in COMMITTED and unsound(pending.rests_on):
                    self._move(pending, _Stage.HELD)
                else:
                    self._settle(ticket, pending.verdict, "")

    def _forget_numbered(self, uid: str, sequence: int) -> None:
        left = [version for version in self._numbered[uid] if version.sequence > sequence]
        if left:
            self._numbered[uid] = left
        else:
            del self._numbered[uid]

    def leadership_began(self, committed: int, epoch_record: int) -> None:
        """Nothing above `committed` is settled: tickets that rest on a record wait for it to be committed anew, and no
        answer is given before `epoch_record` is.
        """
        self._settled_to, self._proven_from = committed, epoch_record

    def leadership_ended(self) -> None:
        """What is not committed is not ours to answer any more: relayed tickets go back, own ones start over."""
        self._awaiting.clear()
        self._numbered.clear()
        self._numbered_at.clear()
        for ticket, pending in list(self._pending.items()):
            if pending.offer.relayed_from is not None:
                self._settle(ticket, Verdict.NOT_LEADER, "the leader stepped down")
            elif pending.stage is _Stage.AWAITED:
                self._move(pending, _Stage.HELD)

    def leader_announced(self, leader: Identity) -> None:
        """`leader` takes offers now: whoever waits, or asked somebody else, asks it at once."""
        for pending in self._pending.values():
            pending.retry_at_ms = 0
            if pending.stage is _Stage.RELAYED:
                asked = self.situation.links.get(pending.link)
                if asked is None or asked.peer != leader:
                    self._move(pending, _Stage.HELD)

    def link_lost(self, link: int) -> None:
        """Offers relayed over `link` go back in line; those that came over it have nobody left to answer."""
        for ticket, pending in list(self._pending.items()):
            if pending.stage is _Stage.RELAYED and pending.link == link:
                self._move(pending, _Stage.HELD)
            elif pending.offer.relayed_from == link:
                self._settle(ticket, Verdict.NOT_LEADER, "the link was lost")

    def expire(self, reason: str) -> None:
        """Tell senders whose time is up "not promised"; the record, if there is one, stays."""
        now, situation = self.situation.now_ms, self.situation
        for ticket in [t for t, p in self._pending.items() if p.offer.deadline_ms <= now]:
            pending = self._pending[ticket]
            link = situation.links.get(pending.link) if pending.stage is _Stage.RELAYED else None
            if link is not None and now - link.heard_ms > situation.settings.stall_timeout_ms:
                # The leader answers in this time, if only "not promised": what was sent does not reach it.
                situation.emit(CloseLink(link.number, "a proposal found no answer"))
            self._settle(ticket, Verdict.NOT_PROMISED, reason)

    def _move(self, pending: _Pending, stage: _Stage, retry_at_ms: int = 0) -> None:
        pending.stage, pending.retry_at_ms = stage, retry_at_ms
        if stage is _Stage.HELD:
            self._held[pending.offer.ticket] = None
        else:
            self._held.pop(pending.offer.ticket, None)

    def _settle(self, ticket: int, verdict: Verdict, reason: str) -> None:
        del self._pending[ticket]
        self._held.pop(ticket, None)
        self.situation.emit(Settle(ticket, verdict, reason))


def is_covered(version: KnownVersion, tombstones: Iterable[KnownTombstone], upto: int | None = None) -> bool:
    """Whether one of the tombstones, of those up to `upto` where it is given, covers this version."""
    return any(
        tombstone.dataset == version.dataset
        and tombstone.sequence > version.sequence
        and (upto is None or tombstone.sequence <= upto)
        for tombstone in tombstones
    )
