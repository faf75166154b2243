"""Standing for election: ask the others, copy a longer tail, promise, and try the compare-and-set (section 6)."""

import enum
from dataclasses import replace

from replication.core.effects import AppendStaged, DropStaged
from replication.core.eligibility import through_tier
from replication.core.events import RecordFetched, StateWritten
from replication.core.situation import Link, Situation
from replication.core.statewriter import StateWriter, Written
from replication.core.values import TIER_MEMBER, Member, Phase, ReplicaId, VersionedState
from replication.messages import Fetch, FetchEnd, Survey, SurveyAnswer, to_point
from storage.position import LogPosition

SURVEY_MS = 300
"""How long a connected member may take to answer."""
COPY_MS = 5000
"""How long a member that shows a longer tail may delay the candidate (protocol, section 6)."""
RANK_MS = 150
"""A candidate gives way this long to each better placed one, so that they do not bid each other's epochs up."""
THROUGH_TIER_RANK = 3

MEETING_MS = 5_000
"""So long after its start a node waits for members of the set that it has not heard."""


class Stage(enum.Enum):
    """ASKING: answers are awaited. COPYING: a longer tail is fetched. YIELDING: a better placed candidate goes first.
    PROMISING: the promise is on its way to the disk. TAKING: the compare-and-set is."""

    ASKING = "asking"
    COPYING = "copying"
    YIELDING = "yielding"
    PROMISING = "promising"
    TAKING = "taking"


