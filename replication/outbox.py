"""What one connection has to send, in order: small things at once, a large payload in pieces as the peer takes them.

A large payload never lies in memory as a whole, and what cannot wait (heartbeats, confirmations) goes between its
pieces, so that a node that copies gigabytes is not taken for dead.
"""

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Final

from replication.messages import (
    Confirmed,
    Goodbye,
    Heartbeat,
    Lookup,
    Message,
    ProposeResult,
    Survey,
    SurveyAnswer,
)
from replication.wire import encode, encode_piece
from storage.errors import StorageError
from storage.reader import BytesPayload, Payload
from storage.staging import Staged

HIGH_WATER: Final = 8 * 1024 * 1024
AT_ONCE: Final = 64 * 1024
"""Frames of this size are offered to the socket before the transport."""
_OVERTAKING: Final = (Confirmed, Goodbye, Heartbeat, Lookup, ProposeResult, Survey, SurveyAnswer)
"""Messages that mean the same whether they arrive before or after a record that is under way."""


class Outbox:
    """The sending half of one connection.

    writable(): called when `congested` ended. failed(reason): a payload cannot be read; the connection is of no use.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        readers: Executor,
        writable: Callable[[], None],
        failed: Callable[[str], None],
    ) -> None:
        transport.set_write_buffer_limits(high=HIGH_WATER, low=HIGH_WATER // 4)
        self._transport = transport
        secured = transport.get_extra_info("ssl_object") is not None
        self._socket: socket.socket | None = None if secured else transport.get_extra_info("socket")
        self._readers = readers
        self._writable = writable
        self._failed = failed
        self._drained = asyncio.Event()
        self._drained.set()
        self._clear = asyncio.Event()
        self._clear.set()
        self._large: asyncio.Task[None] | None = None
        self._waiting: deque[tuple[Message, Payload | None]] = deque()
        self._held: deque[tuple[int, Staged]] = deque()
        """Staged payloads whose bytes the transport still refers to, with the count of bytes up to their end."""
        self._written = 0

    @property
    def congested(self) -> bool:
        """More waits to be sent than should."""
        return not self._clear.is_set()

    async def clear(self) -> None:
        """Wait until nothing is congested, or the connection is gone."""
        await self._clear.wait()

    def send(self, message: Message, payload: Payload | None = None) -> None:
        """Queue a frame; never blocks. A staged payload is held until its bytes have left."""
        if isinstance(payload, Staged):
            payload.retain()
        if self._large is None:
            self._start(message, payload)
        elif payload is None and isinstance(message, _OVERTAKING):
            self._write([encode(message)])
        else:
            self._waiting.append((message, payload))

    def pause(self) -> None:
        """The transport has too much."""
        self._drained.clear()
        self._clear.clear()

    def resume(self) -> None:
        """The transport can take more."""
        self._drained.set()
        self._release_sent()
        self._tell_if_clear()

    def close(self) -> None:
        """The connection is gone: nothing that waits will be sent."""
        if self._large is not None:
            self._large.cancel()
        for _, staged in self._held:
            staged.release()
        for _, payload in self._waiting:
            self._let_go(payload)
        self._held.clear()
        self._waiting.clear()
        self._drained.set()
        self._clear.set()

    def _start(self, message: Message, payload: Payload | None) -> None:
        if payload is None:
            self._write([encode(message)])
        elif isinstance(payload, BytesPayload) or (isinstance(payload, Staged) and payload.in_memory):
            self._write([encode(message, payload.size), *payload.parts()])
            if isinstance(payload, Staged):
                self._held.append((self._written, payload))
                self._release_sent()
        else:
            self._clear.clear()
            self._large = asyncio.get_running_loop().create_task(self._send_large(message, payload))
            self._large.add_done_callback(lambda _: self._let_go(payload))  # it may be cancelled before it begins

    def _write(self, parts: list[bytes | memoryview]) -> None:
        size = sum(map(len, parts))
        self._written += size
        if size >= AT_ONCE and self._socket is not None and self._transport.get_write_buffer_size() == 0:
            parts = _send_now(self._socket, parts)
        if parts:
            self._transport.writelines(parts)

    def _release_sent(self) -> None:
        sent = self._written - self._transport.get_write_buffer_size()
        while self._held and self._held[0][0] <= sent:
            self._held.popleft()[1].release()

    async def _send_large(self, message: Message, payload: Payload) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._write([encode(message, payload.size, in_pieces=True)])
            parts = iter(payload.parts())
            while (piece := await loop.run_in_executor(self._readers, next, parts, None)) is not None:
                self._write([encode_piece(len(piece)), piece])
                await self._drained.wait()
        except StorageError as error:
            # Half a payload is on its way, and no other will do: only a new connection helps.
            self._failed(f"a payload cannot be read: {error}")
        finally:
            self._large = None
        while self._waiting and self._large is None:
            self._start(*self._waiting.popleft())
        self._tell_if_clear()

    def _tell_if_clear(self) -> None:
        if self._large is None and self._drained.is_set() and not self._clear.is_set():
            self._clear.set()
            self._writable()

    def _let_go(self, payload: Payload | None) -> None:
        if isinstance(payload, Staged):
            if payload.in_memory:
                payload.release()
            else:
                self._readers.submit(payload.release)  # removing its file syncs a directory


def _send_now(sock: socket.socket, parts: list[bytes | memoryview]) -> list[bytes | memoryview]:
    """Send what the socket takes; return the rest. Unlike the transport, this lets other threads run meanwhile:
    the log thread begins its write, and so the two nodes' disks do not wait for each other.
    """
    try:
        sent = os.writev(sock.fileno(), parts)
    except OSError:
        return parts  # no room, or a broken connection: the transport deals with either
    left: list[bytes | memoryview] = []
    for part in parts:
        if sent < len(part):
            left.append(memoryview(part)[sent:] if sent else part)
        sent = max(0, sent - len(part))
    return left
