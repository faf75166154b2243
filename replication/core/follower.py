"""Following a leader: what is accepted, what is cut, what is confirmed (protocol, section 7)."""

from dataclasses import dataclass

from replication.core.effects import (
    AppendStaged,
    Committed,
    DropStaged,
    InstallSegment,
    LeadershipChanged,
    Truncate,
)
from replication.core.events import RecordReceived, SegmentInstalled, SegmentReceived
from replication.core.reconcile import epoch_table
from replication.core.situation import Situation
from replication.core.values import Identity
from replication.messages import (
    DAMAGED_LIMIT,
    Align,
    Aligned,
    Confirmed,
    Damaged,
    Heartbeat,
    Leave,
    Message,
    OpenStream,
    Rejected,
    StreamEnd,
    to_point,
)
from storage.position import LogPoint


@dataclass(slots=True)
class Stream:
    """The one leader that this node follows now."""

    link: int
    leader: Identity
    epoch: int
    aligned: bool = False
    heard_ms: int = 0
    refusal: str = ""
    committed: int | None = None
    """The highest record that the leader called committed; this log may end before it."""


class Following:
    """The follower's side of a stream. Idle while the node leads."""

    def __init__(self, situation: Situation) -> None:
        self._situation = situation
        self.stream: Stream | None = None
        self.working = False
        """A truncation or an installation is under way: the log's end is about to change."""
        self._waiting: tuple[int, Identity, OpenStream] | None = None
        """A leader that must wait until this node is admitted and its promise is on disk."""

    def stop(self) -> None:
        """Follow nobody: this node is about to lead, or the link is gone."""
        self.stream = None

    def link_lost(self, link: int) -> None:
        if self.stream is not None and self.stream.link == link:
            self.stream = None
        if self._waiting is not None and self._waiting[0] == link:
            self._waiting = None

    def hears_leader(self, within_ms: int) -> bool:
        """Whether an active leader spoke to this node lately."""
        return self.stream is not None and self._situation.now_ms - self.stream.heard_ms <= within_ms

    def why_not_near(self, reached: int, most: int | None, within_ms: int) -> str | None:
        """Why what this node holds may be more than `most` records behind what is committed; None when it is not.

        reached: the record up to which this node has everything. most: None for any number.
        """
        stream = self.stream
        if stream is None or not self.hears_leader(within_ms):
            return "this node hears no leader"
        if not stream.aligned or stream.committed is None:
            return "this node does not follow yet: it and the leader are comparing their logs"
        behind = max(0, stream.committed - reached)
        if most is not None and behind > most:
            return f"this node is {behind} records behind, more than {most}"
        return None

    def begin_anew(self, reason: str) -> None:
        """The log's end is not what the leader believes: let it ask again. A cut without room is not under way."""
        self.working = False
        if self.stream is not None:
            self.stream.aligned = False
            self._reject(self.stream.link, self.stream.epoch, reason)

    # The stream opens

    def open_stream(self, link: int, leader: Identity, message: OpenStream) -> bool:
        """A leader of `message.epoch` wants to feed this node. Returns whether it is followed from now on."""
        situation = self._situation
        if situation.fenced:
            return False  # it takes nothing, so it is not worth feeding
        if message.epoch < situation.wanted_promise:
            self._reject(link, message.epoch, "a higher epoch is promised")
            return False
        if not situation.admitted or situation.promise < message.epoch or self.working:
            self._waiting = (link, leader, message)
            if situation.admitted and situation.wanted_promise < message.epoch:
                situation.persist(message.epoch)
            return False
        if self.stream is None or (self.stream.leader, self.stream.epoch) != (leader, message.epoch):
            situation.emit(LeadershipChanged(leader, message.epoch, "announced itself"))
        self.stream = Stream(link, leader, message.epoch, heard_ms=situation.now_ms)
        end = situation.ledger.end
        self.tell_damage()  # first: no confirmation is counted before it is known what it is worth
        answer = StreamEnd(
            message.epoch,
            situation.promise,
            to_point(end),
            epoch_table(situation.ledger),
            to_point(situation.told),
        )
        situation.send(link, answer)
        return True

    def retry_waiting(self) -> bool:
        """The promise is on disk, or the log's end is settled: answer whoever had to wait."""
        waiting, self._waiting = self._waiting, None
        return waiting is not None and self.open_stream(*waiting)

    def _reject(self, link: int, epoch: int, reason: str) -> None:
        situation = self._situation
        situation.send(link, Rejected(epoch, situation.wanted_promise, to_point(situation.ledger.end), reason))

    def _followed(self, link: int, epoch: int) -> Stream | None:
        stream = self.stream
        if stream is None or (stream.link, stream.epoch) != (link, epoch) or self._situation.wanted_promise > epoch:
            return None
        stream.heard_ms = self._situation.now_ms
        return stream

    # Messages without a record

    def received(self, link: int, message: Message) -> None:
        """Align or Heartbeat, from the leader of the stream; anyone else's is rejected."""
        if not isinstance(message, (Align, Heartbeat)):
            return
        stream = self._followed(link, message.epoch)
        if stream is None:
            if message.epoch < self._situation.wanted_promise:
                self._reject(link, message.epoch, "a higher epoch is promised")
        elif isinstance(message, Heartbeat):
            stream.refusal = message.refusal
            self._learn_commit(stream, message.committed.log_point())
            self.confirm()
        else:
            self._align(stream, message)

    def _align(self, stream: Stream, message: Align) -> None:
        situation, point = self._situation, message.point.log_point()
        if self.working:
            return
        if message.end is not None and message.end.log_point() != situation.ledger.end:
            # An answer to what was said before: as a candidate this node copied a longer tail meanwhile. To cut by it
            # would take away what the leader itself may hold, and have committed.
            self.begin_anew("its log ends elsewhere by now")
        elif not situation.ledger.holds(point):
            situation.freeze(f"the leader's last common point {point.sequence} is not in this log")
        elif point != situation.ledger.end and point.sequence < situation.told.sequence:
            situation.freeze(f"told to cut at {point.sequence}, below the commit point {situation.told.sequence}")
        elif point != situation.ledger.end:
            self.working, stream.aligned = True, False
            situation.emit(Truncate(point))
        else:
            stream.aligned = True
            situation.send(stream.link, Aligned(stream.epoch, to_point(point)))

    def cut(self, point: LogPoint) -> None:
        """Cut the log for a takeover: this node leads, and follows nobody before it is done."""
        self.working = True
        self._situation.emit(Truncate(point))

    def truncated(self, point: LogPoint) -> None:
        """What was cut lies in lost+found; the log ends at `point`."""
        situation = self._situation
        self.working = False
        situation.ledger.resync()
        if self.stream is not None and situation.ledger.end == point:
            self.stream.aligned = True
            situation.send(self.stream.link, Aligned(self.stream.epoch, to_point(point)))

    # Records

    def record(self, event: RecordReceived) -> None:
        """Take the next record, or none at all."""
        situation = self._situation
        stream = self._followed(event.link, event.epoch)
        fits = (
            stream is not None
            and stream.aligned
            and not self.working
            and event.previous == situation.ledger.end
            and event.header.position.epoch <= event.epoch
            and situation.ledger.continued_by(event.header, event.chain)
        )
        if stream is None or not fits or situation.fenced:
            self._refuse(event.link, event.epoch, event.handle)
            return
        situation.ledger.appended(event.header, event.chain)
        situation.emit(AppendStaged(event.handle, event.header, event.chain))
        self._learn_commit(stream, event.committed)

    def _refuse(self, link: int, epoch: int, handle: int) -> None:
        self._situation.emit(DropStaged(handle))
        stream = self.stream
        if self._situation.fenced:
            return  # an objection would make the leader begin anew, at once and without end
        if stream is not None and stream.link == link and not stream.aligned:
            return  # leftovers of what was under way before the leader aligned anew
        if stream is not None:
            stream.aligned = False
        self._reject(link, epoch, "it does not continue this log")

    def segment(self, event: SegmentReceived) -> None:
        """Take a whole sealed segment that continues the log."""
        situation = self._situation
        stream = self._followed(event.link, event.epoch)
        fits = stream is not None and stream.aligned and not self.working and event.previous == situation.ledger.end
        if stream is None or not fits or situation.fenced or situation.ledger.durable != situation.ledger.end:
            self._refuse(event.link, event.epoch, event.handle)
            return
        self.working = True
        situation.emit(InstallSegment(event.handle, event.previous))

    def installed(self, event: SegmentInstalled) -> None:
        """The segment is part of the log, or was refused as a whole."""
        situation = self._situation
        self.working = False
        situation.ledger.resync()
        stream = self.stream
        if stream is None:
            return
        if event.end is None:
            stream.aligned = False
            self._reject(stream.link, stream.epoch, "the segment does not continue this log")
        else:
            self.confirm()

    # What is durable, what is committed

    def confirm(self) -> None:
        """Tell the leader what is durable here. Only under a promise that is on disk, and only as its follower."""
        situation, stream = self._situation, self.stream
        if stream is None or not stream.aligned or self.working or situation.fenced or not situation.admitted:
            return
        if situation.wanted_promise != stream.epoch or situation.promise != stream.epoch:
            return
        received = situation.ports.received_bytes(stream.link)
        situation.send(stream.link, Confirmed(stream.epoch, to_point(situation.ledger.durable), received))
        self.serve_committed()

    def _learn_commit(self, stream: Stream, committed: LogPoint) -> None:
        """Note how much of this log is committed. What lies beyond its end is no commit of this log's yet."""
        situation = self._situation
        stream.committed = max(stream.committed or 0, committed.sequence)
        if not stream.aligned:
            return
        if committed.epoch == stream.epoch and situation.ledger.durable.sequence >= committed.sequence:
            situation.settle_tail()
        if committed.sequence <= situation.told.sequence:
            return
        reached = min(committed.sequence, situation.ledger.end.sequence)
        own = situation.ledger.point_at(reached)
        if reached == committed.sequence and own != committed:
            situation.freeze(f"the commit point {committed.sequence} has another chain here")
        elif own is not None and reached > situation.told.sequence:
            situation.told = own
            self.serve_committed()

    def serve_committed(self) -> None:
        """What is both committed and durable here may be indexed and served."""
        situation = self._situation
        if self.stream is None or not self.stream.aligned:
            return
        reached = min(situation.told.sequence, situation.ledger.durable.sequence)
        if reached > situation.committed.sequence:
            point = situation.ledger.point_at(reached)
            if point is not None:
                situation.committed = point
                situation.emit(Committed(point))

    def tell_damage(self, link: int | None = None) -> None:
        """Tell the leader which records this node does not hold any more, over `link` or that of the stream."""
        situation = self._situation
        if self.stream is not None:
            found = sorted(situation.damaged)
            message = Damaged(situation.damage_changes, found[:DAMAGED_LIMIT], more=len(found) > DAMAGED_LIMIT)
            situation.send(self.stream.link if link is None else link, message)

    def leave(self, reason: str) -> None:
        """Ask the leader to take this node out of the in-sync set."""
        if self.stream is not None:
            self._situation.send(self.stream.link, Leave(reason))