class Candidacy:
    """One attempt to lead, judged against one version of `state`; a newer version ends it."""

    def __init__(self, situation: Situation, base: VersionedState, nonce: int, *, insist: bool) -> None:
        self._situation = situation
        self.base = base
        self._nonce = nonce
        self._insist = insist
        self._through_tier = through_tier(base.state, situation.me.member, situation.ledger)
        self.stage = Stage.ASKING
        self.answers: dict[Member, SurveyAnswer] = {}
        self._asked: dict[Member, Link] = {}
        self._waiting_ms = situation.now_ms
        """Up to when it is counted how long this node has waited."""
        self._until_ms = situation.now_ms + SURVEY_MS
        self._ask_again_ms = 0
        self._copying_from: Member | None = None
        self._exhausted: set[Member] = set()
        self.epoch = 0
        self.writer: StateWriter | None = None
        self.won = False
        self.over = False

    def begin(self) -> None:
        """Ask every connected replica; members of the set matter for the tail, all for their promises."""
        self._ask()
        self.tend()

    def _ask(self) -> None:
        """Ask whoever has not answered, and anew whoever holds more and did not supply it."""
        self._ask_again_ms = self._situation.now_ms + SURVEY_MS
        for member in self._ahead():
            del self.answers[member]
            self._exhausted.discard(member)
        for replica in {link.peer.id: None for link in self._situation.links.values()}:
            best = self._situation.link_to(replica)
            if best is not None and best.peer.member not in self.answers:
                self._asked[best.peer.member] = best
                self._situation.send(best.number, Survey(self._nonce))

    @property
    def silent(self) -> frozenset[Member]:
        """Members that were asked, or could not be, and did not answer."""
        return self.base.state.in_sync - frozenset(self.answers) - {self._situation.me.member, TIER_MEMBER}

    def answered(self, peer: Member, message: SurveyAnswer) -> None:
        if message.nonce == self._nonce:
            self.answers[peer] = message
            if message.state_counter > self.base.state.change.counter:
                # Our reading is old, or the coordination service lost history that a peer still remembers.
                self._situation.counter = max(self._situation.counter, message.state_counter)
                self._situation.state_fresh = False
                self.over = True
                return
            self.tend()

    def link_lost(self, link: int) -> None:
        for member, used in list(self._asked.items()):
            if used.number == link:
                del self._asked[member]
                if member == self._copying_from:
                    self._exhausted.add(member)
                    self._stop_copying()
        self.tend()

    def tend(self) -> None:
        """Go on when there is nothing more to wait for, or no more time to."""
        situation = self._situation
        if self.stage is Stage.ASKING and (self._all_answered() or situation.now_ms >= self._until_ms):
            if not self._insist and self._others_see_a_leader():
                self.over = True
            else:
                self._go_on()
        elif self.stage is Stage.COPYING and situation.now_ms >= self._until_ms:
            if self._copying_from is not None:
                self._exhausted.add(self._copying_from)
            self._stop_copying()
        elif self.stage is Stage.YIELDING and situation.now_ms >= self._until_ms:
            self._promise()
        elif self.stage is Stage.PROMISING:
            self.promise_stored()

    def _all_answered(self) -> bool:
        return all(member in self.answers for member in self._asked)

    def _others_see_a_leader(self) -> bool:
        return any(answer.sees_leader for answer in self.answers.values())

    def _must_wait(self) -> bool:
        """Whether somebody who does not answer, or shows more than was to be had from him, may be waited for."""
        if not self.silent and not self._ahead():
            return False
        # After a reboot of this host the disk may have lost what such a member still holds. The wait goes on where the
        # last candidacy left it: others, who lead through the tier in vain, would begin it anew again and again.
        situation = self._situation
        situation.waited_ms += situation.now_ms - self._waiting_ms
        self._waiting_ms = situation.now_ms
        # What is missing here comes from the tier, if it is the tier that the node would lead through.
        lacking = situation.unsettled and not self._through_tier
        rebooted = lacking and situation.waited_ms < situation.settings.reboot_wait_ms
        # A process that has just started has met nobody yet, and may stand on a disk that was rolled back: whoever
        # holds more gets the time to say so. Later, a silent member is one that is gone, and is not waited for.
        return rebooted or situation.now_ms - situation.started_ms < MEETING_MS

    def _ahead(self) -> list[Member]:
        """The members of the set that show a higher durable end than ours, the highest first."""
        end = self._situation.ledger.end.position
        shown = [
            (LogPosition(answer.end.epoch, answer.end.sequence), member)
            for member, answer in self.answers.items()
            if member in self.base.state.in_sync and not self._through_tier
        ]
        return [member for position, member in sorted(shown, reverse=True) if position > end]

    def _go_on(self) -> None:
        """Copy what somebody holds above our end, then wait for whoever must be waited for, then promise.

        Who stopped writing may be copied from as well: the chain proves each record.
        """
        situation = self._situation
        supplier = next((m for m in self._ahead() if m in self._asked and m not in self._exhausted), None)
        if supplier is not None:
            self.stage, self._copying_from = Stage.COPYING, supplier
            self._until_ms = situation.now_ms + COPY_MS
            last = self.answers[supplier].end.sequence
            request = Fetch(self._nonce, to_point(situation.ledger.end), last)
            situation.send(self._asked[supplier].number, request)
            return
        if self._must_wait():
            self.stage = Stage.ASKING
            if situation.now_ms >= self._ask_again_ms:
                self._ask()  # who was not there, or not admitted yet, may be by now
            return
        rank = 0 if self._insist else self._rank()
        self.stage = Stage.YIELDING
        self._until_ms = situation.now_ms + rank * RANK_MS
        if rank == 0:
            self._promise()

    def _rank(self) -> int:
        """How many answering members of the set are better placed: a longer log, else the smaller id."""
        if self._through_tier:
            return THROUGH_TIER_RANK  # whoever is in the set has nothing to rebuild
        own = self._placing(self._situation.ledger.end.position, self._situation.me.id)
        others = (
            self._placing(LogPosition(answer.end.epoch, answer.end.sequence), member.id)
            for member, answer in self.answers.items()
            if member in self.base.state.in_sync and answer.verified
        )
        return sum(1 for other in others if other < own)

    @staticmethod
    def _placing(position: LogPosition, replica: ReplicaId) -> tuple[int, int, str]:
        return -position.epoch, -position.sequence, replica

    # Copying a longer tail

    def fetched(self, event: RecordFetched) -> None:
        """One record of the longer tail, proved by the chain."""
        situation = self._situation
        fits = (
            self.stage is Stage.COPYING
            and event.nonce == self._nonce
            and event.previous == situation.ledger.end
            and situation.ledger.continued_by(event.header, event.chain)
        )
        if not fits:
            situation.emit(DropStaged(event.handle))
            return
        situation.ledger.appended(event.header, event.chain)
        situation.emit(AppendStaged(event.handle, event.header, event.chain))

    def fetch_ended(self, message: FetchEnd) -> None:
        if self.stage is Stage.COPYING and message.nonce == self._nonce:
            if self._copying_from is not None:
                self._exhausted.add(self._copying_from)
            self._stop_copying()

    def _stop_copying(self) -> None:
        self._copying_from = None
        if self.stage is Stage.COPYING:
            self._go_on()

    # Promise and compare-and-set

    def _promise(self) -> None:
        situation = self._situation
        promises = [a.promise for a in self.answers.values() if situation.believable(a.promise)]
        self.epoch = 1 + max(self.base.state.epoch, situation.wanted_promise, situation.tier_epoch, *promises)
        self.stage = Stage.PROMISING
        situation.persist(self.epoch)

    def promise_stored(self) -> None:
        """The promise is on disk: nothing of an older epoch is confirmed any more; try to take the lead."""
        situation = self._situation
        if self.stage is not Stage.PROMISING or situation.promise < self.epoch or not situation.state_fresh:
            return
        if situation.promise > self.epoch:
            self.over = True
            return
        self.stage = Stage.TAKING
        self.writer = StateWriter(situation, self.base)
        self._take()

    def _take(self) -> None:
        assert self.writer is not None, "TAKING has a writer"
        state = replace(self.base.state, epoch=self.epoch, leader=self._situation.me, phase=Phase.RECOVERING)
        self.writer.write(state, take_lead=True)

    def state_written(self, event: StateWritten) -> None:
        """The compare-and-set was answered. Unknown: read, and try again at the same version."""
        if self.writer is None:
            return
        written = self.writer.answered(event)
        if written is Written.APPLIED:
            self.won = True
        elif written is not Written.STALE:
            self._situation.state_fresh = False
            self._situation.read_state()

    def state_seen(self) -> None:
        """`state` was read again while this candidacy runs."""
        seen = self._situation.state
        if seen is None:
            self.over = True
        elif self.writer is not None and seen.state.leader == self._situation.me and seen.state.epoch == self.epoch:
            self.won = self.writer.seen(seen)
            self.over = not self.won
        elif seen.state.change != self.base.state.change or self._situation.leader_present is not None:
            self.over = True
        elif seen.version != self.base.version:
            self.over = True  # the same content at another version: a write at the old one can only fail
        elif self.writer is not None and not self.writer.busy:
            self._take()  # still the old state: a write at the same version fences the unknown one
