"""Finding an instance: here, or at the leader. "Absent" is said by an active leader only; else nobody can tell now."""

import asyncio
import itertools
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from replication.api import InstanceAbsent, InstanceBytes, InstanceDeleted, InstanceUnavailable
from replication.asking import answer_of
from replication.core.proposals import is_covered
from replication.evicting import read_record
from replication.incoming import Payload
from replication.messages import Lookup, LookupAnswer
from storage.dataset import UnreadableDataSet, read_meta
from storage.digest import META_LIMIT_BYTES
from storage.errors import RecordCorrupt, StorageError
from storage.log import Log
from storage.position import RecordKind
from storage.reader import StoredRecord, checked
from storage.staging import Staged

if TYPE_CHECKING:
    from replication.replicator import Replicator

_LOG: Final = logging.getLogger("perenne.lookup")
TIMEOUT_S: Final = 10.0
REPAIR_S: Final = 8.0
IN_MEMORY_BYTES: Final = 1024 * 1024
"""Larger instances leave from their file in pieces: whoever asked may read slowly, and may be many."""
FRESH_SHARE: Final = 0.6
"""Of the session time-out: for so long after its last answered request nobody can have taken a leader's place, also
where the server granted less than was asked for or the clocks run unevenly.
"""


class StoredInstance:
    """A Part 10 file from this node's log; its digest was checked when it was read."""

    def __init__(self, stored: StoredRecord, log: Log) -> None:
        self._payload = stored.payload
        self._sequence = stored.header.position.sequence
        self._log = log
        self.size = stored.payload.size
        self.digest = stored.header.digest

    def parts(self) -> Iterator[memoryview]:
        """Raises RecordCorrupt before the last piece when the bytes changed since they were checked."""
        try:
            yield from self._payload.parts()
        except RecordCorrupt:
            self._log.note_damage(self._sequence)
            raise


class FetchedInstance:
    """A Part 10 file from another node; its digest was checked when it arrived, and is again if it lay in a file."""

    def __init__(self, staged: Staged) -> None:
        self._staged = staged
        self.size = staged.size

    def parts(self) -> Iterator[memoryview]:
        staged = self._staged
        parts = staged.parts()
        yield from parts if staged.in_memory else checked(RecordKind.INSTANCE, staged.digest, parts)

    def __del__(self) -> None:
        self._staged.release()


