"""A small and fast Storage and Verification SCU for imports, the benchmark and the tests: one operation at a time."""

import asyncio
import itertools
import socket
import ssl
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Final, Self, cast

from perenne.dimse import pdu as wire
from perenne.dimse.command import C_ECHO_RQ, C_STORE_RQ, Command, decode_command, encode_command
from perenne.dimse.negotiation import ProposedContext, decode_acceptance, encode_request
from perenne.dimse.pdu import PduError, PduReader
from perenne.dimse.uids import IMPLICIT_LE, VERIFICATION

Buffer = bytes | bytearray | memoryview

_MAX_PDU: Final = 128 * 1024
_PARTS_AT_ONCE: Final = 64
"""PDU headers and bodies handed to the transport before it is asked whether it can take more."""


class AssociationRejected(Exception):
    """result, source and reason as in PS3.8 table 9-21."""

    def __init__(self, result: int, source: int, reason: int) -> None:
        super().__init__(f"association rejected: {result}/{source}/{reason}")
        self.result, self.source, self.reason = result, source, reason


class AssociationAborted(Exception):
    """The peer aborted, broke the protocol or closed the connection."""


class _Link(asyncio.BufferedProtocol):
    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.waiter: asyncio.Future[tuple[int, bytes]] | None = None
        self.gone: str | None = None
        self.closed = asyncio.Event()
        self._buffer = memoryview(bytearray(64 * 1024))
        self._reader = PduReader(self, _MAX_PDU)
        self._reader.data_allowed = True
        self._command = bytearray()
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods only
        self._socket: socket.socket = transport.get_extra_info("socket")
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        # A peer that answers in two writes under Nagle would else wait 40 ms for our acknowledgement of the first.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        try:
            self._reader.feed(self._buffer[:nbytes])
        except PduError as error:
            self.lose(str(error))

    def fragment(self, context_id: int, control: int, data: memoryview, ends: bool) -> None:
        self._command += data
        if ends and control & wire.PDV_LAST:
            body = bytes(self._command)
            self._command.clear()
            self._deliver(wire.P_DATA, body)

    def pdu(self, kind: int, body: bytes) -> None:
        if kind == wire.ABORT:
            self.lose(f"aborted by the peer, source {body[2]}, reason {body[3]}")
        else:
            self._deliver(kind, body)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lose("connection lost")
        self._writable.set()
        self.closed.set()

    def lose(self, why: str) -> None:
        if self.gone is None:
            self.gone = why
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_exception(AssociationAborted(self.gone))
        if self.transport is not None:
            self.transport.close()

    async def write(self, parts: Sequence[Buffer]) -> None:
        if self.gone is not None or self.transport is None:
            raise AssociationAborted(self.gone or "not connected")
        self.transport.writelines(parts)
        await self._writable.wait()

    def expect(self) -> "asyncio.Future[tuple[int, bytes]]":
        self.waiter = asyncio.get_running_loop().create_future()
        # Who still writes when the connection is lost is told so there, and never comes to await this.
        self.waiter.add_done_callback(lambda waiter: waiter.cancelled() or waiter.exception())
        return self.waiter

    def _deliver(self, kind: int, body: bytes) -> None:
        if self.waiter is None or self.waiter.done():
            self.lose("a PDU nobody waits for")
        else:
            self.waiter.set_result((kind, body))


