"""The leader's side of replication: one stream per follower, opened, reconciled, then fed and confirmed.

A confirmation belongs to one process of one replica over one connection, in one epoch; it dies with the stream.
"""

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from replication.core.effects import CloseLink, StartSending, StopSending
from replication.core.reconcile import LogsContradict, last_common
from replication.core.situation import Link, Situation
from replication.core.values import Identity, Member
from replication.messages import Align, Aligned, Confirmed, Damaged, OpenStream, Point, StreamEnd, to_point
from storage.position import GENESIS, LogPoint

REOPEN_MS = 500
"""An `OpenStream` or `Align` without an answer is sent again after this long."""
READY_RECORDS = 256
"""A learner this close to the log end has caught up: counting it from then on holds nobody up for long."""


class Stage(enum.Enum):
    """OPENING: asked where its log ends. REMOVING: it holds less than is committed, so the set must drop it first.
    ALIGNING: told where to cut. STREAMING: gets records. BROKEN: its log contradicts ours; never fed, never counted."""

    OPENING = "opening"
    REMOVING = "removing"
    ALIGNING = "aligning"
    STREAMING = "streaming"
    BROKEN = "broken"


@dataclass(slots=True)
class Stream:
    """One follower, as the leader of one epoch sees it."""

    link: Link
    peer: Identity
    stage: Stage
    opened_ms: int
    asked_ms: int
    progress_ms: int
    common: LogPoint = GENESIS
    end: Point | None = None
    """Where the follower's log ended when it showed its table of epochs."""
    confirmed: LogPoint = GENESIS
    received: int = 0
    leaving: bool = False