class Lookups:
    """Questions under way, ours and those of others."""

    def __init__(self, replicator: "Replicator") -> None:
        self._replicator = replicator
        self._nonces = itertools.count(1)
        self._asked: dict[int, tuple[int, asyncio.Future[tuple[LookupAnswer, Payload]]]] = {}
        self.reads = 0

    async def read(self, uid: str) -> InstanceBytes:
        """Return the current version of an instance. Raises InstanceAbsent, InstanceDeleted, InstanceUnavailable."""
        self.reads += 1
        local = await self._here(uid)
        if local is not None:
            return local
        if self._may_say_deleted(uid):
            raise InstanceDeleted(uid)  # nobody else is asked: a replica that lags behind may have it still
        # A record that is known and damaged here is not absent: another replica has it. And what a leader's index does
        # not name may be named by another's: a flipped bit in an index denies nothing that somebody else knows.
        try:
            return await self._ask_others(uid, absent=self._may_say_absent() and not self._current(uid))
        except InstanceUnavailable:
            # What nobody connected holds may be in the tier, from which the log is being mended.
            replicator = self._replicator
            damaged = replicator.log.damage.known.intersection(self._current(uid))
            if damaged and replicator.tiering is not None and await replicator.mender.mended(damaged, REPAIR_S):
                mended = await self._here(uid)
                if mended is not None:
                    return mended
            raise

    def _current(self, uid: str) -> list[int]:
        """The committed record that is current under a UID, as far as this node knows, and those with the same
        content: an instance whose record was damaged may have been stored again.

        None of them while the index has not come by those that could be current instead. What a tombstone covers is
        none. A follower goes by one that may not be committed yet: whether it is, and the instance deleted, is for the
        leader to say. Nothing is current while the log may hold tombstones not known here.
        """
        replicator = self._replicator
        reach, committed = replicator.recent.reach, replicator.core.situation.committed.sequence
        known = [version for version in replicator.recent.versions(uid) if version.sequence <= committed]
        if known:
            buried = replicator.recent.tombstones(uid)
            upto = committed if replicator.core.leadership is not None and self._may_say_absent() else None
            known = [version for version in known if not is_covered(version, buried, upto)]
        if not known or not reach.deletes:
            return []
        newest = replicator.settings.core.conflict_policy.value == "newest"
        first = known[-1 if newest else 0]
        if not reach.current(first.sequence, newest=newest):
            return []  # a whole segment was taken over: one of another content may be in it
        content = (first.dataset, first.transfer_syntax_uid)
        same = [v.sequence for v in known if v is not first and (v.dataset, v.transfer_syntax_uid) == content]
        return [first.sequence, *same]

    async def _here(self, uid: str) -> StoredInstance | None:
        replicator = self._replicator
        loop = asyncio.get_running_loop()
        for sequence in self._current(uid):
            try:
                stored = await read_record(replicator, sequence, whole_limit=IN_MEMORY_BYTES)
                called = await loop.run_in_executor(replicator.readers, _is_called, stored, uid)
            except StorageError:
                continue  # damaged here: another record or another replica has it
            if called:
                return StoredInstance(stored, replicator.log)
            _LOG.critical("the index names another record: rebuilding it from the log", extra={"sequence": sequence})
            replicator.distrust_index()
            return None
        return None

    def _may_say_deleted(self, uid: str) -> bool:
        """Whether all that was ever stored under a UID is covered by tombstones that are committed."""
        recent, committed = self._replicator.recent, self._replicator.core.situation.committed.sequence
        buried = recent.tombstones(uid) if self._may_say_absent() else ()
        known = [version for version in recent.versions(uid) if version.sequence <= committed] if buried else []
        return bool(known) and all(is_covered(version, buried, committed) for version in known)

    def _may_say_absent(self) -> bool:
        """An active leader that coordination names, and that heard from it lately, knows every committed record, if it
        could read each. Asked before the index is, which goes on meanwhile.
        """
        replicator = self._replicator
        leadership = replicator.core.leadership
        age_ms = replicator.runtime.now_ms() - replicator.coordinator.fresh_since_ms
        fresh = age_ms < replicator.settings.core.session_timeout_ms * FRESH_SHARE
        complete = replicator.recent.complete and not replicator.index.holes
        leads = leadership is not None and leadership.knows_commits and leadership.named
        return leads and fresh and complete

    async def _ask_others(self, uid: str, *, absent: bool) -> InstanceBytes:
        """The leader first: it alone can say "absent". Who else has the bytes may serve them where it cannot.

        absent: this node leads and knows of no such instance.
        """
        situation, leader = self._replicator.core.situation, self._replicator.core.leader
        others = {link.peer.id for link in situation.links.values()}
        reason = "no leader can be asked now"
        for replica in sorted(others, key=lambda other: (other != leader, other)):
            link = situation.link_to(replica)
            if link is not None:
                try:
                    return await self._ask(link.number, uid)
                except InstanceDeleted:
                    raise
                except InstanceAbsent:
                    absent = True
                except InstanceUnavailable as error:
                    reason = str(error) if replica == leader else reason
        if absent:
            raise InstanceAbsent(uid)
        raise InstanceUnavailable(reason)

    async def _ask(self, link: int, uid: str) -> InstanceBytes:
        replicator = self._replicator
        nonce = next(self._nonces)
        future: asyncio.Future[tuple[LookupAnswer, Payload]] = asyncio.get_running_loop().create_future()
        self._asked[nonce] = (link, future)
        try:
            replicator.network.send(link, Lookup(nonce, uid, send_bytes=True))
            answer, payload = await answer_of(future, replicator.network, link, nonce, TIMEOUT_S)
        except TimeoutError as error:
            raise InstanceUnavailable("the node that was asked does not answer") from error
        finally:
            del self._asked[nonce]
        if answer.outcome == "absent":
            raise InstanceAbsent(uid)
        if answer.outcome == "deleted":
            raise InstanceDeleted(uid)
        if not isinstance(payload, Staged):
            raise InstanceUnavailable("the leader cannot serve it now")
        return FetchedInstance(payload)

    def answered(self, message: LookupAnswer, payload: Payload) -> None:
        asked = self._asked.get(message.nonce)
        if asked is not None and not asked[1].done():
            asked[1].set_result((message, payload))
        elif isinstance(payload, Staged):
            payload.release()

    def link_down(self, link: int) -> None:
        for asked, future in self._asked.values():
            if asked == link and not future.done():
                future.set_exception(InstanceUnavailable("the node that was asked was lost"))

    async def answer(self, link: int, message: Lookup) -> None:
        """Another node asks."""
        uid = message.sop_instance_uid
        found = await self._here(uid)
        if found is None:
            outcome = "absent" if self._may_say_absent() and not self._current(uid) else "unknown"
            outcome = "deleted" if self._may_say_deleted(uid) else outcome
            self._replicator.network.send(link, LookupAnswer(message.nonce, outcome, b"", 0))
            return
        payload = found if message.send_bytes else None
        self._replicator.network.send(link, LookupAnswer(message.nonce, "present", found.digest, 0), payload)


def _is_called(stored: StoredRecord, uid: str) -> bool:
    """Whether a record is an instance that says of itself what the index says of it; one without a name may be it.

    Raises StorageError when its bytes cannot be read.
    """
    if stored.header.kind is not RecordKind.INSTANCE:
        return False
    head = next(stored.payload.parts(), memoryview(b""))[:META_LIMIT_BYTES]
    try:
        return read_meta(head).sop_instance_uid in ("", uid)
    except UnreadableDataSet:
        return True
