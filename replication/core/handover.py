"""A planned change of leader: hold new records, let the log drain, name the successor, let go (protocol, section 6)."""

from dataclasses import replace

from replication.core.situation import Situation
from replication.core.statewriter import StateWriter
from replication.core.values import ClusterState, ReplicaId, Transfer

DRAIN_MS = 5000
"""How long records on their way may take before the hand-over is given up (or, when the node stops, forced)."""
TRANSFER_US = 5_000_000
"""How long other candidates give way to the one that was named."""


class Handover:
    """One hand-over of one leadership."""

    def __init__(self, situation: Situation, to: ReplicaId, *, final: bool) -> None:
        self._situation = situation
        self.to = to
        self.final = final
        self._give_up_ms = situation.now_ms + DRAIN_MS
        self.done = False
        """The transfer is on record: the leader may resign."""
        self.failed: str | None = None

    @property
    def expired(self) -> bool:
        return self._situation.now_ms >= self._give_up_ms

    def tend(self, writer: StateWriter) -> None:
        """Write the transfer once everything numbered is committed."""
        situation = self._situation
        if self.expired:
            self.failed = "records on their way were not committed in time"
        elif situation.told == situation.ledger.end and not self.done:
            transfer = Transfer(self.to, situation.wall_us + TRANSFER_US)
            writer.write(replace(writer.confirmed.state, floor=situation.told, transfer=transfer))

    def state_confirmed(self, state: ClusterState) -> None:
        """The transfer is seen in `state`."""
        self.done = state.transfer is not None and state.transfer.to == self.to
