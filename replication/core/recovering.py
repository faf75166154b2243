"""What a leader stands on before it is active: the log it won with, or rebuilt, and its own EPOCH record on top."""

from replication.core.effects import AppendOwn
from replication.core.eligibility import through_tier
from replication.core.events import TierEvent
from replication.core.follower import Following
from replication.core.situation import Situation
from replication.core.takeover import Stage, Takeover
from replication.core.values import TIER_MEMBER, ClusterState
from storage.position import LogPosition, chain_after


class Recovery:
    """From the won election to a durable EPOCH record. `won`: the state as it was won.

    epoch_record: its sequence; 0 before it is written. failed: why the lead is to be given up.
    """

    def __init__(self, situation: Situation, following: Following, won: ClusterState) -> None:
        self._situation = situation
        self._epoch = won.epoch
        self.takeover = (
            Takeover(situation, following, won) if through_tier(won, situation.me.member, situation.ledger) else None
        )
        self._floor_read = TIER_MEMBER not in won.in_sync
        """Whether it is known how far the predecessor had counted the tier when this node won."""
        self.epoch_record = 0
        self.failed: str | None = None

    @property
    def rebuilding(self) -> bool:
        return self.takeover is not None and not self.epoch_record

    @property
    def durable(self) -> bool:
        """Whether the EPOCH record, and so everything before it, is on the disk."""
        return 0 < self.epoch_record <= self._situation.ledger.durable.sequence

    def begin(self) -> None:
        """With the tier in the set, only `tierfloor`, read after the election, says what was counted."""
        if self._floor_read:
            self._write_epoch_record()
        else:
            self._situation.read_state()

    def floor_seen(self) -> None:
        """`tierfloor` was read by this leader."""
        floor = self._situation.tier_floor
        if self._floor_read:
            return
        self._floor_read = True
        if self.takeover is not None:
            self.takeover.state_seen()
        elif floor is not None and not self._situation.ledger.holds(floor.point):
            self.failed = f"the log lacks record {floor.point.sequence}, which the tier was counted for"
        else:
            self._write_epoch_record()

    def _write_epoch_record(self) -> None:
        """Write this epoch's EPOCH record: what it is on top of is settled by it."""
        situation = self._situation
        position = LogPosition(self._epoch, situation.ledger.end.sequence + 1)
        header, payload = situation.ports.epoch_record(position, situation.wall_us)
        chain = chain_after(situation.ledger.end.chain, header)
        self.epoch_record = position.sequence
        situation.ledger.appended(header, chain)
        situation.emit(AppendOwn(header, chain, payload))

    # A takeover through the tier

    def tend(self) -> None:
        """Time passed, or the log thread got further: go on rebuilding."""
        takeover = self.takeover
        if takeover is None or self.epoch_record:
            return
        takeover.tend()
        takeover.durable()
        if takeover.failed is not None:
            self.failed = takeover.failed
        elif takeover.stage is Stage.DONE:
            self._write_epoch_record()

    def tier_said(self, event: TierEvent) -> None:
        """The bucket answered while the log is rebuilt."""
        if self.takeover is not None:
            self.takeover.said(event)
            self.tend()

    def truncated(self) -> None:
        if self.takeover is not None:
            self.takeover.truncated()
            self.tend()
