"""Brings instances to a cluster by C-STORE, as any modality does: each Success is the cluster's promise.

What breaks is tried again, at the next node first: a store is idempotent. What is refused for the instance's own sake
is not tried again; and when the cluster takes nothing for a while the import ends, to go on later where it stopped.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from blake3 import blake3

from perenne.dimse.command import Command
from perenne.dimse.sender import AssociationAborted, AssociationRejected, Sender
from perenne.dimse.status import PROCESSING_FAILURE, SUCCESS
from perenne.dimse.uids import IMPLICIT_LE, VERIFICATION
from perenne.journal import ACKNOWLEDGED, BROKEN, OFFERED, REFUSED, Facts, Journal
from perenne.moving.content import Held, Unreadable
from perenne.moving.contexts import Pair, Pairs
from perenne.moving.examine import Instance

_CONNECT_S: Final = 20.0
_ANSWER_S: Final = 180.0
"""Longer than any node waits for its copies, and enough for gigabytes."""
_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 5.0
_PERMANENT: Final = 1


class GaveUp(Exception):
    """The cluster takes nothing now; the text says what it said last."""


@dataclass(frozen=True, slots=True)
class Target:
    """One or more nodes: host and port of each, and how to call them. patience_s: how long to go on trying."""

    addresses: Sequence[tuple[str, int]]
    called_ae: str
    calling_ae: str
    patience_s: float


@dataclass(frozen=True, slots=True)
class Told:
    """What became of one instance. unreadable: it could not be read, so that the archive has not seen all of it."""

    acknowledged: bool
    why: str = ""
    status: int | None = None
    unreadable: bool = False


class Courier:
    """One association after the other, and one instance at a time."""

    def __init__(self, target: Target, first: int, pairs: Pairs, journal: Journal) -> None:
        self._target = target
        self._at = first
        self._pairs = pairs
        self._journal = journal
        self._sender: Sender | None = None
        self._proposed: frozenset[Pair] = frozenset()

    async def bring(self, instance: Instance) -> Told:
        """Send until there is an answer that settles it. Raises GaveUp."""
        pause, began = _FIRST_PAUSE_S, time.monotonic()
        while True:
            try:
                sender = await self._association(instance.pair)
                if not sender.takes(*instance.pair):
                    return Told(False, f"the archive takes no {instance.pair[0]} in {instance.pair[1]}")
                answer = await self._store(sender, instance)
                if (told := self._settled(answer, instance)) is not None:
                    return told
                last, busy = f"{self._node}: status {answer.status or 0:04X}: {answer.comment}", True
            except Unreadable as error:
                return Told(False, str(error), unreadable=True)
            except (OSError, AssociationAborted, AssociationRejected) as error:
                await self.hang_up()
                last, busy = f"{self._node}: {str(error) or 'no answer in time'}", False
                if isinstance(error, AssociationRejected) and error.result == _PERMANENT:
                    raise GaveUp(f"{last} (for good: see the AE titles)") from error
                self._at += 1
            if time.monotonic() - began > self._target.patience_s:
                if busy or not await self._answers():
                    raise GaveUp(last)
                return Told(False, last)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def proposes(self, pair: Pair) -> bool:
        """Whether the association that is open was asked for this pair."""
        return pair in self._proposed

    async def close(self) -> None:
        """Release the association."""
        if self._sender is not None:
            try:
                async with asyncio.timeout(_CONNECT_S):
                    await self._sender.release()
            except (OSError, AssociationAborted):
                await self.hang_up()
            self._sender = None

    async def hang_up(self) -> None:
        """Abort the association: what was under way on it is not promised."""
        sender, self._sender = self._sender, None
        if sender is not None:
            try:
                await sender.abort()
            except AssociationAborted:
                return  # it had gone already

    @property
    def _address(self) -> tuple[str, int]:
        return self._target.addresses[self._at % len(self._target.addresses)]

    @property
    def _node(self) -> str:
        return "{}:{}".format(*self._address)

    async def _association(self, pair: Pair) -> Sender:
        if self._sender is not None and pair not in self._proposed:
            await self.close()
        if self._sender is None:
            proposal = self._pairs.proposal(pair)
            self._sender = await self._associate(proposal)
            self._proposed = frozenset((sop_class, syntaxes[0]) for sop_class, syntaxes in proposal)
        return self._sender

    async def _associate(self, contexts: Sequence[tuple[str, Sequence[str]]]) -> Sender:
        target = self._target
        async with asyncio.timeout(_CONNECT_S):
            return await Sender.associate(
                *self._address, contexts, called_ae=target.called_ae, calling_ae=target.calling_ae
            )

    async def _store(self, sender: Sender, one: Instance) -> Command:
        facts = self._facts(one)
        self._journal.note(OFFERED, one.sop_instance_uid, **facts)
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await sender.store(
                    one.sop_class_uid, one.sop_instance_uid, one.transfer_syntax_uid, checked(one)
                )
        except BaseException:  # cancelled too: the journal owes a word on whatever was offered
            self._journal.note(BROKEN, one.sop_instance_uid, **facts)
            await self.hang_up()
            raise

    def _facts(self, one: Instance) -> Facts:
        return {"dataset": one.dataset, "node": self._node}

    def _settled(self, answer: Command, one: Instance) -> Told | None:
        """Write the answer down; None when the same may be taken later."""
        status = answer.status if answer.status is not None else PROCESSING_FAILURE
        facts = self._facts(one)
        if status == SUCCESS:
            found: Facts = {"source": one.name, "stamp": one.stamp, "syntax": one.transfer_syntax_uid}
            self._journal.note(ACKNOWLEDGED, one.sop_instance_uid, **(facts | found))
            return Told(True)
        self._journal.note(REFUSED, one.sop_instance_uid, **(facts | {"status": status}))
        if status == PROCESSING_FAILURE or status >> 8 == 0xA7:
            return None
        return Told(False, f"status {status:04X}: {answer.comment}".rstrip(": "), status)

    async def _answers(self) -> bool:
        """Whether some node answers a C-ECHO, so that it is the instance that it cannot take."""
        for _ in self._target.addresses:
            try:
                sender = await self._associate([(VERIFICATION, (IMPLICIT_LE,))])
                async with sender, asyncio.timeout(_CONNECT_S):
                    return await sender.echo() == SUCCESS
            except (OSError, AssociationAborted, AssociationRejected):
                self._at += 1
        return False


def checked(one: Instance) -> Iterator[memoryview]:
    """The data set as it is stored, with its last piece held back until all of it is what was examined.

    Raises Unreadable, also for what the disk says: it is the source's fault, not the network's.
    """
    if isinstance(one.content, Held):
        yield memoryview(one.content.data)[one.offset :]
        return
    digest, skip, held = blake3(), one.offset, memoryview(b"")
    try:
        for piece in one.content.pieces():
            part = memoryview(piece)[skip:]
            skip = max(skip - len(piece), 0)
            digest.update(part)
            if held:
                yield held
            held = part
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror or error}") from error
    if digest.hexdigest() != one.dataset:
        raise Unreadable("it changed while it was read")
    yield held