class Streams:
    """All followers of one leadership."""

    def __init__(self, situation: Situation, epoch: int) -> None:
        self._situation = situation
        self._epoch = epoch
        self.by_link: dict[int, Stream] = {}
        self._said: dict[Member, tuple[str, Damaged]] = {}
        """The boot and the last word of each member on its damage; it outlives a link."""

    def of(self, member: Member) -> Stream | None:
        return next((s for s in self.by_link.values() if s.peer.member == member), None)

    def open_missing(self) -> None:
        """Open a stream to every connected replica that has none."""
        busy = {stream.peer for stream in self.by_link.values()}
        for link in list(self._situation.links.values()):
            best = self._situation.link_to(link.peer.id)
            if link.peer not in busy and best is link:
                self._open(link)

    def _open(self, link: Link) -> None:
        now = self._situation.now_ms
        self.by_link[link.number] = Stream(link, link.peer, Stage.OPENING, now, now, now)
        self._ask(link.number)

    def _ask(self, link: int) -> None:
        self._situation.send(link, OpenStream(self._epoch, to_point(self._situation.told)))

    def reopen(self, stream: Stream) -> None:
        """Start over with a follower that did not accept what it was sent: its confirmation no longer counts."""
        self._situation.emit(StopSending(stream.link.number))
        stream.stage, stream.confirmed, stream.leaving = Stage.OPENING, GENESIS, False
        stream.asked_ms = self._situation.now_ms
        self._ask(stream.link.number)

    def lost(self, link: int) -> None:
        self.by_link.pop(link, None)

    def stop_all(self) -> None:
        for link, stream in self.by_link.items():
            if stream.stage is Stage.STREAMING:
                self._situation.emit(StopSending(link))
        self.by_link.clear()

    def ask_again(self) -> None:
        """Repeat questions that found no answer."""
        now = self._situation.now_ms
        for link, stream in self.by_link.items():
            if now - stream.asked_ms < REOPEN_MS:
                continue
            if stream.stage in (Stage.OPENING, Stage.ALIGNING):
                # An Align may still be at work (moving records to lost+found takes time); asking again is harmless.
                stream.stage, stream.asked_ms = Stage.OPENING, now
                self._ask(link)

    def hang_up(self, allowance_ms: int) -> None:
        """End connections that carry nothing any more, whatever the reason: a new one starts afresh."""
        now = self._situation.now_ms
        patience = 3 * self._situation.settings.stall_timeout_ms
        for link, stream in self.by_link.items():
            if stream.stage is Stage.STREAMING:
                silent = now - stream.progress_ms > patience + allowance_ms
            else:
                asking = stream.stage in (Stage.OPENING, Stage.ALIGNING)
                silent = asking and now - max(stream.link.heard_ms, stream.opened_ms) > patience
            if silent:
                self._situation.emit(CloseLink(link, "nothing came over it for too long"))

    def ended(self, stream: Stream, message: StreamEnd) -> None:
        """Find the last common point with a follower that showed its table of epochs.

        Freezes this node when the follower knows of a commit that this log lacks: then it must not lead.
        """
        situation = self._situation
        if message.epoch != self._epoch or stream.stage is not Stage.OPENING:
            return
        stream.end = message.end
        told = message.in_memory_commit.log_point()
        if not situation.ledger.holds(told):
            situation.freeze(f"{stream.peer.id} was told of a commit at {told.sequence} that this log lacks")
            return
        complete = not message.epochs or message.epochs[0].first == 1
        try:
            stream.common = last_common(situation.ledger, message.epochs, complete=complete)
        except LogsContradict:
            stream.stage = Stage.BROKEN
            return
        stream.stage = Stage.REMOVING if stream.common.sequence < situation.told.sequence else Stage.ALIGNING
        if stream.stage is Stage.ALIGNING:
            self._align(stream)

    def removed(self, required: frozenset[Member]) -> None:
        """Followers that lacked committed records and are no longer counted may be caught up as learners."""
        for stream in self.by_link.values():
            if stream.stage is Stage.REMOVING and stream.peer.member not in required:
                stream.stage = Stage.ALIGNING
                self._align(stream)

    def _align(self, stream: Stream) -> None:
        stream.asked_ms = self._situation.now_ms
        self._situation.send(stream.link.number, Align(self._epoch, to_point(stream.common), stream.end))

    def aligned(self, stream: Stream, message: Aligned) -> None:
        """The follower stands at a common point: feed it from there."""
        end = message.end.log_point()
        if message.epoch != self._epoch or stream.stage is not Stage.ALIGNING:
            return
        if not self._situation.ledger.holds(end):
            self.reopen(stream)
            return
        stream.stage = Stage.STREAMING
        stream.progress_ms = self._situation.now_ms
        self._situation.emit(StartSending(stream.link.number, self._epoch, end))

    def confirmed(self, stream: Stream, message: Confirmed) -> None:
        """Count what a follower says is durable, if its chain is ours."""
        situation = self._situation
        if message.epoch != self._epoch or stream.stage is not Stage.STREAMING:
            return
        point = message.durable.log_point()
        if point.sequence < stream.confirmed.sequence or not situation.ledger.holds(point):
            # It lost what it had confirmed, or confirms what was never written: it is not what it was.
            stream.stage = Stage.BROKEN
            situation.emit(StopSending(stream.link.number))
            situation.emit(CloseLink(stream.link.number, "its confirmation contradicts the log"))
            return
        advanced = point.sequence > stream.confirmed.sequence or message.received > stream.received
        if advanced or point.sequence >= situation.ledger.durable.sequence:
            stream.progress_ms = situation.now_ms
        stream.confirmed, stream.received = point, message.received

    def confirmations(self) -> dict[Member, int]:
        """Per member, the highest sequence that its present process confirmed in this epoch."""
        return {
            stream.peer.member: stream.confirmed.sequence
            for stream in self.by_link.values()
            if stream.stage is Stage.STREAMING
        }

    def gone(self, members: Iterable[Member], *, since_ms: int, allowance_ms: int) -> set[Member]:
        """Members that are disconnected or make no progress.

        since_ms: when this leadership began to watch. allowance_ms: extra patience for bytes on their way to a disk.
        """
        return {m for m in members if m != self._situation.me.member and self._is_gone(m, since_ms, allowance_ms)}

    def _is_gone(self, member: Member, since_ms: int, allowance_ms: int) -> bool:
        situation = self._situation
        settings, now = situation.settings, situation.now_ms
        stream = self.of(member)
        if stream is None:
            lost_ms = max(since_ms, situation.lost_links_ms.get(member.id, since_ms))
            return now - lost_ms >= settings.disconnect_grace_ms
        if stream.leaving or stream.stage is Stage.BROKEN:
            return True
        if stream.stage is Stage.STREAMING:
            return now - stream.progress_ms > settings.stall_timeout_ms + allowance_ms
        return now - stream.opened_ms > settings.stall_timeout_ms

    def told_of_damage(self, peer: Identity, message: Damaged) -> None:
        said = self._said.get(peer.member)
        if said is None or said[0] != peer.boot or said[1].number <= message.number:
            self._said[peer.member] = (peer.boot, message)

    def damage(self) -> dict[Member, Damaged]:
        """What members said of their damage, sound ones left out."""
        return {member: message for member, (_, message) in self._said.items() if message.sequences}

    def sound(self) -> set[Member]:
        """Members that may be given the lead: fed, not about to leave, and without known damage."""
        fed = (stream for stream in self.by_link.values() if stream.stage is Stage.STREAMING and not stream.leaving)
        return {stream.peer.member for stream in fed} - self.damage().keys()

    def behind(self) -> set[Member]:
        """Members that hold less than is committed."""
        return {s.peer.member for s in self.by_link.values() if s.stage is Stage.REMOVING}

    def ready(self, epoch_record: int) -> set[Member]:
        """Replicas that hold everything committed, this epoch's beginning included, and nearly everything else."""
        situation = self._situation
        enough = max(situation.told.sequence, epoch_record, situation.ledger.end.sequence - READY_RECORDS)
        return {
            stream.peer.member
            for stream in self.by_link.values()
            if stream.stage is Stage.STREAMING and not stream.leaving and stream.confirmed.sequence >= enough
        }
