"""Coordination over ZooKeeper: the only home of kazoo.

kazoo's threads never touch the loop's objects: every callback crosses over with `call_soon_threadsafe`. Nothing is
retried behind the core's back, since a write whose answer is lost may have been applied: it is UNKNOWN.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar, cast

from kazoo.client import KazooClient, KazooState
from kazoo.exceptions import (
    BadVersionError,
    KazooException,
    NodeExistsError,
    NoNodeError,
)
from kazoo.retry import KazooRetry

from replication.coordination import codec
from replication.coordination.access import Access
from replication.coordination.namesake import Namesake
from replication.coordination.port import (
    ClusterRecord,
    CoordinationCorrupt,
    CoordinationUnavailable,
    LiveNode,
    NodeRegistration,
    Operation,
    SessionEvent,
    Watcher,
)
from replication.core.values import CasOutcome, ClusterState, Identity, ReplicaId, TierFloor, VersionedState
from storage.position import LogPoint

_LOG: Final = logging.getLogger("perenne.coordination")
_EVENTS: Final = {
    KazooState.CONNECTED: SessionEvent.CONNECTED,
    KazooState.SUSPENDED: SessionEvent.SUSPENDED,
    KazooState.LOST: SessionEvent.LOST,
}
T = TypeVar("T")


class ZooKeeperCoordination:
    """One session after another under `root` of an ensemble; `hosts` is a connect string, "a:2181,b:2181"."""

    def __init__(
        self, hosts: str, *, session_timeout_ms: int, root: str = "/perenne", access: Access | None = None
    ) -> None:
        self._root = root
        self._asked_ms = session_timeout_ms
        # A dead server must not hold a client longer than its session lives elsewhere.
        retry = KazooRetry(max_tries=-1, delay=0.05, backoff=2, max_delay=min(1.0, session_timeout_ms / 4000))
        self._client: Any = KazooClient(
            hosts=hosts,
            timeout=session_timeout_ms / 1000,
            connection_retry=retry,
            command_retry=KazooRetry(max_tries=0),
            logger=logging.getLogger("perenne.kazoo"),
            **(access or Access()).options(),
        )
        self._call_s = max(1.0, session_timeout_ms / 1000)
        self._fresh_ms = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watcher: Watcher | None = None
        self._poll: asyncio.Task[None] | None = None
        self._seen_version: int | None = None
        self._prepared = False
        self._closing = False
        self._apart_since_s: float | None = None
        """Since when there has been no connection, as the poll saw it; monotonic."""
        self._namesake = Namesake()

    # Session

    async def start(self, watcher: Watcher) -> None:
        self._loop = asyncio.get_running_loop()
        self._watcher = watcher
        self._client.add_listener(self._state_listener)
        self._client.start_async()
        self._poll = self._loop.create_task(self._poll_for_changes())

    async def close(self) -> None:
        self._closing = True
        if self._poll is not None:
            self._poll.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._poll

        def end() -> None:
            with contextlib.suppress(KazooException):
                self._client.stop()
            self._client.close()

        await asyncio.to_thread(end)

    def session_timeout_ms(self) -> int:
        negotiated: Any = getattr(self._client, "_session_timeout", None)
        return int(negotiated) if negotiated else self._asked_ms

    def fresh_since_ms(self) -> int:
        return self._fresh_ms

    def _state_listener(self, state: str) -> None:
        self._hop(lambda: self._session_changed(_EVENTS[state]))

    def _session_changed(self, event: SessionEvent) -> None:
        if event is SessionEvent.LOST:
            self._seen_version = None
            self._prepared = False  # whoever lost the session may have lost everything
        if self._watcher is not None:
            self._watcher.session_changed(event)

    def _hop(self, call: Callable[[], None]) -> None:
        if self._loop is not None and not self._closing:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
                self._loop.call_soon_threadsafe(call)

    async def _poll_for_changes(self) -> None:
        """Watches may be late or lost with a server; a slow look keeps the session's freshness known besides."""
        while True:
            await asyncio.sleep(max(0.1, self._asked_ms / 4000))
            watcher = self._watcher
            if not self._client.connected:
                self._come_back_as_a_stranger()
                continue
            self._apart_since_s = None
            if watcher is None:
                continue
            try:
                stat: Any = await self._ask(self._client.exists_async(self._path("state")))
            except CoordinationUnavailable:
                continue
            version = stat.version if stat is not None else None
            if version != self._seen_version:
                watcher.state_changed()
            watcher.nodes_changed()
            watcher.operation_requested()

    def _come_back_as_a_stranger(self) -> None:
        """A server that holds less than this client has seen hangs up on it without a word: for ever, where its data
        was put back from a backup. After a whole session without a connection, what was seen is forgotten, as it is
        when a process starts: each new connection registers before it reads, so a server that only lags shows nothing
        older, and history that is lost shows in the change counter.
        """
        now_s = time.monotonic()
        if self._apart_since_s is None:
            self._apart_since_s = now_s
        elif now_s - self._apart_since_s > self.session_timeout_ms() / 1000 and self._client.last_zxid:
            _LOG.warning("no server of ZooKeeper takes this session back, or none answers: what it saw is forgotten")
            self._client.last_zxid = 0

    # Requests

    def _path(self, *parts: str) -> str:
        return "/".join((self._root, *parts))

    async def _result(self, result: Any) -> Any:
        """Await kazoo's answer. Raises what kazoo raises, or TimeoutError."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        sent_ms = int(time.monotonic() * 1000)

        def settle(done: Any) -> None:
            if future.done():
                return
            error = done.exception
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(done.value)

        def arrived(done: Any) -> None:
            self._hop(lambda: settle(done))

        result.rawlink(arrived)
        async with asyncio.timeout(self._call_s):
            try:
                answer = await future
            except (NoNodeError, NodeExistsError, BadVersionError):
                self._fresh_ms = max(self._fresh_ms, sent_ms)
                raise
        self._fresh_ms = max(self._fresh_ms, sent_ms)
        return answer

    async def _ask(self, result: Any) -> Any:
        """Await the answer of a read. Raises CoordinationUnavailable, NoNodeError, NodeExistsError."""
        try:
            return await self._result(result)
        except (NoNodeError, NodeExistsError, BadVersionError):
            raise
        except (KazooException, TimeoutError) as error:
            raise CoordinationUnavailable(f"ZooKeeper does not answer: {type(error).__name__}") from error

    async def _cas(self, send: Callable[[], Any], version_of: Callable[[Any], int]) -> tuple[CasOutcome, int]:
        """Carry out a write whose outcome may stay unknown."""
        if not self._client.connected:
            return CasOutcome.UNKNOWN, -1
        try:
            answer = await self._result(send())
        except (NoNodeError, NodeExistsError, BadVersionError):
            return CasOutcome.CONFLICT, -1
        except (KazooException, TimeoutError):
            return CasOutcome.UNKNOWN, -1
        if isinstance(answer, list) and any(isinstance(part, Exception) for part in cast("list[object]", answer)):
            return CasOutcome.CONFLICT, -1
        return CasOutcome.APPLIED, version_of(answer)

    async def _prepare(self) -> None:
        if self._prepared:
            return
        for name in ("", "nodes", "live", "ops"):
            path = self._path(name) if name else self._root
            with contextlib.suppress(NodeExistsError):
                await self._ask(self._client.create_async(path, b"", makepath=True))
        self._prepared = True

    async def cluster(self, propose: ClusterRecord) -> ClusterRecord:
        await self._prepare()
        with contextlib.suppress(NodeExistsError):
            await self._ask(self._client.create_async(self._path("cluster"), codec.encode_cluster(propose)))
        data, _ = await self._ask(self._client.get_async(self._path("cluster")))
        return codec.decode_cluster(data)

    async def register(self, registration: NodeRegistration) -> None:
        await self._prepare()
        path = self._path("nodes", registration.id)
        try:
            data, stat = await self._ask(self._client.get_async(path))
            registration = codec.decode_registration(data).succeeded_by(registration)
            await self._ask(self._client.set_async(path, codec.encode_registration(registration), stat.version))
        except NoNodeError:
            await self._put(path, codec.encode_registration(registration))
        except BadVersionError as error:  # an operator's hand was there as well: look again
            raise CoordinationUnavailable(f"{path} was changed meanwhile") from error

    async def _put(self, path: str, data: bytes) -> None:
        try:
            await self._ask(self._client.set_async(path, data))
        except NoNodeError:
            with contextlib.suppress(NodeExistsError):
                await self._ask(self._client.create_async(path, data))

    async def announce(self, live: LiveNode) -> None:
        await self._prepare()
        path, data = self._path("live", live.identity.id), codec.encode_live(live)
        session = self._client.client_id[0] if self._client.client_id else 0
        stat: Any = await self._ask(self._client.exists_async(path))
        if stat is not None and stat.ephemeralOwner != session:
            with contextlib.suppress(NoNodeError):
                found, seen = await self._ask(self._client.get_async(path))
                other, owner = codec.decode_live(found), int(seen.ephemeralOwner)
                self._namesake.refuse_if_it_runs(other, owner, live, self.session_timeout_ms())
                await self._ask(self._client.delete_async(path))
            stat = None
        if stat is not None:
            await self._put(path, data)
            return
        try:
            await self._ask(self._client.create_async(path, data, ephemeral=True))
        except NodeExistsError as error:  # whose it is will be seen at the next try
            raise CoordinationUnavailable(f"{path} was made by another session meanwhile") from error

    async def read_state(self) -> VersionedState | None:
        path = self._path("state")
        try:
            await self._ask(self._client.sync_async(self._root))
            data, stat = await self._ask(self._client.get_async(path, watch=self._state_watch))
        except NoNodeError:
            self._seen_version = None
            return None
        self._seen_version = stat.version
        return VersionedState(codec.decode_state(data), stat.version)

    async def leader(self) -> Identity | None:
        path = self._path("leader")
        try:
            data, _ = await self._ask(self._client.get_async(path, watch=self._state_watch))
        except NoNodeError:
            try:
                stat: Any = await self._ask(self._client.exists_async(path, watch=self._state_watch))
            except NoNodeError:
                return None
            if stat is not None:
                return await self.leader()
            return None
        return codec.decode_leader(data)

    def _state_watch(self, _event: object) -> None:
        self._hop(lambda: self._watcher.state_changed() if self._watcher else None)

    def _nodes_watch(self, _event: object) -> None:
        self._hop(lambda: self._watcher.nodes_changed() if self._watcher else None)

    def _operations_watch(self, _event: object) -> None:
        self._hop(lambda: self._watcher.operation_requested() if self._watcher else None)

    async def tier_floor(self) -> TierFloor | None:
        try:
            data, stat = await self._ask(self._client.get_async(self._path("tierfloor")))
        except NoNodeError:
            return None
        return TierFloor(codec.decode_tier_floor(data), int(stat.version))

    async def count_tier(
        self, point: LogPoint, state_version: int, floor_version: int | None
    ) -> tuple[CasOutcome, int]:
        path, data = self._path("tierfloor"), codec.encode_tier_floor(point)

        def send() -> Any:
            transaction = self._client.transaction()
            transaction.check(self._path("state"), state_version)
            if floor_version is None:
                transaction.create(path, data)
            else:
                transaction.set_data(path, data, floor_version)
            return transaction.commit_async()

        return await self._cas(send, lambda answer: 0 if floor_version is None else int(answer[-1].version))

    async def create_state(self, state: ClusterState) -> tuple[CasOutcome, int]:
        data = codec.encode_state(state)
        return await self._cas(lambda: self._client.create_async(self._path("state"), data), lambda _: 0)

    async def write_state(self, state: ClusterState, version: int) -> tuple[CasOutcome, int]:
        data = codec.encode_state(state)
        return await self._cas(
            lambda: self._client.set_async(self._path("state"), data, version), lambda stat: int(stat.version)
        )

    async def take_lead(self, state: ClusterState, version: int, who: Identity) -> tuple[CasOutcome, int]:
        stale = await self._own_leftover(who)

        def send() -> Any:
            transaction = self._client.transaction()
            if stale:
                transaction.delete(self._path("leader"))
            transaction.create(self._path("leader"), codec.encode_leader(who), ephemeral=True)
            transaction.set_data(self._path("state"), codec.encode_state(state), version)
            return transaction.commit_async()

        return await self._cas(send, lambda answer: int(answer[-1].version))

    async def recreate_leader(self, version: int, who: Identity) -> CasOutcome:
        stale = await self._own_leftover(who)

        def send() -> Any:
            transaction = self._client.transaction()
            transaction.check(self._path("state"), version)
            if stale:
                transaction.delete(self._path("leader"))
            transaction.create(self._path("leader"), codec.encode_leader(who), ephemeral=True)
            return transaction.commit_async()

        outcome, _ = await self._cas(send, lambda _: 0)
        return outcome

    async def _own_leftover(self, who: Identity) -> bool:
        """Whether `leader` was left by an older session of this very process."""
        try:
            data, stat = await self._ask(self._client.get_async(self._path("leader")))
        except (NoNodeError, CoordinationUnavailable):
            return False
        session = self._client.client_id[0] if self._client.client_id else 0
        return codec.decode_leader(data) == who and stat.ephemeralOwner != session

    async def resign(self, who: Identity) -> None:
        try:
            data, stat = await self._ask(self._client.get_async(self._path("leader")))
            if codec.decode_leader(data) == who:
                await self._ask(self._client.delete_async(self._path("leader"), stat.version))
        except (NoNodeError, BadVersionError, CoordinationUnavailable):
            return  # gone already, or gone with the session

    # Nodes and operations

    async def _children(self, name: str, watch: Callable[[object], None], decode: Callable[[bytes], T]) -> list[T]:
        await self._prepare()
        found: list[T] = []
        names: list[str] = await self._ask(self._client.get_children_async(self._path(name), watch=watch))
        for child in names:
            try:
                data, _ = await self._ask(self._client.get_async(self._path(name, child)))
                found.append(decode(data))
            except NoNodeError:
                continue
            except CoordinationCorrupt as error:
                _LOG.error("a znode cannot be read", extra={"znode": f"{name}/{child}", "reason": str(error)})
        return found

    async def live_nodes(self) -> Mapping[ReplicaId, LiveNode]:
        nodes = await self._children("live", self._nodes_watch, codec.decode_live)
        return {node.identity.id: node for node in nodes}

    async def registrations(self) -> Mapping[ReplicaId, NodeRegistration]:
        nodes = await self._children("nodes", self._nodes_watch, codec.decode_registration)
        return {node.id: node for node in nodes}

    async def request_operation(self, operation: Operation) -> None:
        await self._prepare()
        await self._put(self._path("ops", operation.verb), codec.encode_operation(operation))

    async def operations(self) -> tuple[Operation, ...]:
        return tuple(await self._children("ops", self._operations_watch, codec.decode_operation))

    async def finish_operation(self, operation: Operation, result: str) -> None:
        done = Operation(operation.verb, operation.id, operation.arguments, result)
        await self._put(self._path("ops", operation.verb), codec.encode_operation(done))
