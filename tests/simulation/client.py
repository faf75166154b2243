"""A process's connection to the simulated coordination service: the production port `Coordination`.

Faults drawn by the weights of `zookeeper.Service`: a write is lost, applies without an answer, or applies late; a read
is older than what others have seen; the line breaks, and the client notices late.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar, cast

from replication.coordination.port import (
    ClusterRecord,
    CoordinationUnavailable,
    LiveNode,
    NodeRegistration,
    NodeRetired,
    Operation,
    SessionEvent,
    Watcher,
)
from replication.core.values import CasOutcome, ClusterState, Identity, ReplicaId, TierFloor, VersionedState
from storage.position import LogPoint
from tests.simulation.world import ProcessLoop, Violation
from tests.simulation.zookeeper import LATENCY_US, Service, Snapshot

T = TypeVar("T")
RECONNECT_US = 30_000


class Client:
    """One process's session after session: the production port `Coordination`."""

    def __init__(self, service: Service, loop: ProcessLoop) -> None:
        self.service = service
        self.loop = loop
        self.session = 0
        self.connected = False
        self._watcher: Watcher | None = None
        self._waiting: dict[asyncio.Future[Any], None] = {}
        self._seen = 0
        self._seen_version: int | None = None
        self._underway: list[Callable[[Watcher], None]] = []
        """Watches that fired while the way was cut: TCP repeats them."""
        self._fresh_us = 0
        self._closed = False

    # The port

    async def start(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self.service.clients[self.loop.number] = self
        self._connect()
        self._poll()

    async def close(self) -> None:
        self._closed = True
        self.service.expire(self.session)
        self.connected = False

    def session_timeout_ms(self) -> int:
        return self.service.session_ms

    def fresh_since_ms(self) -> int:
        return self._fresh_us // 1000

    async def cluster(self, propose: ClusterRecord) -> ClusterRecord:
        def apply() -> ClusterRecord:
            if self.service.cluster is None:
                self.service.cluster = propose
            return self.service.cluster

        return await self._ask(apply)

    async def register(self, registration: NodeRegistration) -> None:
        service = self.service

        def apply() -> NodeRetired | None:
            known = service.now.registrations.get(registration.id)
            try:
                written = known.succeeded_by(registration) if known is not None else registration
            except NodeRetired as retired:
                return retired
            service.registered[registration.id] = service.registered.get(registration.id, -1) + 1
            service.put(replace(service.now, registrations={**service.now.registrations, registration.id: written}))
            return None

        refused = await self._ask(apply, write=True)
        if refused is not None:
            raise refused

    async def announce(self, live: LiveNode) -> None:
        def apply() -> None:
            self.service.live[live.identity.id] = (live, self.session)
            self.service.tell(lambda watcher: watcher.nodes_changed())

        await self._ask(apply)

    async def read_state(self) -> VersionedState | None:
        found = await self._ask(lambda: self._view().state)
        self._seen_version = found.version if found is not None else None
        return found

    async def leader(self) -> Identity | None:
        return await self._ask(lambda: self._view().leader)

    async def tier_floor(self) -> TierFloor | None:
        return await self._ask(lambda: self._view().tier_floor)

    async def count_tier(
        self, point: LogPoint, state_version: int, floor_version: int | None
    ) -> tuple[CasOutcome, int]:
        service = self.service

        def apply() -> tuple[CasOutcome, int]:
            now = service.now
            known = now.tier_floor.version if now.tier_floor is not None else None
            if now.state is None or now.state.version != state_version or known != floor_version:
                return CasOutcome.CONFLICT, -1
            version = 0 if known is None else known + 1
            service.put(replace(now, tier_floor=TierFloor(point, version)))
            service.counted(point)
            return CasOutcome.APPLIED, version

        return await self._write(apply)

    def _view(self) -> Snapshot:
        """What the server that this client is connected to shows: never older than what it showed before."""
        service = self.service
        chance = service.world.random
        found = service.now
        stale = service.weights.stale + service.lean("a read is stale", self.loop.number)
        if stale and chance.random() < stale:
            older = [snapshot for snapshot in service.history[-4:] if snapshot.zxid >= self._seen]
            if older and older[0] != found:
                service.struck("a read is stale", self.loop.number)
                # The server behind it catches up, and its watch fires then.
                delay = chance.randrange(10_000, 400_000)
                service.world.after(delay, self.loop, self.fire, _state_changed)
                found = older[0]
        self._seen = max(self._seen, found.zxid)
        return found

    async def create_state(self, state: ClusterState) -> tuple[CasOutcome, int]:
        service = self.service

        def apply() -> tuple[CasOutcome, int]:
            if service.now.state is not None:
                return CasOutcome.CONFLICT, -1
            service.put(replace(service.now, state=VersionedState(state, 0)))
            return CasOutcome.APPLIED, 0

        return await self._write(apply)

    async def write_state(self, state: ClusterState, version: int) -> tuple[CasOutcome, int]:
        return await self._write(lambda: self._cas(state, version, service_leader=False, who=None))

    async def take_lead(self, state: ClusterState, version: int, who: Identity) -> tuple[CasOutcome, int]:
        return await self._write(lambda: self._cas(state, version, service_leader=True, who=who))

    def _cas(
        self, state: ClusterState, version: int, *, service_leader: bool, who: Identity | None
    ) -> tuple[CasOutcome, int]:
        service, now = self.service, self.service.now
        if now.state is None or now.state.version != version or (service_leader and not self._may_lead(who)):
            return CasOutcome.CONFLICT, -1
        changed = replace(now, state=VersionedState(state, version + 1))
        if service_leader:
            changed = replace(changed, leader=who, leader_session=self.session)
        service.put(changed)
        return CasOutcome.APPLIED, version + 1

    def _may_lead(self, who: Identity | None) -> bool:
        now = self.service.now
        return now.leader is None or (now.leader == who and now.leader_session != self.session)

    async def recreate_leader(self, version: int, who: Identity) -> CasOutcome:
        service = self.service

        def apply() -> tuple[CasOutcome, int]:
            now = service.now
            if now.state is None or now.state.version != version or not self._may_lead(who):
                return CasOutcome.CONFLICT, -1
            service.put(replace(now, leader=who, leader_session=self.session))
            return CasOutcome.APPLIED, version

        return (await self._write(apply))[0]

    async def resign(self, who: Identity) -> None:
        service = self.service

        def apply() -> None:
            if service.now.leader == who:
                service.put(replace(service.now, leader=None, leader_session=0))

        try:
            await self._ask(apply)
        except CoordinationUnavailable:
            return  # the session's end does the same

    async def live_nodes(self) -> Mapping[ReplicaId, LiveNode]:
        return await self._ask(lambda: {replica: live for replica, (live, _) in self.service.live.items()})

    async def registrations(self) -> Mapping[ReplicaId, NodeRegistration]:
        return await self._ask(lambda: dict(self.service.now.registrations))

    async def request_operation(self, operation: Operation) -> None:
        await self._ask(lambda: self.service.request(operation))

    async def operations(self) -> tuple[Operation, ...]:
        return await self._ask(lambda: tuple(self.service.operations.values()))

    async def finish_operation(self, operation: Operation, result: str) -> None:
        done = Operation(operation.verb, operation.id, operation.arguments, result)
        await self._ask(lambda: self.service.request(done))

    # Requests

    async def _ask(self, apply: Callable[[], T], *, write: bool = False) -> T:
        """A client sees its own writes. Raises CoordinationUnavailable."""
        if not self.connected:
            raise CoordinationUnavailable("no connection")
        world = self.service.world
        sent_us = world.now_us
        answer: asyncio.Future[T] = self.loop.create_future()
        self._waiting[answer] = None
        world.after(self._latency_us(), None, self._serve, apply, answer, self.session, write)
        try:
            async with asyncio.timeout(self.service.session_ms * 0.0007):
                value = await answer
        except TimeoutError as error:
            raise CoordinationUnavailable("no answer in time") from error
        finally:
            self._waiting.pop(answer, None)
        self._fresh_us = max(self._fresh_us, sent_us)
        return value

    async def _write(self, apply: Callable[[], tuple[CasOutcome, int]]) -> tuple[CasOutcome, int]:
        service, chance = self.service, self.service.world.random
        weights, drawn = service.weights, chance.random()
        session, node = self.session, self.loop.number
        lost = weights.lost + service.lean("a write is lost", node)
        unanswered = weights.unanswered + service.lean("a write applies without an answer", node)
        if drawn < lost:
            service.struck("a write is lost", self.loop.number)
            return await self._unknown(lambda: None)
        drawn -= lost
        if drawn < unanswered:
            service.struck("a write applies without an answer", self.loop.number)
            return await self._unknown(lambda: self._apply_in(session, apply))
        drawn -= unanswered
        if drawn < weights.late + service.lean("a write applies late", node):
            service.struck("a write applies late", self.loop.number)
            delay = chance.randrange(20_000, service.session_ms * 1500)
            return await self._unknown(
                lambda: cast(None, service.world.after(delay, None, self._apply_in, session, apply))
            )
        try:
            return await self._ask(apply, write=True)
        except CoordinationUnavailable:
            return CasOutcome.UNKNOWN, -1

    async def _unknown(self, what: Callable[[], None]) -> tuple[CasOutcome, int]:
        if self.connected:
            self.service.world.after(self._latency_us(), None, what)
            await asyncio.sleep(self.service.world.random.uniform(0.001, 0.1))
        return CasOutcome.UNKNOWN, -1

    def _apply_in(self, session: int, apply: Callable[[], object]) -> None:
        if self.service.up and session in self.service.sessions:
            self._with_session(session, apply)

    def _with_session(self, session: int, apply: Callable[[], T]) -> T:
        present, self.session = self.session, session
        try:
            return apply()
        finally:
            self.session = present

    def _serve(self, apply: Callable[[], T], answer: "asyncio.Future[T]", session: int, write: bool) -> None:
        service = self.service
        if not service.reaches(self.loop.number) or session not in service.sessions:
            return
        value = self._with_session(session, apply)
        if write and session == self.session:
            self._seen = service.now.zxid
        service.world.after(self._latency_us(), self.loop, self._answered, answer, value)

    def _answered(self, answer: "asyncio.Future[T]", value: T) -> None:
        if not answer.done() and self.connected:
            answer.set_result(value)

    def _latency_us(self) -> int:
        return self.service.world.random.randrange(LATENCY_US // 2, LATENCY_US * 2) + self.service.slow_us

    # The session

    def fire(self, what: Callable[[Watcher], None]) -> None:
        if not self.connected or self._watcher is None:
            return  # a new connection reads everything anew
        if self.service.reaches(self.loop.number):
            what(self._watcher)
        else:
            self._underway.append(what)

    def _say(self, event: SessionEvent) -> None:
        if self._watcher is None:
            raise Violation("not started")
        self._watcher.session_changed(event)

    def line_changed(self) -> None:
        """The way to the service was cut, or is free again."""
        if self._closed or self.loop.dead:
            return
        if not self.service.reaches(self.loop.number):
            self.service.unheard(self.session)
            delay = self.service.world.random.randrange(1000, self.service.session_ms * 400)
            self.service.world.after(delay, self.loop, self._notice)
        elif self.connected and not self.service.heard(self.session):
            self.drop_line()
        else:
            underway, self._underway = self._underway, []
            for what in underway:
                self.service.world.after(self._latency_us(), self.loop, self.fire, what)

    def _notice(self) -> None:
        if self.connected and not self.service.reaches(self.loop.number):
            self.drop_line()

    def drop_line(self) -> None:
        """The connection broke: what waits has no answer."""
        self.service.world.after(0, self.loop, self._dropped)

    def _dropped(self) -> None:
        if not self.connected:
            return
        self.connected = False
        self._underway.clear()
        for answer in list(self._waiting):
            if not answer.done():
                answer.set_exception(CoordinationUnavailable("the connection broke"))
        self._say(SessionEvent.SUSPENDED)
        self.service.world.after(RECONNECT_US, self.loop, self._connect)

    def _connect(self) -> None:
        if self._closed or self.connected:
            return
        service = self.service
        if not service.reaches(self.loop.number):
            service.world.after(RECONNECT_US, self.loop, self._connect)
            return
        if self.session and not service.heard(self.session):
            self.session = 0
            self._say(SessionEvent.LOST)
        if not self.session:
            self.session = service.open_session(self)
        self.connected = True
        self._fresh_us = service.world.now_us
        self._say(SessionEvent.CONNECTED)

    def resumed(self) -> None:
        """The process was paused: its session may be gone without its knowledge."""
        if self.connected and not self.service.heard(self.session):
            self.drop_line()

    def _poll(self) -> None:
        """As the production client does: a slow look beside the watches."""
        if self._closed:
            return
        if self.connected and self.service.reaches(self.loop.number) and self.session in self.service.sessions:
            watcher = self._watcher
            if watcher is not None:
                self._fresh_us = self.service.world.now_us
                state = self.service.now.state
                if (state.version if state is not None else None) != self._seen_version:
                    watcher.state_changed()
                watcher.nodes_changed()
                watcher.operation_requested()
        elif self.connected and self.service.reaches(self.loop.number):
            self.drop_line()
        self.service.world.after(max(100, self.service.session_ms // 4) * 1000, self.loop, self._poll)


def _state_changed(watcher: Watcher) -> None:
    watcher.state_changed()
