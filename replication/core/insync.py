"""The in-sync set as its leader keeps it: who is required, who should be in it, and how the tier enters (section 5)."""

from collections.abc import Iterable
from dataclasses import replace

from replication.core.membership import TierView, desired_set
from replication.core.situation import Situation
from replication.core.statewriter import StateWriter
from replication.core.streams import Streams
from replication.core.tierside import TierSide
from replication.core.values import TIER_MEMBER, ClusterState, Member, Phase, TierClaim
from storage.position import LogPoint

RETRY_MS = 200
"""Pause between two attempts to write `state` while outcomes stay unknown."""
DISK_BYTES_PER_MS = 20_000
"""A follower is granted a second per 20 MB that are on their way to its disk before it counts as stalled."""


class InSyncSet:
    """Of one leadership. active_ms: since when followers are watched. on_their_way: bytes that lack copies."""

    def __init__(self, situation: Situation, writer: StateWriter, streams: Streams, tier: TierSide) -> None:
        self._situation = situation
        self._writer = writer
        self._streams = streams
        self._tier = tier
        self.active_ms = 0
        self.on_their_way = 0
        self._retry_at_ms = 0

    @property
    def members(self) -> frozenset[Member]:
        """As `state` has it."""
        return self._writer.confirmed.state.in_sync

    def required(self) -> frozenset[Member]:
        """Who must confirm a record before it is committed."""
        members = self._writer.maximal()
        return members | {TIER_MEMBER} if self._tier.entering is not None else members

    @property
    def allowance_ms(self) -> int:
        return self.on_their_way // DISK_BYTES_PER_MS

    def gone(self, members: Iterable[Member]) -> set[Member]:
        """Nodes that are disconnected or make no progress."""
        nodes = set(members) - {TIER_MEMBER}
        return self._streams.gone(nodes, since_ms=self.active_ms, allowance_ms=self.allowance_ms)

    def may_write(self) -> bool:
        situation = self._situation
        return not self._writer.busy and situation.state_fresh and situation.now_ms >= self._retry_at_ms

    def wait(self) -> None:
        """The outcome of a write is unknown: not again at once."""
        self._retry_at_ms = self._situation.now_ms + RETRY_MS

    def _floor(self, state: ClusterState) -> LogPoint:
        """What is known to be committed; it never falls."""
        return max(state.floor, self._situation.told, key=lambda point: point.position)

    def activate(self, *, taken_over: bool, silent: frozenset[Member]) -> None:
        """Write the state of an active leader, with whoever is there now. taken_over: through the tier."""
        situation = self._situation
        if not self.may_write():
            return
        state = self._writer.confirmed.state
        if taken_over:
            self._write_active(state, frozenset({situation.me.member, TIER_MEMBER}))
            return
        absent = self._streams.gone(state.in_sync, since_ms=-situation.settings.disconnect_grace_ms, allowance_ms=0)
        unlinked = {m for m in absent if m not in situation.linked_members(state.in_sync)}
        in_sync = desired_set(
            current=state.in_sync,
            own=situation.me.member,
            gone=(unlinked | silent) - {TIER_MEMBER},
            behind=(),
            ready=(),
            damaged=(),
            minimum_copies=situation.settings.minimum_copies,
            # Before the bucket was listed nothing is known of it: it stays in the set, or out of it.
            tier=TierView(situation.settings.tier_mode, usable=False, gone=False),
        )
        self._write_active(state, in_sync)

    def _write_active(self, state: ClusterState, in_sync: frozenset[Member]) -> None:
        self._writer.write(
            replace(
                state,
                phase=Phase.ACTIVE,
                in_sync=in_sync,
                tier=state.tier if TIER_MEMBER in in_sync else None,
                floor=self._floor(state),
                transfer=None,
            )
        )

    def tend(self, epoch_record: int) -> None:
        """Propose whatever the set should be."""
        if not self.may_write():
            return
        state = self._writer.confirmed.state
        # `tierfloor` may be raised in the moment before a change that adds a node: who lacks what it names could not
        # lead when all others are gone, nor be led by the tier, which is no way for a member.
        confirmed = self._streams.confirmations()
        ready = {m for m in self._streams.ready(epoch_record) if confirmed[m] >= self._tier.asked}
        # Whoever left the set by a stall may hold everything still, and is not taken back before it moves again.
        gone = self.gone(state.in_sync | ready)
        wanted = desired_set(
            current=state.in_sync,
            own=self._situation.me.member,
            gone=gone,
            behind=self._streams.behind() & state.in_sync,
            ready=ready - gone,
            damaged=self._streams.damage().keys(),
            minimum_copies=self._situation.settings.minimum_copies,
            tier=TierView(self._situation.settings.tier_mode, usable=self._tier.usable, gone=self._tier.gone),
        )
        if TIER_MEMBER in wanted - state.in_sync:
            self._let_tier_enter(state, wanted, epoch_record)
            return
        self._tier.entering = None
        if wanted != state.in_sync or self._writer.unresolved:
            self._write(replace(state, in_sync=wanted, tier=state.tier if TIER_MEMBER in wanted else None))

    def _write(self, state: ClusterState) -> None:
        self.wait()
        self._writer.write(replace(state, floor=self._floor(state)))

    def _let_tier_enter(self, state: ClusterState, wanted: frozenset[Member], epoch_record: int) -> None:
        """Fill the tier up to the end of the log, then claim it: in this order, and the end is read with the claim."""
        situation = self._situation
        if self._tier.entering is None:
            self._tier.left()
            self._tier.entering = situation.told
            self.tend_tier()
        since = self._tier.entering
        # Before its own EPOCH record is committed a leader cannot tell what its predecessors committed: all that it
        # found may have been.
        found = situation.ledger.point_at(epoch_record - 1)
        if found is not None and self._tier.upto(since.sequence + 1) >= situation.ledger.end.sequence:
            self._tier.entering = None
            upto = max(found, situation.told, key=lambda point: point.position)
            self._write(replace(state, in_sync=wanted, tier=TierClaim(since.sequence + 1, since.chain, upto)))

    def tend_tier(self) -> None:
        """Ask the bucket for whatever is due."""
        state = self._writer.confirmed.state
        self._tier.tend(state.tier.first if state.tier is not None else None, state.change)

    def why_too_few(self) -> str | None:
        """Why a store would be refused now: too few replicas could confirm it."""
        minimum = self._situation.settings.minimum_copies
        nodes = self.members - {TIER_MEMBER}
        reachable = len(nodes - self.gone(nodes))
        if self._tier.usable or (TIER_MEMBER in self.members and not self._tier.gone):
            reachable += 1
        if reachable < minimum:
            return f"only {reachable} of {minimum} copies could be made durable"
        return None
