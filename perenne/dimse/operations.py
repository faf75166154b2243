"""DIMSE on one association: command sets and data sets out of PDV fragments, answers back (PS3.7)."""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

from perenne.dimse import status as codes
from perenne.dimse.budget import Account, Budget
from perenne.dimse.command import (
    C_CANCEL_RQ,
    C_ECHO_RQ,
    C_STORE_RQ,
    COMMAND_LIMIT,
    RESPONSE,
    Command,
    CommandUnreadable,
    decode_command,
    response_to,
    service_of,
)
from perenne.dimse.intake import Intake
from perenne.dimse.negotiation import AcceptedContext
from perenne.dimse.observer import DimseObserver
from perenne.dimse.pdu import PDV_COMMAND, PDV_LAST, AbortReason, PduError
from perenne.dimse.store import Answer, Incoming, StoreService

MAX_OUTSTANDING = 8
"""Operations of a peer that does not wait for its answers, although one at a time was negotiated."""


class Link(Protocol):
    """What operations need of their association."""

    def send(self, context_id: int, command: Command) -> None:
        """Answer, if the peer is still there."""
        ...

    def progressed(self) -> None:
        """Something ended or moved on: read again, release, or leave, if that was waited for."""
        ...


class Operations:
    """spawn: runs a coroutine to its end, even when the association ends first. clock: monotonic seconds."""

    def __init__(
        self,
        link: Link,
        service: StoreService,
        budget: Budget,
        observer: DimseObserver,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        clock: Callable[[], float],
    ) -> None:
        self._link = link
        self._service = service
        self._budget = budget
        self._observer = observer
        self._spawn = spawn
        self._clock = clock
        self._account = Account(link.progressed)
        self._contexts: Mapping[int, AcceptedContext] = {}
        self._calling_ae = ""
        self._context: AcceptedContext | None = None
        self._command_bytes = bytearray()
        self._incoming: Incoming | None = None

    def begin(self, contexts: Mapping[int, AcceptedContext], calling_ae: str) -> None:
        self._contexts = contexts
        self._calling_ae = calling_ae

    @property
    def outstanding(self) -> int:
        """C-STORE operations received whole and not yet answered."""
        return self._account.waiting_for_answer

    @property
    def in_message(self) -> bool:
        return self._context is not None

    def may_read(self) -> bool:
        incoming = self._incoming
        if incoming is not None and incoming.intake is not None and incoming.intake.backlogged:
            return False
        return self.outstanding < MAX_OUTSTANDING and self._budget.may_read(self._account)

    def fragment(self, context_id: int, control: int, data: memoryview, ends: bool) -> None:
        """See `PduSink.fragment`. A message is one command set, then perhaps one data set, in one context."""
        context = self._context
        if context is None:
            context = self._contexts.get(context_id)
            if context is None:
                raise PduError(AbortReason.INVALID_PARAMETER, "PDV in a context that was not accepted")
            self._context = context
        elif context.context_id != context_id:
            raise PduError(AbortReason.UNEXPECTED_PARAMETER, "PDV of another context within a message")
        incoming = self._incoming
        if bool(control & PDV_COMMAND) is (incoming is not None):
            raise PduError(AbortReason.UNEXPECTED_PARAMETER, "command and data fragments out of order")
        whole = ends and bool(control & PDV_LAST)
        if incoming is None:
            if len(self._command_bytes) + len(data) > COMMAND_LIMIT:
                raise PduError(AbortReason.INVALID_PARAMETER, "command set too long")
            self._command_bytes += data
            if whole:
                self._take_command(context)
            return
        if data:
            self._take_data(incoming, data)
        if whole:
            self._end_data(incoming)

    def abandon(self) -> None:
        """The connection is gone: give up what was still arriving. What is waiting for commitment goes on."""
        incoming, self._incoming = self._incoming, None
        self._context = None
        if incoming is not None:
            self._give_up(incoming.intake)
            self._budget.refund(self._account, incoming.charged)
        self._budget.close(self._account)

    def _take_command(self, context: AcceptedContext) -> None:
        try:
            command = decode_command(self._command_bytes)
        except CommandUnreadable as error:
            raise PduError(AbortReason.INVALID_PARAMETER, str(error)) from error
        self._command_bytes.clear()
        if command.field & RESPONSE:
            raise PduError(AbortReason.UNEXPECTED_PARAMETER, "a response that answers nothing")
        incoming = Incoming(command, context, self._clock())
        if command.field == C_STORE_RQ:
            self._service.begin(incoming, self._calling_ae, self._link.progressed)
        elif command.field != C_ECHO_RQ:
            incoming.refusal = Answer(codes.UNRECOGNIZED_OPERATION, "only C-ECHO and C-STORE here")
        if command.has_data_set:
            self._incoming = incoming
            self._budget.begin(self._account)
        else:
            self._end(incoming)

    def _take_data(self, incoming: Incoming, data: memoryview) -> None:
        self._account.brought += len(data)
        self._give_up(self._service.take(incoming, data))
        intake = incoming.intake
        if intake is None:
            self._budget.refund(self._account, incoming.charged)
            incoming.charged = 0
        elif not intake.in_background:
            # What goes to the background is bounded by its buffers and by the staging pool.
            incoming.charged += len(data)
            self._budget.charge(self._account, len(data))

    def _end_data(self, incoming: Incoming) -> None:
        self._incoming = None
        self._end(incoming)
        self._budget.end(self._account)

    def _end(self, incoming: Incoming) -> None:
        context, self._context = incoming.context, None
        command = incoming.command
        if incoming.intake is not None:
            self._budget.await_answer(self._account)
            self._spawn(self._conclude(incoming))
        elif command.field == C_STORE_RQ:
            self._answer(incoming, incoming.refusal or Answer(codes.PROCESSING_FAILURE))
        elif command.field == C_ECHO_RQ:
            self._respond(context, command, Answer(codes.SUCCESS))
        elif command.field != C_CANCEL_RQ and incoming.refusal is not None:
            self._respond(context, command, incoming.refusal)

    def _respond(self, context: AcceptedContext, command: Command, answer: Answer) -> None:
        """Of every service but C-STORE."""
        self._link.send(context.context_id, response_to(command, answer.status, answer.comment))
        self._observer.answered(service_of(command.field), answer.status)

    async def _conclude(self, incoming: Incoming) -> None:
        answer = Answer(codes.PROCESSING_FAILURE, "interrupted")
        try:
            answer = await self._service.conclude(incoming)
        finally:
            self._answer(incoming, answer)
            self._budget.answered(self._account, incoming.charged)
            self._link.progressed()

    def _answer(self, incoming: Incoming, answer: Answer) -> None:
        if answer.status != codes.SUCCESS:
            self._service.tell(answer)
        self._link.send(incoming.context.context_id, response_to(incoming.command, answer.status, answer.comment))
        self._observer.stored(incoming.size, self._clock() - incoming.started, answer.status, self._calling_ae)

    def _give_up(self, intake: Intake | None) -> None:
        if intake is None:
            return
        if intake.in_background:
            self._spawn(intake.abandon())
        else:
            intake.abandon_now()