class Sender:
    """An association we requested. `async with await Sender.associate(...)` releases it at the end.

    accepted: transfer syntax of each accepted context, by context identifier.
    """

    def __init__(self, link: _Link, contexts: Sequence[ProposedContext]) -> None:
        self._link = link
        self._proposed = contexts
        self.accepted: dict[int, str] = {}
        self._by_class: dict[tuple[str, str], int] = {}
        self._peer_max = 0
        self._message_id = 0

    @classmethod
    async def associate(
        cls,
        host: str,
        port: int,
        contexts: Sequence[tuple[str, Sequence[str]]] = ((VERIFICATION, (IMPLICIT_LE,)),),
        *,
        called_ae: str = "PERENNE",
        calling_ae: str = "SENDER",
        tls: ssl.SSLContext | None = None,
    ) -> Self:
        """contexts: abstract syntax and transfer syntaxes of each, at most 128. tls: speak DICOM TLS (PS3.15 annex B).

        Raises AssociationRejected, AssociationAborted or OSError.
        """
        proposed = [
            ProposedContext(2 * index + 1, abstract, tuple(syntaxes))
            for index, (abstract, syntaxes) in enumerate(contexts)
        ]
        _, link = await asyncio.get_running_loop().create_connection(_Link, host, port, ssl=tls)
        self = cls(link, proposed)
        answer = link.expect()
        await link.write(
            [encode_request(called_ae=called_ae, calling_ae=calling_ae, contexts=proposed, max_pdu=_MAX_PDU)]
        )
        kind, body = await answer
        if kind == wire.ASSOCIATE_RJ:
            link.lose("rejected")
            raise AssociationRejected(body[1], body[2], body[3])
        if kind != wire.ASSOCIATE_AC:
            link.lose("no answer to the association request")
            raise AssociationAborted(link.gone)
        accepted, self._peer_max = decode_acceptance(body)
        self.accepted = dict(accepted)
        for context in proposed:
            if context.context_id in accepted:
                key = (context.abstract_syntax, accepted[context.context_id])
                self._by_class.setdefault(key, context.context_id)
        return self

    async def echo(self) -> int:
        """Send a C-ECHO and return its status."""
        context_id = next(iter(self.accepted))
        response = await self._request(
            context_id, Command(field=C_ECHO_RQ, message_id=self._next_id(), sop_class_uid=VERIFICATION), ()
        )
        return response.status if response.status is not None else -1

    def takes(self, sop_class_uid: str, transfer_syntax_uid: str) -> bool:
        """Whether a context was accepted for this class and syntax."""
        return (sop_class_uid, transfer_syntax_uid) in self._by_class

    async def store(
        self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, data: Iterable[Buffer]
    ) -> Command:
        """Send one instance and return the C-STORE-RSP.

        data: the encoded data set in pieces, taken as they leave and not copied here. Raises KeyError when no context
        was accepted for this class and syntax, AssociationAborted, and whatever `data` raises: then the message is cut
        short, and the association is good for nothing but `abort`.
        """
        context_id = self._by_class[sop_class_uid, transfer_syntax_uid]
        request = Command(
            field=C_STORE_RQ,
            message_id=self._next_id(),
            has_data_set=True,
            sop_class_uid=sop_class_uid,
            sop_instance_uid=sop_instance_uid,
        )
        return await self._request(context_id, request, data)

    async def release(self) -> None:
        """Release the association and close the connection. Raises AssociationAborted."""
        answer = self._link.expect()
        await self._link.write([wire.RELEASE_RQ_PDU])
        kind, _ = await answer
        self._link.lose("released")
        await self._link.closed.wait()
        if kind != wire.RELEASE_RP:
            raise AssociationAborted("the release was not answered")

    async def abort(self) -> None:
        """Abort as the service user and close the connection."""
        if self._link.gone is None:
            await self._link.write([wire.abort_pdu(0, 0)])
        self._link.lose("aborted by us")
        await self._link.closed.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._link.gone is None:
            await self.release()
        else:
            await self.abort()

    def _next_id(self) -> int:
        self._message_id = self._message_id % 0xFFFF + 1
        return self._message_id

    async def _request(self, context_id: int, command: Command, data: Iterable[Buffer]) -> Command:
        link = self._link
        answer = link.expect()
        parts: Iterator[Buffer] = iter(
            wire.data_pdus(context_id, wire.PDV_COMMAND, memoryview(encode_command(command)), self._peer_max)
        )
        if command.has_data_set:
            parts = itertools.chain(parts, _pdus_of_pieces(context_id, data, self._peer_max))
        while some := list(itertools.islice(parts, _PARTS_AT_ONCE)):
            await link.write(some)
        kind, body = await answer
        if kind != wire.P_DATA:
            link.lose("an unexpected PDU")
            raise AssociationAborted(link.gone)
        response = decode_command(body)
        if response.message_id != command.message_id:
            link.lose("a response to another message")
            raise AssociationAborted(link.gone)
        return response


def _pdus_of_pieces(context_id: int, pieces: Iterable[Buffer], max_length: int) -> Iterator[Buffer]:
    """Yield the PDUs of one data set; a PDV never spans two pieces, only the last ends the data set."""
    room = max(max_length - 6, 1) if max_length else 1024 * 1024
    held: memoryview | None = None
    for piece in pieces:
        view = memoryview(piece)
        for start in range(0, len(view), room):
            if held is not None:
                yield wire.data_header(context_id, 0, len(held))
                yield held
            held = view[start : start + room]
    last = memoryview(b"") if held is None else held
    yield wire.data_header(context_id, wire.PDV_LAST, len(last))
    yield last
