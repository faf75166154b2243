"""Writing `state` by compare-and-set, with outcomes that may stay unknown (protocol, section 5).

At most one write is awaited. A write whose outcome is unknown may be applied at any later moment, until a change
seen after a `sync`, or a later write of one's own at the same version, settles it.
"""

import enum
from dataclasses import dataclass, replace

from replication.core.effects import RecreateLeader, TakeLead, WriteState
from replication.core.events import StateWritten
from replication.core.situation import Situation
from replication.core.values import CasOutcome, Change, ClusterState, Member, VersionedState


class Written(enum.Enum):
    """What became of a write. STALE: an answer to a write that is no longer awaited."""

    APPLIED = "applied"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class _Awaited:
    request: int
    state: ClusterState


class StateWriter:
    """The writes of one candidate or leader."""

    def __init__(self, situation: Situation, base: VersionedState) -> None:
        self._situation = situation
        self.confirmed = base
        self._awaited: _Awaited | None = None
        self._unresolved: list[ClusterState] = []

    @property
    def busy(self) -> bool:
        return self._awaited is not None

    @property
    def unresolved(self) -> bool:
        """A write may yet be applied; settle it by reading, or by writing again at the same version."""
        return bool(self._unresolved)

    def maximal(self) -> frozenset[Member]:
        """The confirmed set, with every set that a write not known to have failed would put in its place (KIP-497)."""
        members = self.confirmed.state.in_sync
        for state in self._possible():
            members |= state.in_sync
        return members

    def smallest(self) -> int:
        """Size of the smallest set that may be in force."""
        return min(len(state.in_sync) for state in (self.confirmed.state, *self._possible()))

    def _possible(self) -> list[ClusterState]:
        return [*self._unresolved, *([self._awaited.state] if self._awaited else [])]

    def write(self, wanted: ClusterState, *, take_lead: bool = False) -> None:
        """Submit `wanted` under a fresh change at the confirmed version. Only when not busy."""
        situation = self._situation
        counter = max(situation.counter, self.confirmed.state.change.counter) + 1
        state = replace(wanted, change=Change(counter, situation.ports.new_id()))
        request = situation.next_request()
        self._awaited = _Awaited(request, state)
        version = self.confirmed.version
        situation.emit(TakeLead(request, state, version) if take_lead else WriteState(request, state, version))

    def answered(self, event: StateWritten) -> Written:
        """Take the outcome of the awaited write."""
        awaited = self._awaited
        if awaited is None or event.request != awaited.request:
            return Written.STALE
        self._awaited = None
        if event.outcome is CasOutcome.APPLIED:
            self._adopt(VersionedState(awaited.state, event.version))
            return Written.APPLIED
        if event.outcome is CasOutcome.CONFLICT:
            # An older write of ours may be what moved the version on: only the change id tells.
            return Written.REFUSED
        self._unresolved.append(awaited.state)
        return Written.UNKNOWN

    def seen(self, seen: VersionedState) -> bool:
        """Compare what was read with what was written; True when `seen` is a state of our own writing.

        The driver carries out reads and writes in order, so what was read is no older than the last answer.
        A re-read that still shows the old change resolves nothing: the request may be on its way.
        """
        if seen.state.change == self.confirmed.state.change:
            self.confirmed = seen
            return True
        for state in self._possible():
            if state.change == seen.state.change:
                if self._awaited is not None and self._awaited.state.change == seen.state.change:
                    self._awaited = None
                self._adopt(seen)
                return True
        return False

    def _adopt(self, applied: VersionedState) -> None:
        # The version moved on: every earlier write at the old version can only fail now.
        self.confirmed = applied
        self._unresolved.clear()
        situation = self._situation
        situation.state = applied
        situation.counter = max(situation.counter, applied.state.change.counter)

    def recreate_leader(self) -> None:
        """Put the ephemeral `leader` back after the session expired, checked against the confirmed version."""
        self._situation.emit(RecreateLeader(self._situation.next_request(), self.confirmed.version))
