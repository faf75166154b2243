"""The network of nodes: listens, dials every other node, and gives each greeted connection a number.

Every node dials every other, so a healthy pair has two connections: what a node asks goes over the one that it
dialled, so that a heartbeat does not wait behind the bulk that the other side asked for.
"""

import asyncio
import itertools
import logging
import ssl
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from typing import Any, Final, Protocol

from replication.arriving import ArrivingSegment
from replication.connection import PROTOCOL_VERSIONS, Connection
from replication.core.values import Identity, ReplicaId
from replication.doorman import Door
from replication.incoming import Incoming, Payload
from replication.messages import Hello, Message
from storage.reader import Payload as Sendable
from storage.staging import Staged, StagingArea

_LOG: Final = logging.getLogger("perenne.peers")
RETRY_S: Final = (0.05, 1.0)
DIAL_TIMEOUT_S: Final = 3.0
RECEIVE_BYTES: Final = 256 * 1024


class PeerEvents(Protocol):
    """Called on the event loop; link numbers are never used twice."""

    def link_up(self, link: int, peer: Identity, dialled: bool) -> None: ...

    def link_down(self, link: int, reason: str) -> None: ...

    def message(self, link: int, peer: Identity, message: Message, payload: Payload) -> None:
        """A staged payload passes into the hands of the receiver, with one reference."""
        ...

    def writable(self, link: int) -> None: ...


