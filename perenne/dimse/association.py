"""One connection on the DICOM port: the acceptor's half of the upper layer state machine (PS3.8 section 9.2).

Bytes land in a buffer that all connections share: the event loop fills it and hands it over in one step,
and `PduReader` keeps what it cannot use yet. So a hundred idle associations cost no buffers, and a busy one
works in memory that is warm.
"""

import asyncio
import enum
import logging
import os
import socket
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

from perenne.dimse import pdu as wire
from perenne.dimse.budget import Budget
from perenne.dimse.command import Command, encode_command
from perenne.dimse.negotiation import (
    AssociationRequest,
    CallingPolicy,
    Rejection,
    decide,
    decode_request,
    encode_acceptance,
)
from perenne.dimse.observer import DimseObserver
from perenne.dimse.operations import Operations
from perenne.dimse.pdu import AbortReason, PduError, PduReader
from perenne.dimse.settings import DimseSettings
from perenne.dimse.store import StoreService
from perenne.dimse.uids import APPLICATION_CONTEXT

_LOG = logging.getLogger("perenne.dimse.association")
_PROVIDER: Final = 2
# A peer that lost its power, or a cable in between: the kernel tells within about two minutes.
_ALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 120_000),
)


class State(enum.Enum):
    """The states an acceptor can be in, with their names in PS3.8 table 9-10."""

    AWAITING_REQUEST = "Sta2"
    ESTABLISHED = "Sta6"
    RELEASING = "Sta8"
    AWAITING_CLOSE = "Sta13"
    CLOSED = "Sta1"


class Closed(enum.Enum):
    """Why an association ended."""

    RELEASED = "released"
    PEER_ABORTED = "peer-aborted"
    PROTOCOL_ERROR = "protocol-error"
    IDLE = "idle"
    STALLED = "stalled"
    DRAINED = "drained"
    CONNECTION_LOST = "connection-lost"


class Host(Protocol):
    """What an association needs of its server."""

    settings: DimseSettings
    policy: CallingPolicy
    budget: Budget
    service: StoreService
    observer: DimseObserver
    receive_buffer: memoryview

    def make_room(self) -> None:
        """A connection is about to be one more; where there are too many, another is ended, counted and logged."""
        ...

    def refuses_association(self) -> Rejection | None: ...

    def spawn(self, coroutine: Any) -> object: ...

    def arrived(self, association: "Association") -> None: ...

    def left(self, association: "Association") -> None: ...


