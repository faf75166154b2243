"""The DICOM port of one node: listens, keeps its associations within limits, and drains."""

import asyncio
import ipaddress
import itertools
import logging
import socket
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from perenne.dimse.association import Association
from perenne.dimse.budget import Budget
from perenne.dimse.negotiation import CallingPolicy, Rejection
from perenne.dimse.observer import DimseObserver, DimseStatistics, NoObserver
from perenne.dimse.refusals import Refusals
from perenne.dimse.settings import DimseSettings
from perenne.dimse.store import Scanner, StoreService
from replication.api import Committer
from replication.doorman import Door
from storage.staging import StagingArea

_LOG = logging.getLogger("perenne.dimse.server")
_RECEIVE_BUFFER: Final = 256 * 1024
_QUIET_S: Final = 0.5
_REVIEW_S: Final = 1.0
_SPARE_CONNECTIONS: Final = 64
"""Connections beyond the associations allowed: to tell them so, to refuse, and to say goodbye."""


class DimseServer:
    """Accepts associations for Verification and Storage. All methods belong to one event loop."""

    def __init__(
        self,
        settings: DimseSettings,
        committer: Committer,
        staging: StagingArea,
        scanner: Scanner,
        observer: DimseObserver | None = None,
        door: Door | None = None,
    ) -> None:
        """door: how TLS is spoken on `tls_port`."""
        self.settings = settings
        self._door = door
        self.observer: DimseObserver = observer if observer is not None else NoObserver()
        self.policy = CallingPolicy((), {})
        self.budget = Budget(association_bytes=settings.association_bytes, total_bytes=settings.total_bytes)
        self._executor = ThreadPoolExecutor(2, thread_name_prefix="dimse-staging")
        self._refusals = Refusals()
        self.service = StoreService(
            committer, staging, scanner, self._executor, settings.background_bytes, self._refusals
        )
        self.receive_buffer = memoryview(bytearray(_RECEIVE_BUFFER))
        self._numbers = itertools.count(1)
        self._associations: set[Association] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._port = 0
        self.tls_port = 0
        """What TLS is spoken on; 0 where it is not."""
        self._draining = False
        self._left = asyncio.Event()
        self._review: asyncio.TimerHandle | None = None

    @property
    def port(self) -> int:
        """The port listened on, also when 0 was asked for, and after it was closed."""
        assert self._port, "not started"
        return self._port

    async def start(self) -> None:
        """Resolve the hosts of `aes` and listen. Raises OSError."""
        self.policy = CallingPolicy(self.settings.aes, await _addresses(self.settings))
        settings = self.settings
        if settings.port is not None:
            self._server = await asyncio.get_running_loop().create_server(
                self._association, settings.host, settings.port, backlog=256
            )
            self._port = int(self._server.sockets[0].getsockname()[1])
        if self._door is not None and settings.tls_port is not None:
            self.tls_port = await self._door.listen(self._association, settings.host, settings.tls_port)
            self._port = self._port or self.tls_port
        self._review_budget()

    def _association(self) -> Association:
        return Association(self, asyncio.get_running_loop(), next(self._numbers))

    def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
        if self._door is not None:
            self._door.close()

    async def drain(self, deadline_s: float) -> None:
        """Stop accepting; let operations finish; return when all associations are gone.

        A sender in the middle of a batch may go on for most of the time; one that pauses for half a second is
        aborted between two operations, so that it loses nothing and asks again elsewhere. What is left at the
        deadline is cut.
        """
        loop = asyncio.get_running_loop()
        self._draining = True
        self._stop_listening()
        end = loop.time() + deadline_s
        patience = end - deadline_s / 5
        while self._associations and loop.time() < end:
            now = loop.time()
            for association in list(self._associations):
                if now >= patience or (not association.busy and association.quiet_for(now) >= _QUIET_S):
                    association.leave()
            self._left.clear()
            try:
                await asyncio.wait_for(self._left.wait(), min(0.1, max(end - now, 0)))
            except TimeoutError:
                continue
        self._cut_all()
        if self._tasks and (left := end - loop.time()) > 0:
            await asyncio.wait(self._tasks, timeout=left)

    async def close(self) -> None:
        """Stop at once: connections are dropped, operations cancelled. Instances may yet be committed."""
        self._draining = True
        self._stop_listening()
        if self._review is not None:
            self._review.cancel()
        self._cut_all()
        while self._associations:
            self._left.clear()
            await self._left.wait()
        self.service.stop()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.service.close()
        self._refusals.close()
        self._executor.shutdown()

    def statistics(self) -> DimseStatistics:
        return DimseStatistics(
            connections=len(self._associations),
            associations=self._established(),
            bytes_in_flight=self.budget.total,
            paused=sum(association.paused for association in self._associations),
            stores=sum(association.outstanding for association in self._associations),
        )

    # What associations ask (association.Host)

    def make_room(self) -> None:
        """Beyond the limit the connection that has asked for nothing for the longest time gives way: those who connect
        and say nothing, be they hundreds, keep no modality out.
        """
        there = [association for association in self._associations if not association.ending]
        if len(there) < self.settings.max_associations + _SPARE_CONNECTIONS:
            return
        waiting = (association for association in there if not association.established)
        oldest = min(waiting, key=lambda association: association.number)
        self.observer.connection_refused()
        self._refusals.tell("connection dropped", "too many connections")
        oldest.cut()

    def refuses_association(self) -> Rejection | None:
        if self._draining:
            return Rejection.DRAINING
        return Rejection.LIMIT if self._established() >= self.settings.max_associations else None

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def arrived(self, association: Association) -> None:
        self._associations.add(association)

    def left(self, association: Association) -> None:
        self._associations.discard(association)
        self._left.set()

    def _review_budget(self) -> None:
        loop = asyncio.get_running_loop()
        self.budget.review(loop.time())
        self._review = loop.call_later(_REVIEW_S, self._review_budget)

    def _established(self) -> int:
        return sum(association.established for association in self._associations)

    def _cut_all(self) -> None:
        for association in list(self._associations):
            association.cut()


async def _addresses(settings: DimseSettings) -> dict[str, Sequence[str]]:
    """Return the addresses of the hosts that are names. One that does not resolve matches nobody."""
    found: dict[str, Sequence[str]] = {}
    for host in {entry.host for entry in settings.aes if entry.host is not None}:
        try:
            ipaddress.ip_network(host, strict=False)
        except ValueError:
            try:
                facts = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
                found[host] = sorted({str(fact[4][0]) for fact in facts})
            except OSError:
                _LOG.warning("host of an [[ae]] entry does not resolve", extra={"host": host})
                found[host] = ()
    return found
