"""Damaged records are fetched from whoever holds them, and put back in their place (protocol, section 8; ADR 0006)."""

import asyncio
import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from replication.incoming import Payload
from replication.messages import Fetch, Fetched, FetchEnd, to_point
from storage.errors import LogContradiction, RecordCorrupt, StorageError, StorageFull
from storage.position import LogPoint, RecordHeader
from storage.record import encode_header, trailing_padding
from storage.staging import Staged

if TYPE_CHECKING:
    from replication.replicator import Replicator

_LOG: Final = logging.getLogger("perenne.mender")
FETCH_S: Final = 30.0
RETRY_S: Final = 5.0
"""Between two rounds through what is damaged; each round that mends not everything says so in the log."""


class Mender:
    """Repairs the log of one node, one record after the other, whether or not anybody leads."""

    def __init__(self, replicator: "Replicator") -> None:
        self._replicator = replicator
        # The core numbers its own fetches upwards from 1.
        self._nonces = itertools.count(-1, -1)
        self._asked: dict[int, tuple[int, asyncio.Future[tuple[Fetched, Staged] | None]]] = {}
        self._busy = False

    def wake(self) -> None:
        """Something is damaged."""
        if not self._busy and self._replicator.log.damaged():
            self._busy = True
            self._replicator.spawn(self._mend_all())

    async def _mend_all(self) -> None:
        log = self._replicator.log
        try:
            while damaged := log.damaged():
                for sequence in damaged:
                    await self._mend(sequence)
                left = log.damaged()
                if left:
                    facts = {"records": len(left), "lowest": list(left[:10])}
                    _LOG.error("records are damaged here, and nobody connected could replace them", extra=facts)
                    await asyncio.sleep(RETRY_S)
        finally:
            self._busy = False

    async def _mend(self, sequence: int) -> None:
        replicator, log = self._replicator, self._replicator.log
        loop = asyncio.get_running_loop()
        try:
            # A reader may have met a repair half done: then there is no damage any more.
            await loop.run_in_executor(replicator.readers, log.read, sequence)
            return
        except StorageError:
            pass
        previous = log.point_at(sequence - 1)
        if previous is None:
            return  # what proves it is damaged itself: its turn comes first
        situation = replicator.core.situation
        for replica in sorted({link.peer.id for link in situation.links.values()}):
            link = situation.link_to(replica)
            found = await self._fetch(link.number, previous, sequence) if link is not None else None
            if found is None:
                continue
            message, staged = found
            try:
                if await self._repair(sequence, _RawRecord(message.record.header(), message.record.chain, staged)):
                    _LOG.warning("a damaged record was repaired", extra={"sequence": sequence, "from": replica})
                    return
            finally:
                staged.release()

    async def _fetch(self, link: int, previous: LogPoint, sequence: int) -> tuple[Fetched, Staged] | None:
        nonce = next(self._nonces)
        future: asyncio.Future[tuple[Fetched, Staged] | None] = asyncio.get_running_loop().create_future()
        self._asked[nonce] = (link, future)
        try:
            self._replicator.network.send(link, Fetch(nonce, to_point(previous), sequence))
            async with asyncio.timeout(FETCH_S):
                return await future
        except TimeoutError:
            return None
        finally:
            del self._asked[nonce]

    async def _repair(self, sequence: int, raw: "_RawRecord") -> bool:
        replicator = self._replicator
        try:
            await asyncio.wrap_future(replicator.group.call(lambda: replicator.log.repair(sequence, raw)))
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

    def answered(self, message: Fetched | FetchEnd, payload: Payload) -> None:
        future = self._asked[message.nonce][1]
        if isinstance(message, Fetched) and isinstance(payload, Staged) and not future.done():
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


@dataclass(frozen=True, slots=True)
class _RawRecord:
    """A whole record, as it lies in a segment."""

    header: RecordHeader
    chain: bytes
    payload: Staged

    @property
    def size(self) -> int:
        return len(encode_header(self.header, self.chain)) + self.header.size + trailing_padding(self.header.size)

    def parts(self) -> Iterator[memoryview]:
        yield memoryview(encode_header(self.header, self.chain))
        yield from self.payload.parts()
        yield memoryview(bytes(trailing_padding(self.header.size)))
