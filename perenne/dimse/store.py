"""The storage service: from the bytes of one C-STORE to its status (PS3.4 annex B)."""

import asyncio
import logging
import re
import traceback
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, Final, Protocol

from msgspec import Struct

from perenne.dimse import status as codes
from perenne.dimse.command import Command
from perenne.dimse.intake import Intake
from perenne.dimse.meta import file_meta
from perenne.dimse.negotiation import AcceptedContext
from perenne.dimse.refusals import Refusals
from perenne.dimse.settings import DimseSettings
from perenne.dimse.uids import VERIFICATION
from replication.api import Committer, ConflictRefused, Draft, NotPromised, WasDeleted
from storage.dataset import DEFLATED, Attributes
from storage.errors import StorageFull
from storage.staging import Staged, StagingArea

_LOG = logging.getLogger("perenne.dimse.store")
_UID: Final = re.compile(r"[0-9.]{1,64}")
_GLANCE: Final = 64 * 1024
"""Bytes of a data set that are looked at in the event loop."""
_HEADS: Final = (1024 * 1024, 16 * 1024 * 1024)


class Scanner(Protocol):
    """`storage.dataset.scan`, or something like it."""

    def __call__(self, head: bytes | memoryview, transfer_syntax: str, *, complete: bool, thorough: bool) -> Attributes:
        """Return the identifiers of a data set from its first bytes.

        complete: whether `head` is all of it. thorough: whether there is time to look again at what is odd; without,
        it takes milliseconds. Any exception means: unreadable, or not from so little, or not so quickly.
        """
        ...


class Answer(Struct, frozen=True):
    """A status and its Error Comment, which is empty on success."""

    status: int
    comment: str = ""


class Incoming:
    """One C-STORE while its data set arrives. refusal: the answer already known; its bytes are dropped."""

    def __init__(self, command: Command, context: AcceptedContext, started: float) -> None:
        self.command = command
        self.context = context
        self.started = started
        self.size = 0
        self.charged = 0
        self.intake: Intake | None = None
        self.refusal: Answer | None = None
        self.again = False
        """Whether it was stored before, by what its sender is."""


