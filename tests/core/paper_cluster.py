"""A cluster on paper: the production core over logs in memory, an ordered network and one coordination service.

One thread, virtual time in milliseconds, no randomness of its own: what happens follows from what the test asks for.
Every acknowledgement is checked at the moment it is given: enough durable copies, by position and chain.
"""

from collections import deque
from collections.abc import Callable

from blake3 import blake3
from msgspec import structs

from replication.core import effects as fx
from replication.core import events as ev
from replication.core.situation import Settings
from replication.core.values import CasOutcome, ClusterState, Identity, ReplicaId, VersionedState
from replication.messages import FetchEnd, Message
from storage.position import LogPoint, LogPosition, RecordKind
from tests.core.paper_disk import Coordination, PaperDisk, PaperRecord
from tests.core.paper_node import PaperNode

STEP_MS = 5


Deliver = tuple[int, PaperNode, Callable[[], ev.Event | None]]


class PaperCluster:
    """Nodes, links and the coordination service; the test's hand is the only fault."""

    def __init__(self, names: str = "abc", *, allow_solo: bool = False, session_timeout_ms: int = 2000) -> None:
        self.now = 0
        self._counter = 0
        self.settings = Settings(
            identity=Identity(ReplicaId(""), "", ""),
            allow_solo=allow_solo,
            session_timeout_ms=session_timeout_ms,
            stall_timeout_ms=1000,
        )
        self.service = Coordination()
        self.disks = {name: PaperDisk(incarnation=f"disk-{name}") for name in names}
        self.nodes: dict[str, PaperNode] = {}
        self.links: dict[int, tuple[PaperNode, PaperNode, int]] = {}
        self.cut: set[frozenset[str]] = set()
        self.wire: deque[Deliver] = deque()
        self.slow = set[int]()
        """What is sent over these links arrives only when none is slow any more."""
        self.delayed: list[tuple[PaperNode, int, Callable[[int, PaperNode], ev.Event | None]]] = []
        self.expiries: dict[int, tuple[PaperNode, int]] = {}
        self.tickets = 0
        self.promised: dict[str, bytes] = {}
        self.small: dict[bytes, tuple[tuple[tuple[str, bytes], ...], str]] = {}
        """What tombstones cover and notes hold, by digest."""
        for name in names:
            self.start(name)

    def fresh(self) -> int:
        self._counter += 1
        return self._counter

    def fresh_id(self) -> str:
        return f"id-{self.fresh()}"

    # Time

    def run(self, ms: int) -> None:
        until = self.now + ms
        while self.now < until:
            self.now += STEP_MS
            if not self.slow:
                delayed, self.delayed = self.delayed, []
                for late in delayed:
                    self._over(*late)
            self._connect()
            self._expire()
            for _ in range(len(self.wire)):
                _, node, make = self.wire.popleft()
                if self.nodes.get(node.name) is node and (event := make()) is not None:
                    node.feed(event)
            for node in list(self.nodes.values()):
                node.turn()

    def run_until(self, condition: Callable[[], bool], ms: int = 30_000) -> None:
        until = self.now + ms
        while not condition():
            assert self.now < until, "it did not come true in time"
            self.run(STEP_MS)

    # Processes

    def start(self, name: str) -> PaperNode:
        node = PaperNode(self, name, self.disks[name], f"boot-{self.fresh()}")
        self.nodes[name] = node
        return node

    def kill(self, name: str, *, host: bool = False) -> None:
        """End the process; with `host`, what was not synced is gone as well."""
        node = self.nodes.pop(name)
        for link in [n for n, ends in self.links.items() if node in ends[:2]]:
            self.break_link(link)
        if host:
            log = node.disk.log
            del log.records[log.durable_count :]
        if node.connected:
            self.expiries[node.session] = (node, self.now + self.settings.session_timeout_ms)

    def wipe(self, name: str) -> None:
        """A new disk for a node that is down."""
        assert name not in self.nodes
        self.disks[name] = PaperDisk(incarnation=f"disk-{self.fresh()}")

    def pause(self, name: str) -> None:
        node = self.nodes[name]
        node.paused = True
        if node.connected:
            self.expiries[node.session] = (node, self.now + self.settings.session_timeout_ms)

    def resume(self, name: str) -> None:
        node = self.nodes[name]
        if not node.paused:
            return
        node.paused = False
        if self.expiries.pop(node.session, None) is None:
            node.connected = False
            node.feed(ev.SessionChanged(ev.Session.LOST))

    def expire(self, name: str) -> None:
        """The coordination service forgets this node's session at once; a new one follows."""
        node = self.nodes[name]
        if node.connected:
            self._session_over(node)
            node.connected = False
            node.feed(ev.SessionChanged(ev.Session.LOST))

    def _expire(self) -> None:
        for session, (node, at) in list(self.expiries.items()):
            if self.now >= at and self.service.up:
                del self.expiries[session]
                self._session_over(node)

    def _session_over(self, node: PaperNode) -> None:
        if self.service.leader_session == node.session:
            self.drop_leader()

    def drop_leader(self) -> None:
        self.service.leader, self.service.leader_session = None, 0
        self._tell_all()

    # Disks

    def rot(self, name: str, uid: str) -> int:
        """Damage what a node holds of an instance, and let it notice; return how many records that were."""
        log = self.disks[name].log
        found = {r.header.position.sequence for r in log.records[: log.durable_count] if r.uid == uid} - log.rotten
        self._rotten(name, log.rotten | found)
        return len(found)

    def mend(self, name: str) -> None:
        """Repair every record of a node."""
        self._rotten(name, set())

    def _rotten(self, name: str, sequences: set[int]) -> None:
        self.disks[name].log.rotten = sequences
        if name in self.nodes:
            self.nodes[name].feed(ev.DamageChanged(frozenset(sequences)))

    # Coordination

    def _tell_all(self) -> None:
        for node in self.nodes.values():
            if node.connected:
                self.read(node)

    def _connect(self) -> None:
        for node in self.nodes.values():
            if not node.connected and self.service.up and not node.paused:
                node.connected = True
                node.session = self.fresh()
                node.feed(ev.SessionChanged(ev.Session.CONNECTED))
        for left in self.nodes.values():
            for right in self.nodes.values():
                pair = frozenset((left.name, right.name))
                apart = left is right or pair in self.cut or left.paused or right.paused
                if not apart and not any(ends[:2] == (left, right) for ends in self.links.values()):
                    self._link(left, right)

    def read(self, node: PaperNode) -> None:
        def answer() -> ev.Event:
            seen = self.service
            found = ev.StateSeen(seen.state, seen.leader, registered=True, tier_floor=seen.tier_floor)
            return found if seen.up else ev.ReadFailed()

        self.wire.append((self.now, node, answer))

    def write(self, node: PaperNode, effect: fx.CreateState | fx.WriteState | fx.TakeLead | fx.RecreateLeader) -> None:
        fate, node.unknown_next = node.unknown_next, ""
        session = node.session

        def apply() -> tuple[CasOutcome, int]:
            return self._apply(node, effect, session)

        def answer() -> ev.Event:
            if not self.service.up or fate == "lost":
                return ev.StateWritten(effect.request, CasOutcome.UNKNOWN, -1)
            if fate == "late":
                self.service.late.append(lambda: void(apply()))
                return ev.StateWritten(effect.request, CasOutcome.UNKNOWN, -1)
            outcome, version = apply()
            if fate == "applied":
                return ev.StateWritten(effect.request, CasOutcome.UNKNOWN, -1)
            return ev.StateWritten(effect.request, outcome, version)

        self.wire.append((self.now, node, answer))

    def apply_late(self) -> None:
        late, self.service.late = self.service.late, []
        for apply in late:
            apply()

    def _apply(
        self, node: PaperNode, effect: fx.CreateState | fx.WriteState | fx.TakeLead | fx.RecreateLeader, session: int
    ) -> tuple[CasOutcome, int]:
        service = self.service
        current = service.state
        if isinstance(effect, fx.CreateState):
            if current is not None:
                return CasOutcome.CONFLICT, -1
            return self._set(effect.state, 0)
        alive = node.connected and node.session == session
        if current is None or current.version != effect.version or not alive:
            return CasOutcome.CONFLICT, -1
        if isinstance(effect, (fx.TakeLead, fx.RecreateLeader)):
            if service.leader is not None:
                return CasOutcome.CONFLICT, -1
            service.leader, service.leader_session = node.identity, session
        if isinstance(effect, fx.RecreateLeader):
            self._tell_all()
            return CasOutcome.APPLIED, current.version
        return self._set(effect.state, current.version + 1)

    def _set(self, state: ClusterState, version: int) -> tuple[CasOutcome, int]:
        before = self.service.state
        if before is not None:
            assert state.epoch >= before.state.epoch, "the epoch fell"
        self.service.state = VersionedState(state, version)
        self._tell_all()
        return CasOutcome.APPLIED, version

    # Network

    def _link(self, dialler: PaperNode, other: PaperNode) -> None:
        number, reverse = self.fresh(), self.fresh()
        self.links[number] = (dialler, other, reverse)
        self.links[reverse] = (other, dialler, number)
        dialler.feed(ev.LinkUp(number, other.identity, dialled=True))
        other.feed(ev.LinkUp(reverse, dialler.identity, dialled=False))

    def dial(self, dialler: str, other: str) -> None:
        """One more link, which the dialler prefers for its requests."""
        self._link(self.nodes[dialler], self.nodes[other])

    def break_link(self, number: int) -> None:
        ends = self.links.pop(number, None)
        if ends is None:
            return
        self.links.pop(ends[2], None)
        for node, link in ((ends[0], number), (ends[1], ends[2])):
            node.senders.pop(link, None)
            node.feed(ev.LinkDown(link))

    def separate(self, left: str, right: str) -> None:
        self.cut.add(frozenset((left, right)))
        for number, ends in list(self.links.items()):
            if {ends[0].name, ends[1].name} == {left, right}:
                self.break_link(number)

    def heal(self) -> None:
        self.cut.clear()

    def _over(self, sender: PaperNode, link: int, make: Callable[[int, PaperNode], ev.Event | None]) -> None:
        ends = self.links.get(link)
        if link in self.slow:
            self.delayed.append((sender, link, make))
        elif ends is not None:
            _, receiver, back = ends
            self.wire.append((self.now, receiver, lambda: make(back, receiver) if link in self.links else None))

    def transmit(self, sender: PaperNode, link: int, message: Message) -> None:
        self._over(sender, link, lambda back, _: ev.Received(back, sender.identity, message))

    def transmit_record(
        self, sender: PaperNode, link: int, epoch: int, previous: LogPoint, record: PaperRecord, told: LogPoint
    ) -> None:
        def make(back: int, receiver: PaperNode) -> ev.Event:
            handle = self.fresh()
            receiver.staged[handle] = record
            return ev.RecordReceived(back, sender.identity, epoch, previous, told, record.header, record.chain, handle)

        self._over(sender, link, make)

    def transmit_tail(self, sender: PaperNode, effect: fx.SendTail) -> None:
        log = sender.disk.log
        for sequence in range(effect.after.sequence + 1, effect.last + 1):
            if sequence in log.rotten:
                break
            previous, record = log.point_at(sequence - 1), log.records[sequence - 1]
            assert previous is not None

            def make(
                back: int, receiver: PaperNode, previous: LogPoint = previous, record: PaperRecord = record
            ) -> ev.Event:
                handle = self.fresh()
                receiver.staged[handle] = record
                return ev.RecordFetched(sender.identity, effect.nonce, previous, record.header, record.chain, handle)

            self._over(sender, effect.link, make)
        self.transmit(sender, effect.link, FetchEnd(effect.nonce, ""))

    # Instances

    def offer(self, name: str, uid: str, content: bytes = b"", *, again: bool = False, size: int = 1000) -> int:
        """A sender hands `uid` to a node; `settled` tells what it was answered."""
        self.tickets += 1
        digest = blake3(uid.encode() + content).digest()
        offer = ev.Proposed(
            ticket=self.tickets,
            sop_instance_uid=uid,
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            stem=f"study/series/{uid}",
            dataset=digest,
            digest=digest,
            size=size,
            time_us=self.now * 1000,
            deadline_ms=self.now + 10_000,
            again=again,
        )
        return self.propose(self.nodes[name], offer)

    def propose(self, node: PaperNode, offer: ev.Proposed) -> int:
        node.uids[offer.ticket] = offer
        node.feed(offer)
        return offer.ticket

    def relay(self, sender: PaperNode, effect: fx.RelayProposal) -> None:
        offer = sender.uids[effect.ticket]

        def make(back: int, receiver: PaperNode) -> None:
            ticket = -self.fresh()
            receiver.relayed[ticket] = (back, effect.ticket)
            self.propose(receiver, structs.replace(offer, ticket=ticket, relayed_from=back))

        self._over(sender, effect.link, make)

    def answer(self, sender: PaperNode, link: int, ticket: int, effect: fx.Settle) -> None:
        self._over(sender, link, lambda back, _: ev.ProposalAnswered(back, ticket, effect.verdict.value, effect.reason))

    def acknowledged(self, node: PaperNode, effect: fx.Settle) -> None:
        """Success is about to be told: count the durable copies now, while nothing else can happen."""
        if effect.verdict not in fx.COMMITTED:
            return
        offer = node.uids[effect.ticket]
        if offer.kind is not RecordKind.INSTANCE:
            return
        copies = sum(1 for disk in self.disks.values() if self.holds(disk, offer.sop_instance_uid, offer.dataset))
        assert copies >= self.settings.minimum_copies, f"{offer.sop_instance_uid} told Success on {copies} copies"
        self.promised[offer.sop_instance_uid] = offer.dataset

    @staticmethod
    def holds(disk: PaperDisk, uid: str, dataset: bytes) -> bool:
        durable = disk.log.records[: disk.log.durable_count]
        sound = (r for r in durable if r.header.position.sequence not in disk.log.rotten)
        return any(r.uid == uid and r.header.dataset == dataset for r in sound)

    # What holds at any time

    def active_leaders(self) -> list[PaperNode]:
        leads = ((node, node.replica.leadership) for node in self.nodes.values())
        return [node for node, lead in leads if lead is not None and lead.set.active_ms]

    @property
    def leader(self) -> PaperNode | None:
        state = self.service.state
        for node in self.active_leaders():
            if state is not None and node.identity == state.state.leader and not node.paused:
                return node
        return None

    def in_sync(self) -> set[str]:
        state = self.service.state
        return {member.id for member in state.state.in_sync} if state else set()

    def fully_redundant(self) -> bool:
        """Somebody leads, and every node is in the set as it is now, not as it was before its disk went."""
        state = self.service.state
        members = frozenset(node.identity.member for node in self.nodes.values())
        everybody = len(members) == len(self.disks)
        return self.leader is not None and state is not None and everybody and state.state.in_sync == members

    def check(self) -> None:
        """Same position, same chain; nothing promised is gone from the set; nobody froze."""
        chains: dict[LogPosition, bytes] = {}
        for disk in self.disks.values():
            for record in disk.log.records + disk.log.lost_and_found:
                known = chains.setdefault(record.header.position, record.chain)
                assert known == record.chain, f"two records at {record.header.position}"
        for node in self.nodes.values():
            assert node.frozen is None, f"{node.name} froze: {node.frozen}"
        epochs = [n.replica.leadership.epoch for n in self.active_leaders() if n.replica.leadership is not None]
        assert len(epochs) == len(set(epochs)), "two leaders in one epoch"


def void(_: object) -> None:
    """Drop a result that nobody waits for."""
