"""A server with a small real archive behind it, and ways to talk to it."""

import asyncio
import contextlib
import io
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pydicom
import uvloop
from pydicom.uid import UID

from perenne.dimse import pdu as wire
from perenne.dimse.command import Command, encode_command
from perenne.dimse.negotiation import ProposedContext, encode_request
from perenne.dimse.observer import DimseObserver
from perenne.dimse.server import DimseServer
from perenne.dimse.settings import DimseSettings
from perenne.dimse.store import Scanner
from perenne.dimse.uids import EXPLICIT_LE, IMPLICIT_LE, VERIFICATION
from replication.api import CommitOutcome, ConflictRefused, Draft
from storage.dataset import Attributes
from storage.disk import Disk
from storage.staging import StagingArea
from tests.storage.memory_disk import MemoryDisk

CT = "1.2.840.10008.5.1.4.1.1.2"
STUDY = "1.2.3.4"
SERIES = "1.2.3.4.5"
WAIT_S = 20.0
_READ: Callable[..., Any] = cast(Any, pydicom).dcmread  # pydicom is typed in part only


def scan(head: bytes | memoryview, transfer_syntax: str, *, complete: bool, thorough: bool = True) -> Attributes:
    """Read the identifiers with pydicom: slow, and independent of our own scanner."""

    if transfer_syntax == "1.2.840.10008.1.2.1.99":
        head = zlib.decompressobj(-zlib.MAX_WBITS).decompress(bytes(head), 4 << 20)
    syntax = UID(transfer_syntax)
    private = not syntax.is_transfer_syntax
    dataset = _READ(
        _part10(bytes(head), EXPLICIT_LE if private or syntax.is_deflated else transfer_syntax),
        stop_before_pixels=True,
        specific_tags=["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"],
    )
    if not all(UID(str(element.value)).is_valid for element in dataset if element.VR == "UI" and element.value):
        raise ValueError("not a UID: cut short")
    return Attributes(
        sop_class_uid=str(dataset.get("SOPClassUID", "")),
        sop_instance_uid=str(dataset.get("SOPInstanceUID", "")),
        study_instance_uid=str(dataset.get("StudyInstanceUID", "")),
        series_instance_uid=str(dataset.get("SeriesInstanceUID", "")),
    )


def _part10(body: bytes, syntax: str) -> io.BytesIO:
    value = syntax.encode() + b"\0" * (len(syntax) % 2)
    element = b"\x02\x00\x10\x00UI" + len(value).to_bytes(2, "little") + value
    length = b"\x02\x00\x00\x00UL\x04\x00" + len(element).to_bytes(4, "little")
    return io.BytesIO(bytes(128) + b"DICM" + length + element + body)


@dataclass
class Kept:
    payload: bytes
    meta_length: int
    draft: Draft

    @property
    def dataset(self) -> bytes:
        return self.payload[self.meta_length :]


@dataclass
class MemoryArchive:
    """Keeps instances in memory. refusing, failing, gate: what to answer before, instead, and when.

    keep_bytes: whether to copy payloads; without, only their digests are kept.
    """

    refusing: str | None = None
    failing: Exception | None = None
    gate: asyncio.Event | None = None
    refuse_conflicts: bool = False
    keep_bytes: bool = True
    kept: dict[str, list[Kept]] = field(default_factory=lambda: dict[str, list[Kept]]())
    waiting: int = 0

    def refusal(self) -> str | None:
        return self.refusing

    async def commit(self, draft: Draft) -> CommitOutcome:
        try:
            if self.gate is not None:
                self.waiting += 1
                try:
                    await self.gate.wait()
                finally:
                    self.waiting -= 1
            if self.failing is not None:
                raise self.failing
            versions = self.kept.setdefault(draft.sop_instance_uid, [])
            if any(kept.draft.staged.dataset_digest == draft.staged.dataset_digest for kept in versions):
                return CommitOutcome.DUPLICATE
            if versions and self.refuse_conflicts:
                raise ConflictRefused
            payload = b"".join(draft.staged.parts()) if self.keep_bytes else b""
            versions.append(Kept(payload, draft.staged.meta_length, draft))
            return CommitOutcome.STORED if len(versions) == 1 else CommitOutcome.CONFLICT_KEPT
        finally:
            draft.staged.release()


@dataclass
class Ledger:
    """An observer that writes everything down."""

    opened: list[str] = field(default_factory=lambda: list[str]())
    rejected: list[str] = field(default_factory=lambda: list[str]())
    closed: list[str] = field(default_factory=lambda: list[str]())
    stores: list[tuple[int, int]] = field(default_factory=lambda: list[tuple[int, int]]())
    answers: list[tuple[str, int]] = field(default_factory=lambda: list[tuple[str, int]]())
    refused: int = 0

    def connection_refused(self) -> None:
        self.refused += 1

    def association_opened(self, calling_ae: str) -> None:
        self.opened.append(calling_ae)

    def association_rejected(self, reason: str, calling_ae: str) -> None:
        self.rejected.append(reason)

    def association_closed(self, reason: str, seconds: float) -> None:
        self.closed.append(reason)

    def stored(self, size: int, seconds: float, status: int, calling_ae: str) -> None:
        self.stores.append((size, status))

    def answered(self, service: str, status: int) -> None:
        self.answers.append((service, status))


@dataclass
class Rig:
    server: DimseServer
    archive: MemoryArchive
    area: StagingArea
    ledger: Ledger

    @property
    def port(self) -> int:
        return self.server.port

    async def all_gone(self) -> None:
        await until(lambda: self.server.statistics().connections == 0)