class StoreService:
    """Shared by all associations of a server."""

    def __init__(
        self,
        committer: Committer,
        staging: StagingArea,
        scanner: Scanner,
        executor: Executor,
        settings: DimseSettings,
        refusals: Refusals,
    ) -> None:
        self._committer = committer
        self._staging = staging
        self._scanner = scanner
        self._executor = executor
        # One thread: hostile data sets wait for each other, not for writes, and take no more than half of the GIL.
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="dimse-reading")
        self._background_bytes = min(settings.background_bytes, staging.memory_instance_bytes)
        self._returning = settings.returning_aes
        self._refusals = refusals
        self._committing: set[asyncio.Task[Any]] = set()
        self._stopping = False

    def stop(self) -> None:
        """Cancel what waits for its commitment and offer nothing more; cleaning up is not cancelled."""
        self._stopping = True
        for task in self._committing:
            task.cancel()

    def close(self) -> None:
        """Let go of the thread, once nothing is offered any more."""
        self._reading.shutdown()

    def begin(self, incoming: Incoming, calling_ae: str, on_progress: Callable[[], None]) -> None:
        """Decide whether to take the bytes of a data set, and prepare for them."""
        incoming.refusal = self._refusal(incoming)
        if incoming.refusal is not None:
            return
        incoming.again = calling_ae in self._returning
        command = incoming.command
        meta = file_meta(
            sop_class_uid=command.sop_class_uid,
            sop_instance_uid=command.sop_instance_uid,
            transfer_syntax_uid=incoming.context.transfer_syntax,
            source_ae=calling_ae,
        )
        try:
            receiving = self._staging.begin(meta)
        except Exception as error:
            incoming.refusal = _answer_to(error, "begin")
            return
        incoming.intake = Intake(receiving, self._executor, self._background_bytes, on_progress)

    def take(self, incoming: Incoming, data: memoryview) -> "Intake | None":
        """Take a piece of the data set. Returns an intake to abandon when it has just been given up."""
        incoming.size += len(data)
        intake = incoming.intake
        if intake is None:
            return None
        error = intake.failure
        if error is None:
            try:
                intake.write(data)
            except Exception as caught:
                error = caught
            else:
                return None
        incoming.refusal = _answer_to(error, "write")
        incoming.intake = None
        return intake

    async def conclude(self, incoming: Incoming) -> Answer:
        """Return the answer, once the instance is committed or known not to be."""
        intake, incoming.intake = incoming.intake, None
        if intake is None:
            return incoming.refusal or Answer(codes.PROCESSING_FAILURE, "not received")
        try:
            staged = await intake.finish()
        except Exception as error:
            return _answer_to(error, "finish")
        draft = await self._draft(incoming, staged, in_thread=intake.in_background)
        if not isinstance(draft, Answer) and self._stopping:
            draft = Answer(codes.OUT_OF_RESOURCES, "shutting down")
        if isinstance(draft, Answer):
            if intake.in_background:
                await asyncio.get_running_loop().run_in_executor(self._executor, staged.release)
            else:
                staged.release()
            return draft
        return await self._commit(draft)

    def tell(self, answer: Answer) -> None:
        """Let the log know of an answer that is not Success, before it is given."""
        self._refusals.tell(f"C-STORE answered {answer.status:04X}", answer.comment)

    async def _commit(self, draft: Draft) -> Answer:
        task = asyncio.current_task()
        assert task is not None
        self._committing.add(task)
        try:
            await self._committer.commit(draft)
        except Exception as error:
            return _answer_to(error, "commit")
        finally:
            self._committing.discard(task)
        return Answer(codes.SUCCESS)

    def _refusal(self, incoming: Incoming) -> Answer | None:
        command = incoming.command
        if incoming.context.abstract_syntax == VERIFICATION:
            return Answer(codes.CLASS_NOT_SUPPORTED, "C-STORE on a Verification context")
        if not command.has_data_set:
            return Answer(codes.CANNOT_UNDERSTAND, "no data set")
        if not (_UID.fullmatch(command.sop_class_uid) and _UID.fullmatch(command.sop_instance_uid)):
            return Answer(codes.CANNOT_UNDERSTAND, "Affected SOP Class or Instance UID is no UID")
        reason = self._committer.refusal()
        return None if reason is None else Answer(codes.OUT_OF_RESOURCES, reason)

    async def _draft(self, incoming: Incoming, staged: Staged, *, in_thread: bool) -> Draft | Answer:
        syntax = incoming.context.transfer_syntax
        loop = asyncio.get_running_loop()
        if in_thread:
            seen = await loop.run_in_executor(self._executor, self._glance, staged, syntax)
        else:
            seen = self._glance(staged, syntax)
        found: Attributes | Answer
        if seen is None:
            found = await loop.run_in_executor(self._reading, self._study, staged, syntax)
        else:
            found = seen
        if isinstance(found, Answer):
            return found
        command = incoming.command
        if not (found.sop_class_uid and found.sop_instance_uid):
            return Answer(codes.CANNOT_UNDERSTAND, "data set without SOP Class or Instance UID")
        if found.sop_class_uid != command.sop_class_uid:
            return Answer(codes.DATA_SET_MISMATCH, "SOP Class UID differs from the command")
        if found.sop_instance_uid != command.sop_instance_uid:
            return Answer(codes.DATA_SET_MISMATCH, "SOP Instance UID differs from the command")
        return Draft(
            staged=staged,
            sop_class_uid=found.sop_class_uid,
            sop_instance_uid=found.sop_instance_uid,
            study_instance_uid=found.study_instance_uid,
            series_instance_uid=found.series_instance_uid,
            transfer_syntax_uid=syntax,
            attributes=found,
            again=incoming.again,
        )

    def _glance(self, staged: Staged, syntax: str) -> Attributes | None:
        """Return what the first bytes tell at once, which is nearly always all; None when they do not."""
        complete = staged.size - staged.meta_length <= _GLANCE
        try:
            return self._scanner(staged.head(_GLANCE), syntax, complete=complete, thorough=False)
        except Exception:  # the head may be cut anywhere; `_study` reads more, and answers for what fails then
            return None

    def _study(self, staged: Staged, syntax: str) -> Attributes | Answer:
        """Read as much as it takes; thoroughly once only, when there is no more to read."""
        body = staged.size - staged.meta_length
        failure = ""
        # Of a deflated data set so much is inflated as is ever looked at: with one attempt all is done.
        for size in _HEADS[-1:] if syntax in DEFLATED else _HEADS:
            last = size >= body or size == _HEADS[-1]
            try:
                return self._scanner(staged.head(size), syntax, complete=size >= body, thorough=last)
            except Exception as error:
                failure = type(error).__name__
            if last:
                break
        _LOG.warning("data set unreadable", extra={"error": failure, "transfer_syntax": syntax, "bytes": body})
        return Answer(codes.CANNOT_UNDERSTAND, "data set unreadable")


def _answer_to(error: Exception, step: str) -> Answer:
    if isinstance(error, NotPromised):
        return Answer(codes.OUT_OF_RESOURCES, str(error))
    if isinstance(error, ConflictRefused):
        return Answer(codes.DUPLICATE_INSTANCE, "same SOP Instance UID with other content is kept")
    if isinstance(error, WasDeleted):
        return Answer(codes.NOT_AUTHORIZED, "it was deleted here, and is not taken back from this AE")
    if isinstance(error, StorageFull):
        return Answer(codes.OUT_OF_RESOURCES, "no room to store the instance")
    # The text of the exception stays out of the log: it may quote the data set.
    _LOG.error(
        "C-STORE failed",
        extra={
            "step": step,
            "error": type(error).__name__,
            "trace": "".join(traceback.format_tb(error.__traceback__)),
        },
    )
    return Answer(codes.PROCESSING_FAILURE, "internal error")
