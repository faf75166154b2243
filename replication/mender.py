"""Damaged records are fetched from whoever holds them, and put back in their place (protocol, section 8; ADR 0006)."""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from replication.asking import answer_of
from replication.core.values import TIER, ReplicaId
from replication.incoming import Gone
from replication.incoming import Payload as Arrived
from replication.messages import Fetch, Fetched, FetchEnd, to_point
from storage.errors import FormatError, LogContradiction, RecordCorrupt, StorageError, StorageFull
from storage.position import LogPoint, RecordHeader, RecordKind
from storage.rawrecord import WholeRecord
from storage.reader import BytesPayload, Payload
from storage.record import encode_stub
from storage.staging import Staged

if TYPE_CHECKING:
    from replication.replicator import Replicator

_LOG: Final = logging.getLogger("perenne.mender")
FETCH_S: Final = 30.0
SLOWEST: Final = 20_000_000
"""Bytes a second at which whoever is asked reads a record, perhaps from the tier: all of it is proved before any is
sent.
"""
RETRY_S: Final = 5.0
"""Between two rounds through what is damaged; each round that mends not everything says so in the log."""


class Mender:
    """Repairs the log of one node, one record after the other, whether or not anybody leads."""

    def __init__(self, replicator: "Replicator") -> None:
        self._replicator = replicator
        # The core numbers its own fetches upwards from 1.
        self._nonces = itertools.count(-1, -1)
        self._asked: dict[int, tuple[int, asyncio.Future[tuple[Fetched, Staged | Gone] | None]]] = {}
        self._busy = False
        self._again = asyncio.Event()
        self._tried = asyncio.Event()
        self._rounds = 0
        self.repaired = 0

    def wake(self) -> None:
        """Something is damaged, or somebody came who may have it whole."""
        self._again.set()
        if not self._busy and self._wanted():
            self._busy = True
            self._replicator.spawn(self._mend_all())

    def _wanted(self) -> list[int]:
        """What is damaged. A stub whose tombstone is on its way is nobody's to repair yet."""
        log = self._replicator.log
        return [sequence for sequence in log.damaged() if not log.awaits(sequence)]

    async def _mend_all(self) -> None:
        try:
            while wanted := self._wanted():
                for sequence in wanted:
                    await self._mend(sequence)
                    self._said()
                self._rounds += 1
                self._said()
                left = self._wanted()
                if left:
                    facts = {"records": len(left), "lowest": left[:10]}
                    _LOG.error(
                        "records are damaged here, and neither a node nor the tier could replace them", extra=facts
                    )
                    self._again.clear()
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(RETRY_S):
                            await self._again.wait()
        finally:
            self._busy = False
            self._said()

    def _said(self) -> None:
        """Wake whoever waits for a repair."""
        tried, self._tried = self._tried, asyncio.Event()
        tried.set()

    async def mended(self, sequences: Iterable[int], seconds: float) -> bool:
        """Have these records mended now; false when that takes too long, or when nobody has them.

        A round that is under way may have passed them already: the next one tells.
        """
        wanted, last = frozenset(sequences), self._rounds + 2
        self.wake()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while wanted & self._replicator.log.damage.known and self._rounds < last:
                    self._again.set()
                    await self._tried.wait()
        return not wanted & self._replicator.log.damage.known

    async def _mend(self, sequence: int) -> None:
        replicator, log = self._replicator, self._replicator.log
        loop = asyncio.get_running_loop()
        # A reader may have met a repair half done: then there is no damage any more.
        if not await loop.run_in_executor(replicator.readers, log.judge, sequence):
            return
        previous = log.point_at(sequence - 1)
        if previous is None:
            return  # what proves it is damaged itself: its turn comes first
        situation = replicator.core.situation
        for replica in sorted({link.peer.id for link in situation.links.values()}):
            link = situation.link_to(replica)
            found = await self._fetch(link.number, previous, sequence) if link is not None else None
            if found is None:
                continue
            message, payload = found
            header, chain = message.record.header(), message.record.chain
            if isinstance(payload, Gone):
                if await self._put_stub_back(sequence, header, chain, payload, replica):
                    return
            elif await self._put_back(sequence, header, chain, payload, replica):
                return
        if replicator.tiering is not None:
            lent = await replicator.tiering.lend(sequence)
            if lent is not None:
                header, chain, staged = lent
                if isinstance(staged, Staged):
                    await self._put_back(sequence, header, chain, staged, TIER)
                else:
                    await self._put_stub_back(sequence, header, chain, Gone(staged), TIER)

    async def _put_back(
        self, sequence: int, header: RecordHeader, chain: bytes, staged: Staged, source: ReplicaId
    ) -> bool:
        try:
            if not await self._repair(sequence, WholeRecord(header, chain, staged), staged):
                return False
        finally:
            staged.release()
        if header.kind is RecordKind.INSTANCE:
            await asyncio.to_thread(self._replicator.index.refilled, sequence)
        return self._done(sequence, source)

    async def _put_stub_back(
        self, sequence: int, header: RecordHeader, chain: bytes, gone: Gone, source: ReplicaId
    ) -> bool:
        """The instance was deleted, and its bytes are gone there: so they may be here, if this log says so too."""
        try:
            whole = BytesPayload(encode_stub(header, chain, gone.tombstone))
        except FormatError as error:
            _LOG.warning("what was fetched repairs nothing", extra={"sequence": sequence, "reason": str(error)})
            return False
        return await self._repair(sequence, whole) and self._done(sequence, source)

    def _done(self, sequence: int, source: ReplicaId) -> bool:
        self.repaired += 1
        _LOG.warning("a damaged record was repaired", extra={"sequence": sequence, "from": source})
        return True

    async def _fetch(self, link: int, previous: LogPoint, sequence: int) -> tuple[Fetched, Staged | Gone] | None:
        nonce = next(self._nonces)
        future: asyncio.Future[tuple[Fetched, Staged | Gone] | None] = asyncio.get_running_loop().create_future()
        self._asked[nonce] = (link, future)
        try:
            network, entry = self._replicator.network, self._replicator.log.entry(sequence)
            patience_s = FETCH_S + (entry.length / SLOWEST if entry is not None else 0)
            network.send(link, Fetch(nonce, to_point(previous), sequence))
            return await answer_of(future, network, link, nonce, patience_s)
        except TimeoutError:
            return None
        finally:
            del self._asked[nonce]

    async def _repair(self, sequence: int, raw: Payload, staged: Staged | None = None) -> bool:
        """staged: held as long as the log thread may read it, which goes on when nobody waits for it any more."""
        replicator = self._replicator
        try:
            work = replicator.group.call(lambda: replicator.log.repair(sequence, raw))
            if staged is not None:
                staged.retain()
                work.add_done_callback(lambda _: staged.release())
            await asyncio.wrap_future(work)
        except (RecordCorrupt, LogContradiction, StorageFull) as error:
            _LOG.warning("what was fetched repairs nothing", extra={"sequence": sequence, "reason": str(error)})
            return False
        except StorageError as error:
            replicator.log_failed(error)
            return False
        return True

    # Answers

    def asked(self, nonce: int) -> bool:
        """Whether an answer with this nonce is for the mender."""
        return nonce in self._asked

    def answered(self, message: Fetched | FetchEnd, payload: Arrived) -> None:
        future = self._asked[message.nonce][1]
        if isinstance(message, Fetched) and isinstance(payload, (Staged, Gone)) and not future.done():
            future.set_result((message, payload))
            return
        if isinstance(payload, Staged):
            payload.release()
        if not future.done():
            future.set_result(None)

    def link_down(self, link: int) -> None:
        for asked, future in self._asked.values():
            if asked == link and not future.done():
                future.set_result(None)