def settings(**changes: Any) -> DimseSettings:
    return replace(DimseSettings(host="127.0.0.1", port=0), **changes)


@contextlib.asynccontextmanager
async def serving(
    options: DimseSettings | None = None,
    archive: MemoryArchive | None = None,
    *,
    disk: Disk | None = None,
    memory_instance_bytes: int = 8 << 20,
    pool_bytes: int = 64 << 20,
    scanner: Scanner = scan,
) -> AsyncGenerator[Rig, None]:
    """Start a server; at the end nothing may be left of what it received."""
    area = StagingArea(disk or MemoryDisk(), memory_instance_bytes=memory_instance_bytes, pool_bytes=pool_bytes)
    archive = archive or MemoryArchive()
    ledger = Ledger()
    observer: DimseObserver = ledger
    server = DimseServer(options or settings(), archive, area, scanner, observer)
    await server.start()
    try:
        yield Rig(server, archive, area, ledger)
    finally:
        await server.close()
    statistics = area.statistics()
    assert (statistics.pooled_bytes_in_use, statistics.files) == (0, 0), "staged bytes were left behind"
    assert server.budget.total == 0 and server.budget.held_back == 0


async def until(condition: Callable[[], bool]) -> None:
    """Return when `condition` holds; fails the test when it takes absurdly long."""
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.002)


def run(main: Callable[[], Awaitable[None]], *, twice: bool = True) -> None:
    """Run `main` on uvloop, which nodes use; `twice`: first on the event loop of the standard library."""

    async def bounded() -> None:
        async with asyncio.timeout(3 * WAIT_S):
            await main()

    if twice:
        asyncio.run(bounded())
    uvloop.run(bounded())


def dataset(
    sop_instance_uid: str = "1.2.3.4.5.6",
    *,
    sop_class_uid: str = CT,
    extra: bytes = b"",
    implicit: bool = False,
) -> bytes:
    """Return a small data set; `extra` becomes Pixel Data."""

    def element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2)
        tag = group.to_bytes(2, "little") + number.to_bytes(2, "little")
        if implicit:
            return tag + len(value).to_bytes(4, "little") + value
        if vr == b"OB":
            return tag + b"OB\0\0" + len(value).to_bytes(4, "little") + value
        return tag + vr + len(value).to_bytes(2, "little") + value

    return b"".join(
        (
            element(0x0008, 0x0016, b"UI", sop_class_uid.encode()),
            element(0x0008, 0x0018, b"UI", sop_instance_uid.encode()),
            element(0x0020, 0x000D, b"UI", STUDY.encode()),
            element(0x0020, 0x000E, b"UI", SERIES.encode()),
            element(0x7FE0, 0x0010, b"OB", extra) if extra else b"",
        )
    )


@dataclass
class RawPeer:
    """A peer that says exactly what a test wants, byte by byte."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def connect(cls, port: int) -> "RawPeer":
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    @classmethod
    async def associated(cls, port: int, max_pdu: int = 16384) -> "RawPeer":
        """Context 1: Verification, 3: CT in explicit, 5: CT in implicit little endian."""
        peer = await cls.connect(port)
        peer.send(association_request(max_pdu=max_pdu))
        kind, _ = await peer.pdu()
        assert kind == wire.ASSOCIATE_AC
        return peer

    def send(self, *parts: bytes) -> None:
        self.writer.write(b"".join(parts))

    async def pdu(self) -> tuple[int, bytes]:
        async with asyncio.timeout(WAIT_S):
            header = await self.reader.readexactly(6)
            return header[0], await self.reader.readexactly(int.from_bytes(header[2:], "big"))

    async def expect_abort(self) -> int:
        """Return the reason of the A-ABORT that comes next, then close, and see the server close too."""
        kind, body = await self.pdu()
        assert kind == wire.ABORT and len(body) == 4 and body[2] == 2, (kind, body)
        self.writer.write_eof()
        async with asyncio.timeout(WAIT_S):
            assert await self.reader.read() == b""
        await self.close()
        return body[3]

    async def expect_end(self) -> None:
        async with asyncio.timeout(WAIT_S):
            with contextlib.suppress(ConnectionError):
                assert await self.reader.read() == b""
        await self.close()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


def association_request(*, max_pdu: int = 16384, called_ae: str = "PERENNE", calling_ae: str = "TEST") -> bytes:
    return encode_request(
        called_ae=called_ae,
        calling_ae=calling_ae,
        contexts=[
            ProposedContext(1, VERIFICATION, (IMPLICIT_LE,)),
            ProposedContext(3, CT, (EXPLICIT_LE,)),
            ProposedContext(5, CT, (IMPLICIT_LE,)),
        ],
        max_pdu=max_pdu,
    )


def pdvs(context_id: int, control: int, data: bytes, size: int = 16384) -> bytes:
    """Return `data` as PDUs of one PDV each."""
    return b"".join(wire.data_pdus(context_id, control, memoryview(data), size))


def store_command(uid: str = "1.2.3.4.5.6", sop_class: str = CT, message_id: int = 1) -> bytes:
    return encode_command(
        Command(field=1, message_id=message_id, has_data_set=True, sop_class_uid=sop_class, sop_instance_uid=uid)
    )


def echo_command(message_id: int = 1) -> bytes:
    return encode_command(Command(field=0x30, message_id=message_id, sop_class_uid=VERIFICATION))
