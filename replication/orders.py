"""What an operator orders about deletes, carried out by whoever leads: lists, tombstones, notes, and the way back.

An order comes through the coordination service, as a switchover does: whoever may write there may delete. Each order is
small, has a deadline, and may be given again: a tombstone that is there already is not written twice.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from replication.api import ConflictRefused, Draft, NotPromised, OnHold
from replication.compacting import Compactor, Plan
from replication.coordination.port import CoordinationCorrupt, CoordinationUnavailable, NodeRegistration, Operation
from replication.core.values import Member
from replication.pages import (
    APPROVAL,
    DELETE_VERB,
    PAGE,
    REQUEST,
    UIDS_LIMIT,
    UNDO,
    WITHDRAWAL,
    OrderRefused,
    by_name,
    page_of,
)
from storage import listing
from storage.buried import HOLD, RELEASE, KnownNote
from storage.compacted import stubs_among
from storage.dataset import UnreadableDataSet, read_meta
from storage.deletion import Covered, Note, NotUnderstood, Tombstone
from storage.errors import StorageError
from storage.position import RecordKind

if TYPE_CHECKING:
    from replication.replicator import Replicator

_LOG: Final = logging.getLogger("perenne.deleting")
NOTES: Final = (HOLD, RELEASE, REQUEST, APPROVAL, WITHDRAWAL, UNDO)
LOOK_S: Final = 0.05
Body = Mapping[str, Any]


class Orders:
    """Of one node."""

    def __init__(self, replicator: "Replicator") -> None:
        self._replicator = replicator
        self._taken: dict[str, None] = {}
        self._deeds: Mapping[str, Callable[[Body], Awaitable[dict[str, Any]]]] = {
            "look": self._look,
            "list": self._list,
            "bury": self._bury,
            "note": self._note,
            "notes": self._notes,
            "deleted": self._deleted,
            "restore": self._restore,
            "compaction": self._compaction,
            "compact": self._compact,
            "studies": self._studies,
        }

    def requested(self, operation: Operation) -> bool:
        """Take an order, once, if this node leads. Returns whether it is one."""
        if operation.verb != DELETE_VERB:
            return False
        if self._replicator.core.leadership is not None and operation.id not in self._taken:
            self._taken[operation.id] = None
            if len(self._taken) > 1000:
                del self._taken[next(iter(self._taken))]
            self._replicator.spawn(self._carry_out(operation))
        return True

    async def _carry_out(self, operation: Operation) -> None:
        """Answer with what was done, or why not; nothing at all once somebody else leads: the order is given again."""
        try:
            body: Body = json.loads(operation.arguments["body"])
            await self._settled(operation)
            answer = await self._deeds[operation.arguments["do"]](body)
        except (OrderRefused, OnHold, NotUnderstood) as error:
            answer = {"refused": str(error)}
        except NotPromised as error:
            answer = {"again": str(error)}
        except _Deposed:
            self._taken.pop(operation.id, None)
            return
        except (KeyError, ValueError, TypeError, StorageError) as error:
            _LOG.error("an order could not be carried out", extra={"error": repr(error)})
            answer = {"refused": f"it could not be carried out: {error!r}"}
        self._replicator.coordinator.finish(operation, json.dumps(answer))

    async def _settled(self, operation: Operation) -> None:
        """Wait until this leader knows everything that was ever committed, and its index as well. Raises _Deposed."""
        replicator = self._replicator
        while True:
            leadership = replicator.core.leadership
            if leadership is None or operation.overdue(replicator.runtime.wall_us()):
                raise _Deposed
            told = replicator.core.situation.told.sequence
            complete = replicator.recent.complete and not replicator.index.holes
            if leadership.knows_commits and complete and replicator.index.applied.sequence >= told:
                return
            await asyncio.sleep(LOOK_S)

    # Lists

    async def _look(self, body: Body) -> dict[str, Any]:
        """How much there is under some UIDs, and whether anything of it is on hold."""
        index, uids = self._replicator.index, _uids(body)
        before = int(body.get("before") or self._replicator.core.situation.told.sequence + 1)
        found = await asyncio.to_thread(listing.extent, index, str(body["level"]), uids, before)
        held = [study for study in found.studies if self._replicator.recent.hold(study)]
        return {
            "before": before,
            "instances": found.instances,
            "bytes": found.size,
            "studies": len(found.studies),
            "held": held[:PAGE],
            "absent": await self._absent(),
            "two_person": self._replicator.settings.two_person,
        }

    async def _absent(self) -> list[str]:
        """Registered nodes that do not follow: while there are any, no tombstone is numbered (ADR 0011)."""
        leadership = self._replicator.core.leadership
        follow = {self._replicator.me.member}
        if leadership is not None:
            follow |= leadership.streams.ready(leadership.epoch_record) & leadership.in_sync
        try:
            found = await self._replicator.coordinator.registrations()
        except (CoordinationUnavailable, CoordinationCorrupt) as error:
            raise NotPromised(f"it is not known who is registered: {error}"[:64]) from error
        return sorted(node.id for node in found.values() if not node.retired and _member(node) not in follow)

    async def _list(self, body: Body) -> dict[str, Any]:
        place = (int(body["before"]), int(body["after"]), PAGE)
        found = await asyncio.to_thread(listing.living, self._replicator.index, str(body["level"]), _uids(body), *place)
        return {"items": page_of(found)}

    async def _deleted(self, body: Body) -> dict[str, Any]:
        request, study, after = str(body["request"]), str(body["study"]), int(body["after"])
        found = await asyncio.to_thread(listing.deleted, self._replicator.index, request, study, after, PAGE)
        stubs = await asyncio.to_thread(stubs_among, self._replicator.index, [one.sequence for one in found])
        return {"items": page_of(found), "gone": {str(s): self._compacted_us(by) for s, by in stubs.items()}}

    def _compacted_us(self, tombstone: int) -> int:
        compactor = self._replicator.compactor
        return compactor.permitted_us(tombstone) if compactor is not None else 0

    async def _compaction(self, _: Body) -> dict[str, Any]:
        """How much could be taken away now."""
        compactor = self._compactor()
        return _plan(await compactor.plan()) | {"waits": compactor.waits}

    async def _compact(self, body: Body) -> dict[str, Any]:
        if not str(body["by"]):
            raise OrderRefused("compaction says who wants it")
        return _plan(await self._compactor().permit(str(body["by"])))

    def _compactor(self) -> Compactor:
        if self._replicator.compactor is None:
            raise OrderRefused("this node does not compact")
        return self._replicator.compactor

    async def _studies(self, body: Body) -> dict[str, Any]:
        found = await asyncio.to_thread(listing.studies, self._replicator.index, str(body["after"]), PAGE)
        held = [study.study for study in found if self._replicator.recent.hold(study.study)]
        rows = [[s.study, s.study_date, s.arrived_us, s.instances, s.size, s.modalities, s.sources] for s in found]
        return {"studies": rows, "held": held, "before": self._replicator.core.situation.told.sequence + 1}

    async def _notes(self, body: Body) -> dict[str, Any]:
        what = [str(kind) for kind in body["what"]]
        subject = body.get("subject")
        found = self._replicator.index.burials.notes(*what, subject=None if subject is None else str(subject))
        rows = [[n.sequence, n.time_us, n.what, n.subject, n.facts] for n in found if n.sequence > int(body["after"])]
        return {"notes": rows[:PAGE]}

    # Deeds

    async def _note(self, body: Body) -> dict[str, Any]:
        note = Note(str(body["what"]), str(body["subject"]), {str(k): str(v) for k, v in body["facts"].items()})
        if note.what not in NOTES or not note.subject or not note.facts.get("by"):
            raise OrderRefused("a note says what, about whom, and by whom")
        if note.what in (APPROVAL, WITHDRAWAL):
            self._order_of(note.subject)
        if note.what == APPROVAL:
            self._may_approve(note)
        outcome = await self._replicator.deleting.commit(note)
        return {"outcome": outcome.value}

    def _order_of(self, request: str) -> tuple[KnownNote, KnownNote | None]:
        """The request and its approval, if there is one. Raises OrderRefused."""
        notes = self._replicator.index.burials.notes(REQUEST, APPROVAL, WITHDRAWAL, subject=request)
        asked = next((note for note in notes if note.what == REQUEST), None)
        if asked is None:
            raise OrderRefused(f"there is no request {request}: see `perenne delete list`")
        if any(note.what == WITHDRAWAL for note in notes):
            raise OrderRefused(f"request {request} was withdrawn")
        return asked, next((note for note in notes if note.what == APPROVAL), None)

    def _may_approve(self, note: Note) -> None:
        asked, _ = self._order_of(note.subject)
        if by_name(asked.facts["by"]) == by_name(note.facts["by"]):
            raise OrderRefused(f"{asked.facts['by']} asked for it: a second person has to approve it")

    async def _bury(self, body: Body) -> dict[str, Any]:
        covers = tuple(self._known(str(row[2]), bytes.fromhex(row[3])) for row in body["covers"])
        request, part = str(body["request"]), int(body["part"])
        if self._replicator.settings.two_person:
            tombstone = self._approved(covers, request, part)
        else:
            self._check_listed(covers, int(body.get("before", 0)))
            said = (str(body["reason"]), str(body["by"]), "", int(body["asked_us"]))
            tombstone = Tombstone(covers, *said, request, part)
        if not tombstone.reason or not tombstone.asked_by:
            raise OrderRefused("a delete says who wants it, and why")
        outcome = await self._replicator.deleting.commit(tombstone)
        _LOG.warning(
            "deleted",
            extra={"instances": len(covers), "request": request, "part": part, "by": tombstone.asked_by},
        )
        return {"outcome": outcome.value, "deleted": len(covers)}

    def _known(self, sop: str, dataset: bytes) -> Covered:
        """What is stored, by this node's own word: of which study it is decides whether it is on hold.

        Raises OrderRefused.
        """
        found = [location for location in self._replicator.index.find(sop) if location.dataset == dataset]
        if not found:
            raise OrderRefused(f"{sop} is not stored with these bytes")
        return Covered(found[-1].study_instance_uid, found[-1].series_instance_uid, sop, dataset)

    def _check_listed(self, covers: Sequence[Covered], before: int) -> None:
        """before: where the list ended that somebody said yes to; 0 where that is not told. The tombstone would cover
        what was stored, and promised, again since: after another one's delete of the same. Raises OrderRefused.
        """
        for covered in covers if before else ():
            if any(self._stored_from(covered, before)):
                raise OrderRefused(f"{covered.sop_instance_uid} was stored again since it was listed: list anew")

    def _stored_from(self, covered: Covered, sequence: int) -> Iterator[bool]:
        found = self._replicator.index.find(covered.sop_instance_uid)
        return (v.sequence >= sequence for v in found if v.dataset == covered.dataset)

    def _approved(self, covers: Sequence[Covered], request: str, part: int) -> Tombstone:
        """Two persons: the tombstone takes their words from their notes, and nothing that came later or from elsewhere.

        Raises OrderRefused.
        """
        asked, approval = self._order_of(request)
        if approval is None:
            raise OrderRefused(f"nobody has approved request {request} yet")
        level, uids = asked.facts["level"], frozenset(asked.facts["uids"].split())
        for covered in covers:
            named = {"study": covered.study_instance_uid, "series": covered.series_instance_uid}
            if named.get(level, covered.sop_instance_uid) not in uids:
                raise OrderRefused(f"{covered.sop_instance_uid} is not of what request {request} names")
            if any(self._stored_from(covered, asked.sequence + 1)):
                raise OrderRefused(f"{covered.sop_instance_uid} was stored again since: ask anew")
        facts = asked.facts
        return Tombstone(
            tuple(covers), facts["reason"], facts["by"], approval.facts["by"], asked.time_us, request, part
        )

    async def _restore(self, body: Body) -> dict[str, Any]:
        """Store what was deleted anew, out of the log: new instances with the old bytes."""
        done: dict[str, str] = {}
        for sequence in [int(sequence) for sequence in body["sequences"]]:
            try:
                draft = await asyncio.to_thread(self._draft_of, sequence)
                done[str(sequence)] = (await self._replicator.commit(draft)).value
            except (StorageError, UnreadableDataSet, OrderRefused, ConflictRefused) as error:
                done[str(sequence)] = f"failed: {error}"
        return {"restored": done}

    def _draft_of(self, sequence: int) -> Draft:
        """Raises StorageError, UnreadableDataSet, OrderRefused."""
        stored = self._replicator.log.read(sequence)
        if stored.header.kind is not RecordKind.INSTANCE:
            raise OrderRefused("it is no instance")
        receiving = self._replicator.staging.begin_raw()
        try:
            for piece in stored.payload.parts():
                receiving.write(memoryview(piece))
        except BaseException:  # whatever ends it, the half-staged copy must not stay; it is raised again
            receiving.abandon()
            raise
        staged = receiving.finish()
        meta = read_meta(b"".join(bytes(piece) for piece in _first(staged.parts(), staged.meta_length)))
        study, series = stored.header.path.split("/")[:2]
        return Draft(
            staged=staged,
            sop_class_uid=meta.sop_class_uid,
            sop_instance_uid=meta.sop_instance_uid,
            study_instance_uid=study,
            series_instance_uid=series,
            transfer_syntax_uid=meta.transfer_syntax_uid,
        )


def _member(node: NodeRegistration) -> Member:
    return Member(node.id, node.incarnation)


class _Deposed(Exception):
    """This node leads no more, or the order is overdue."""


def _uids(body: Body) -> list[str]:
    uids = [str(uid) for uid in body["uids"]]
    if not 0 < len(uids) <= UIDS_LIMIT or str(body["level"]) not in listing.LEVELS:
        raise OrderRefused(f"an order names 1 to {UIDS_LIMIT} studies, series or instances")
    return uids


def _plan(plan: Plan) -> dict[str, Any]:
    return {
        "upto": plan.permission.upto,
        "why_not": plan.permission.why_not,
        "permitted": plan.permitted,
        "instances": plan.instances,
        "bytes": plan.size,
        "held": plan.held,
        "left": plan.left,
    }


def _first(parts: Any, size: int) -> list[memoryview]:
    """The pieces that hold the first `size` bytes."""
    found: list[memoryview] = []
    for part in parts:
        found.append(part)
        if sum(map(len, found)) >= size:
            break
    return found