class PeerNetwork:
    """All connections of one node."""

    def __init__(
        self,
        me: Identity,
        cluster_id: str,
        staging: StagingArea,
        arriving: Callable[[str, int], ArrivingSegment],
        events: PeerEvents,
        readers: Executor,
        *,
        host: str,
        port: int,
        chance: Callable[[], float],
        door: Door | None = None,
    ) -> None:
        """arriving(name, size): takes in a whole segment, in a file of that name. door: how TLS is spoken; without one
        connections are plain.
        """
        self._me = me
        self._door = door
        self._chance = chance
        self._hello = Hello(cluster_id, me.id, me.incarnation, me.boot, *PROTOCOL_VERSIONS)
        self._staging = staging
        self._arriving = arriving
        self._events = events
        self._readers = readers
        self._receive_buffer = memoryview(bytearray(RECEIVE_BYTES))
        self._host = host
        self.port = port
        self._server: asyncio.Server | None = None
        self._numbers = itertools.count(1)
        self._segments = itertools.count(1)
        self.on_segment: Callable[[], None] = lambda: None
        """Called when a whole segment begins to arrive, and when it is about to be taken over."""
        self._links: dict[int, Connection] = {}
        self._number_of: dict[Connection, int] = {}
        self._connections: dict[Connection, None] = {}
        self._known: set[ReplicaId] = {me.id}
        """Who may call: whoever was registered in ZooKeeper since this node runs, also while ZooKeeper is away."""
        self._diallers: dict[ReplicaId, tuple[tuple[str, int], asyncio.Task[None]]] = {}
        self._ended: dict[Connection, asyncio.Event] = {}
        self.ungreeted = 0
        """Who called and hung up, or was cut off, without a greeting that fits: strangers, other clusters, nodes that
        died just then.
        """
        self.unanswered: Counter[ReplicaId] = Counter()
        """By node, how often it was called in vain."""

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken."""
        if self._door is not None:
            self.port = await self._door.listen(self._called, self._host, self.port)
            return
        self._server = await asyncio.get_running_loop().create_server(self._called, self._host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def _called(self) -> Connection:
        return self._connection(dialled=False)

    @property
    def strangers(self) -> int:
        """Callers so far that ended without a handshake, or without a greeting that fits: other clusters too."""
        return self.ungreeted + (self._door.turned_away if self._door is not None else 0)

    async def close(self) -> None:
        """Hang up everywhere."""
        if self._door is not None:
            self._door.close()
        for _, task in self._diallers.values():
            task.cancel()
        self._diallers.clear()
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.close("the node stops")
        await asyncio.sleep(0)
        for connection in list(self._connections):
            connection.abort()

    def set_members(self, members: Mapping[ReplicaId, tuple[str, int]]) -> None:
        """Dial these, and go on dialling while they are named; a changed address is dialled anew."""
        self.admit(members)
        wanted = {replica: address for replica, address in members.items() if replica != self._me.id}
        for replica, (address, task) in list(self._diallers.items()):
            if wanted.get(replica) != address:
                task.cancel()
                del self._diallers[replica]
        for replica, address in wanted.items():
            if replica not in self._diallers:
                task = asyncio.get_running_loop().create_task(self._dial(replica, address))
                self._diallers[replica] = (address, task)

    def admit(self, nodes: Iterable[ReplicaId]) -> None:
        """These are nodes of the cluster, and may call; some may have called already."""
        new = set(nodes) - self._known
        self._known |= new
        for connection in list(self._connections) if new else ():
            connection.look_again()

    def waiting(self) -> list[ReplicaId]:
        """Who has called with a greeting that fits, and is not known as a node yet."""
        return [one.early for one in self._connections if one.early is not None]

    async def _dial(self, replica: ReplicaId, address: tuple[str, int]) -> None:
        loop = asyncio.get_running_loop()
        shortest, longest = RETRY_S
        delay = shortest
        told = False
        while True:
            options: dict[str, Any] = {"ssl": self._door.client()} if self._door is not None else {}
            try:
                async with asyncio.timeout(DIAL_TIMEOUT_S):
                    _, connection = await loop.create_connection(
                        lambda: self._connection(dialled=True, expected=replica),
                        *address,
                        **options,
                    )
            except (OSError, TimeoutError) as error:
                self.unanswered[replica] += 1
                if isinstance(error, ssl.SSLError):
                    _LOG.warning("no TLS with a peer", extra={"peer": replica, "reason": error.reason or str(error)})
            else:
                ended = self._ended.get(connection)
                if ended is not None:
                    await ended.wait()
                if connection.peer is not None:
                    delay, told = shortest, False
                elif not told:  # once, and not at each attempt
                    told = True
                    _LOG.warning(
                        "a peer does not answer the greeting: it stops, is of another cluster, or speaks TLS",
                        extra={"peer": replica, "address": f"{address[0]}:{address[1]}", "reason": connection.reason},
                    )
            await asyncio.sleep(delay * (0.5 + self._chance() / 2))
            delay = min(longest, delay * 2)

    def _connection(self, *, dialled: bool, expected: ReplicaId | None = None) -> Connection:
        connection = Connection(
            self._hello,
            self,
            self._incoming,
            receive_buffer=self._receive_buffer,
            readers=self._readers,
            dialled=dialled,
            expected=expected,
            known=self._known.__contains__,
        )
        self._connections[connection] = None
        self._ended[connection] = asyncio.Event()
        return connection

    def _incoming(self, connection: Connection) -> Incoming:
        return Incoming(self._staging, connection.arrived, self._segment)

    def _segment(self, size: int) -> ArrivingSegment:
        self.on_segment()
        return self._arriving(f"staging/segment-{next(self._segments):06d}.tar", size)

    # From connections

    def greeted(self, connection: Connection, peer: Identity) -> None:
        for older, number in list(self._number_of.items()):
            same = older.peer is not None and older.peer.id == peer.id and older.dialled == connection.dialled
            if same and older is not connection:
                self._down(older, number, "a newer connection took its place")
                older.close("a newer connection took its place")
        number = next(self._numbers)
        self._links[number] = connection
        self._number_of[connection] = number
        self._events.link_up(number, peer, connection.dialled)

    def ended(self, connection: Connection, reason: str) -> None:
        self._connections.pop(connection, None)
        ended = self._ended.pop(connection, None)
        if ended is not None:
            ended.set()
        number = self._number_of.get(connection)
        if number is not None:
            self._down(connection, number, reason)
        elif connection.peer is None and not connection.dialled:
            self.ungreeted += 1
            _LOG.warning("turned a connection away: no greeting", extra={"from": connection.caller, "reason": reason})

    def _down(self, connection: Connection, number: int, reason: str) -> None:
        del self._number_of[connection]
        del self._links[number]
        self._events.link_down(number, reason)

    def arrived(self, connection: Connection, message: Message, payload: Payload) -> None:
        number = self._number_of.get(connection)
        if number is not None and connection.peer is not None:
            self._events.message(number, connection.peer, message, payload)
        elif isinstance(payload, Staged):
            payload.release()
        elif isinstance(payload, ArrivingSegment):
            payload.discard()

    def writable(self, connection: Connection) -> None:
        number = self._number_of.get(connection)
        if number is not None:
            self._events.writable(number)

    # To connections

    def send(self, link: int, message: Message, payload: Sendable | None = None) -> None:
        """Queue a frame. A link that is gone is ignored: its end was, or will be, told."""
        connection = self._links.get(link)
        if connection is not None:
            connection.send(message, payload)

    def congested(self, link: int) -> bool:
        """More waits to be sent than should: go on at `writable`."""
        connection = self._links.get(link)
        return connection is not None and connection.congested

    async def clear(self, link: int) -> bool:
        """Wait until a link is not congested; return whether it still is a link."""
        if link in self._links:
            await self._links[link].clear()
        return link in self._links

    def received_bytes(self, link: int) -> int:
        """Payload bytes that came over a link so far, unfinished frames included."""
        connection = self._links.get(link)
        return connection.received_bytes if connection is not None else 0

    def arriving(self, link: int) -> Message | None:
        """The message whose payload comes over a link just now."""
        connection = self._links.get(link)
        return connection.arriving if connection is not None else None

    def close_link(self, link: int, reason: str) -> None:
        connection = self._links.get(link)
        if connection is not None:
            _LOG.info("closing a link", extra={"reason": reason})
            connection.close(reason)