class Association(asyncio.BufferedProtocol):
    def __init__(self, host: Host, loop: asyncio.AbstractEventLoop, number: int) -> None:
        self._host = host
        self._loop = loop
        self.number = number
        self._settings = host.settings
        self._state = State.AWAITING_REQUEST
        self._reader = PduReader(self, host.settings.max_pdu)
        self._operations = Operations(self, host.service, host.budget, host.observer, host.spawn, loop.time)
        self._transport: asyncio.Transport | None = None
        self._socket: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._heard = self._accepted_at = loop.time()
        self._peer_max = 0
        self._established = False
        self._closed_because = Closed.CONNECTION_LOST
        self._paused = False
        self._writable = True
        self._leaving = False

    @property
    def established(self) -> bool:
        """Whether it counts as an association; a connection does not before and after."""
        return self._state in (State.ESTABLISHED, State.RELEASING)

    @property
    def ending(self) -> bool:
        """The connection is as good as gone."""
        return self._transport is not None and self._transport.is_closing()

    @property
    def paused(self) -> bool:
        return self._paused

    @property
    def outstanding(self) -> int:
        return self._operations.outstanding

    @property
    def busy(self) -> bool:
        """An operation is on its way, in either direction."""
        return self._operations.in_message or self._operations.outstanding > 0

    def quiet_for(self, now: float) -> float:
        """Seconds since the peer was last heard."""
        return now - self._heard

    def leave(self) -> None:
        """End the association: at once when nothing is on its way, else after the present operation."""
        self._leaving = True
        self.progressed()

    def cut(self) -> None:
        """Drop the connection now."""
        if self._transport is not None:
            self._closed_because = Closed.DRAINED
            self._transport.abort()

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods only
        self._host.make_room()
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for level, option, value in _ALIVE:
                connection.setsockopt(level, option, value)
            # A socket of our own: uvloop's stand-in makes a new one for every call.
            self._socket = socket.socket(fileno=os.dup(connection.fileno()))
        self._host.arrived(self)
        self._set_timer(self._settings.artim_s, self._artim_expired)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._host.receive_buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._heard = self._loop.time()
        if self._socket is not None:
            # Linux turns delayed acknowledgements back on by itself; a sender under Nagle would wait 40 ms.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        try:
            self._reader.feed(self._host.receive_buffer[:nbytes])
        except PduError as error:
            extra = {"association": self.number, "address": self._peer_address(), "reason": str(error)}
            _LOG.warning("aborting association", extra=extra)
            self._abort(error.reason, Closed.PROTOCOL_ERROR)
        self.progressed()

    def pause_writing(self) -> None:
        self._writable = False
        self._update_reading()

    def resume_writing(self) -> None:
        self._writable = True
        self._update_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._set_timer(None)
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._reader.stopped = True
        self._state = State.CLOSED
        self._transport = None
        self._operations.abandon()
        self._host.left(self)
        if self._established:
            seconds = self._loop.time() - self._accepted_at
            self._host.observer.association_closed(self._closed_because.value, seconds)
            _LOG.info(
                "association closed",
                extra={"association": self.number, "reason": self._closed_because.value},
            )

    # PduSink

    def fragment(self, context_id: int, control: int, data: memoryview, ends: bool) -> None:
        self._operations.fragment(context_id, control, data, ends)

    def pdu(self, kind: int, body: bytes) -> None:
        if kind == wire.ABORT:
            self._closed_because = Closed.PEER_ABORTED
            self._close()
        elif kind == wire.ASSOCIATE_RQ and self._state is State.AWAITING_REQUEST:
            self._negotiate(decode_request(body))
        elif kind == wire.RELEASE_RQ and self._state is State.ESTABLISHED:
            if self._operations.in_message:
                raise PduError(AbortReason.UNEXPECTED_PDU, "A-RELEASE-RQ within a message")
            self._state = State.RELEASING
            self._reader.data_allowed = False
        else:
            raise PduError(AbortReason.UNEXPECTED_PDU, f"PDU type {kind} in state {self._state.value}")

    # Link

    def send(self, context_id: int, command: Command) -> None:
        if self.established and self._transport is not None:
            data = memoryview(encode_command(command))
            self._transport.write(b"".join(wire.data_pdus(context_id, wire.PDV_COMMAND, data, self._peer_max)))

    def progressed(self) -> None:
        if self.established and not self.busy:
            if self._state is State.RELEASING:
                self._write(wire.RELEASE_RP_PDU)
                self._await_close(Closed.RELEASED)
            elif self._leaving:
                self._abort(AbortReason.NOT_SPECIFIED, Closed.DRAINED)
        elif self._leaving and self._state is State.AWAITING_REQUEST:
            self._close()
        self._update_reading()

    def _negotiate(self, request: AssociationRequest) -> None:
        rejection = self._judge(request)
        if rejection is not None:
            self._host.observer.association_rejected(rejection.name.lower(), request.calling_ae)
            _LOG.warning(
                "association rejected",
                extra={
                    "association": self.number,
                    "calling_ae": request.calling_ae,
                    "called_ae": request.called_ae,
                    "address": self._peer_address(),
                    "reason": rejection.name,
                },
            )
            self._write(wire.reject_pdu(*rejection.value))
            self._await_close(self._closed_because)
            return
        decision = decide(request.contexts)
        self._write(encode_acceptance(request, decision, self._settings.max_pdu))
        self._operations.begin(decision.accepted, request.calling_ae)
        self._peer_max = request.max_length
        self._state = State.ESTABLISHED
        self._established = self._reader.data_allowed = True
        self._accepted_at = self._heard
        self._host.observer.association_opened(request.calling_ae)
        _LOG.info(
            "association accepted",
            extra={
                "association": self.number,
                "calling_ae": request.calling_ae,
                "address": self._peer_address(),
                "contexts": len(decision.accepted),
            },
        )
        self._watch_silence(self._settings.idle_s)

    def _judge(self, request: AssociationRequest) -> Rejection | None:
        settings = self._settings
        if not request.protocol_version & 1:
            return Rejection.PROTOCOL_VERSION
        if request.application_context != APPLICATION_CONTEXT:
            return Rejection.APPLICATION_CONTEXT
        if settings.require_called_ae and request.called_ae != settings.ae_title:
            return Rejection.CALLED_AE
        if not self._host.policy.allows(request.calling_ae, self._peer_address()):
            return Rejection.CALLING_AE
        return self._host.refuses_association()

    def _peer_address(self) -> str:
        name = self._transport.get_extra_info("peername") if self._transport is not None else None
        return str(name[0]) if name else "0.0.0.0"

    # Ends

    def _abort(self, reason: AbortReason, because: Closed) -> None:
        if self._state in (State.AWAITING_CLOSE, State.CLOSED):
            self._close()
            return
        self._write(wire.abort_pdu(_PROVIDER, reason))
        self._await_close(because)

    def _await_close(self, because: Closed) -> None:
        """Let the peer close first, so that no reset overtakes our last PDU; it has until ARTIM ends."""
        self._closed_because = because
        self._state = State.AWAITING_CLOSE
        self._reader.stopped = True
        self._operations.abandon()
        self._set_timer(self._settings.artim_s, self._artim_expired)

    def _close(self) -> None:
        self._reader.stopped = True
        if self._transport is not None:
            self._transport.close()

    def _artim_expired(self) -> None:
        if self._state is State.AWAITING_REQUEST:
            extra = {"association": self.number, "address": self._peer_address()}
            _LOG.warning("no association request in time", extra=extra)
        if self._transport is not None:
            self._transport.abort()

    def _watch_silence(self, left: float) -> None:
        # A message may begin meanwhile, and is to end in time.
        self._set_timer(min(left, self._settings.message_s), self._silence_expired)

    def _silence_expired(self) -> None:
        if not self.established:
            return
        within = self._operations.in_message or not self._reader.between_pdus
        allowed = min(self._settings.message_s, self._settings.idle_s) if within else self._settings.idle_s
        left = allowed - self.quiet_for(self._loop.time())
        if left > 0 or self._paused or (self.outstanding and not within):
            self._watch_silence(left if left > 0 else allowed / 4)
            return
        extra = {"association": self.number, "within_message": within}
        _LOG.warning("association silent for too long", extra=extra)
        self._abort(AbortReason.NOT_SPECIFIED, Closed.STALLED if within else Closed.IDLE)

    # Plumbing

    def _update_reading(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        rest = self.established and not (self._writable and self._operations.may_read())
        if rest is self._paused:
            return
        self._paused = rest
        if rest:
            self._transport.pause_reading()
        else:
            self._heard = self._loop.time()  # until now it was us who did not listen
            self._transport.resume_reading()

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _set_timer(self, seconds: float | None, callback: Callable[[], None] | None = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds is not None and callback is not None:
            self._timer = self._loop.call_later(seconds, callback)
