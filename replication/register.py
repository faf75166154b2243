"""Who is registered as a node of this cluster, and what each of the others was last known to hold. For people alone:
nothing is decided by it.

The register lies in ZooKeeper and is read every few seconds, on every node. What a replica holds is what it confirmed
to this node while this node led, or what was committed while it was in sync: each is a lower bound that stays true for
as long as its disk does.
"""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from replication.coordination.port import CoordinationCorrupt, CoordinationUnavailable, NodeRegistration
from replication.core.streams import Stage, Stream
from replication.core.values import TIER_MEMBER, Member, ReplicaId
from storage.position import LogPoint

if TYPE_CHECKING:
    from replication.replicator import Replicator

ASK_S: Final = 5.0
"""Between two looks at the register."""
PATIENCE_S: Final = 30.0
NOTE_S: Final = 1.0
"""Between two notes of what the others hold: a replica that dies may hold what it confirmed within so long besides."""


class Register:
    """One node's view. registered: every other node that is registered and not retired; None before ZooKeeper said."""

    def __init__(self, replicator: "Replicator") -> None:
        self._replicator = replicator
        self.registered: Mapping[ReplicaId, Member] | None = None
        self.retired: frozenset[ReplicaId] = frozenset()
        self._registrations: Mapping[ReplicaId, NodeRegistration] = {}
        self._held: dict[Member, LogPoint] = {}
        self._told = replicator.core.situation.told
        """The commit point when the register was last asked for: of what a follower read of the state meanwhile, it is
        not the later one."""

    def start(self) -> None:
        self._replicator.spawn(self._keep())
        self._replicator.spawn(self._ask_again())

    # What is known

    @property
    def nodes(self) -> int:
        """How many nodes are registered, this one included; 0 before ZooKeeper said so."""
        return len(self.registered) + 1 if self.registered is not None else 0

    def connected(self) -> dict[ReplicaId, bool]:
        """By other registered node, whether a connection to it stands."""
        linked = {link.peer.id for link in self._replicator.core.situation.links.values()}
        return {replica: replica in linked for replica in sorted(self.registered or ())}

    def held(self, member: Member) -> int:
        """The last record up to which a replica that says nothing now was known to hold the log; 0 when nothing is."""
        point = self._held.get(member)
        known = point.sequence if point is not None and self._replicator.core.situation.ledger.holds(point) else 0
        said = self._registrations.get(member.id)
        return max(known, said.floor.sequence if said is not None and said.incarnation == member.incarnation else 0)

    # How it comes to be known

    async def _keep(self) -> None:
        while True:
            self.note()
            await asyncio.sleep(NOTE_S)

    async def _ask_again(self) -> None:
        while True:
            if self._replicator.coordinator.connected:
                await self._ask()
            await asyncio.sleep(ASK_S if self.registered is not None else NOTE_S)

    async def _ask(self) -> None:
        told = self._replicator.core.situation.told
        try:
            async with asyncio.timeout(PATIENCE_S):
                found = await self._replicator.coordinator.registrations()
        except (CoordinationUnavailable, CoordinationCorrupt, TimeoutError):
            return  # what was known stays; perenne_coordination_fresh_seconds says for how long nobody has answered
        me = self._replicator.me.id
        self._registrations, self._told = found, told
        self.retired = frozenset(node.id for node in found.values() if node.retired)
        self.registered = {
            node.id: Member(node.id, node.incarnation)
            for node in found.values()
            if node.id != me and node.id not in self.retired
        }
        self._replicator.network.admit(self.registered)
        known = set(self.registered.values())
        self._held = {member: point for member, point in self._held.items() if member in known}

    def note(self) -> None:
        """Remember what the others hold at this moment."""
        situation, leadership = self._replicator.core.situation, self._replicator.core.leadership
        streams: list[Stream] = list(leadership.streams.by_link.values()) if leadership is not None else []
        for stream in streams:
            if stream.stage is Stage.STREAMING and stream.confirmed.sequence:
                self._held[stream.peer.member] = stream.confirmed
            elif stream.stage is Stage.REMOVING:  # it holds less than it was believed to: its disk was rolled back
                self._held[stream.peer.member] = stream.common
        if leadership is not None:
            members, point = leadership.in_sync, situation.told
        elif situation.cluster is not None and self._replicator.coordinator.connected:
            members, point = situation.cluster.in_sync, self._told
        else:
            return
        speak = {stream.peer.member for stream in streams if stream.stage is not Stage.OPENING}
        for member in members - speak - {situation.me.member, TIER_MEMBER}:
            known = self._held.get(member)
            if known is None or known.sequence < point.sequence:
                self._held[member] = point
