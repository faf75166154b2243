"""Instances made for measuring, and a sender that pushes them through any number of associations."""

import asyncio
import itertools
import math
import os
import secrets
import ssl
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, cast

import pydicom
from pydicom import Dataset
from pydicom.data import get_testdata_file
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from perenne.dimse.sender import AssociationAborted, AssociationRejected, Sender

CT: Final = "1.2.840.10008.5.1.4.1.1.2"
MR: Final = "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT_LE: Final = "1.2.840.10008.1.2.1"
ROOT: Final = "1.2.826.0.1.3680043.10.1337"
PIXEL_DATA: Final = 0x7FE00010
SIZES: Final = {"CT 525 KB": (CT, 525_000), "MR 11 KB": (MR, 10_000)}


def instances(sop_class: str, size: int) -> Iterator[tuple[str, list[bytes]]]:
    """Yield (SOP Instance UID, data set in pieces), each unique in this process and any other.

    The headers are those of pydicom's samples, as a scanner writes them; a hundred instances make a series.
    """
    first = 1_000_000_000
    run = f"{ROOT}.{10**15 + secrets.randbelow(10**15)}"
    study, series, uid = f"{run}.1", f"{run}.2.{first}", f"{run}.3.{first}"
    path = get_testdata_file("CT_small.dcm" if sop_class == CT else "MR_small.dcm")
    assert isinstance(path, str), "pydicom brings its samples with it"
    read: Callable[[str], Dataset] = cast(Any, pydicom).dcmread  # pydicom is typed in part only
    sample = read(path)
    sample.StudyInstanceUID, sample.SeriesInstanceUID, sample.SOPInstanceUID = study, series, uid
    del sample[PIXEL_DATA:]
    side = math.isqrt(size // 2)
    sample.Rows = sample.Columns = side
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, sample)
    head = buffer.getvalue()
    at, at_series = head.index(uid.encode()), head.index(series.encode())
    pixels = os.urandom(side * side * 2)
    tail = struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OW", 0, len(pixels)) + pixels
    for number in itertools.count(1):
        uid, series = f"{run}.3.{first + number}", f"{run}.2.{first + number // 100}"
        own = bytearray(head)
        own[at : at + len(uid)] = uid.encode()
        own[at_series : at_series + len(series)] = series.encode()
        yield uid, [bytes(own), tail]


async def _store_some(
    port: int, called_ae: str, sop_class: str, size: int, until: float, warm_until: float, tls: ssl.SSLContext | None
) -> int:
    """Return how many were answered with Success between `warm_until` and `until`."""
    done = 0
    contexts = [(sop_class, [EXPLICIT_LE])]
    sender = await Sender.associate("127.0.0.1", port, contexts, called_ae=called_ae, tls=tls)
    async with sender:
        for uid, pieces in instances(sop_class, size):
            await _stored(sender, sop_class, uid, pieces)
            now = time.monotonic()
            if now >= until:
                return done
            done += now >= warm_until
    return done


async def rate(
    port: int,
    called_ae: str,
    sop_class: str,
    size: int,
    *,
    associations: int,
    seconds: float,
    tls: ssl.SSLContext | None = None,
) -> float:
    """Instances per second over so many associations at once, after a short warm-up. tls: how to speak DICOM TLS."""
    warm_until = time.monotonic() + seconds / 4
    until = warm_until + seconds
    work = [_store_some(port, called_ae, sop_class, size, until, warm_until, tls) for _ in range(associations)]
    return sum(await asyncio.gather(*work)) / seconds


async def echo_rate(port: int, called_ae: str, *, associations: int, seconds: float) -> float:
    """C-ECHO per second."""

    async def echo() -> int:
        done, until = 0, time.monotonic() + seconds
        async with await Sender.associate("127.0.0.1", port, called_ae=called_ae) as sender:
            while time.monotonic() < until:
                await sender.echo()
                done += 1
        return done

    return sum(await asyncio.gather(*(echo() for _ in range(associations)))) / seconds


async def fill(port: int, called_ae: str, sop_class: str, size: int, *, associations: int, count: int) -> None:
    """Store so many instances. Raises RuntimeError when one is refused."""
    left = itertools.count(count, -1)

    async def some() -> None:
        sender = await Sender.associate("127.0.0.1", port, [(sop_class, [EXPLICIT_LE])], called_ae=called_ae)
        async with sender:
            for uid, pieces in instances(sop_class, size):
                if next(left) <= 0:
                    return
                await _stored(sender, sop_class, uid, pieces)

    await asyncio.gather(*(some() for _ in range(associations)))


async def store_giant(port: int, called_ae: str, size: int) -> None:
    """Store one CT instance of `size` bytes, which never lies in this process's memory as a whole."""
    piece = memoryview(os.urandom(16 * 1024 * 1024))
    uid, (head, _) = next(instances(CT, 2048))
    tail = struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OW", 0, size)
    body = [piece[: min(len(piece), size - start)] for start in range(0, size, len(piece))]
    sender = await Sender.associate("127.0.0.1", port, [(CT, [EXPLICIT_LE])], called_ae=called_ae)
    async with sender:
        await _stored(sender, CT, uid, [head, tail, *body])


async def _stored(sender: Sender, sop_class: str, uid: str, pieces: Sequence[bytes | memoryview]) -> None:
    answer = await sender.store(sop_class, uid, EXPLICIT_LE, pieces)
    if answer.status != 0:
        raise RuntimeError(f"status {answer.status:04X}: {answer.comment}")


class Pulse:
    """Stores small instances without pause; remembers the longest time between two acknowledgements."""

    def __init__(self, port: int, called_ae: str) -> None:
        self._port = port
        self._called_ae = called_ae
        self._task: asyncio.Task[None] | None = None
        self.last = time.monotonic()
        self.longest = 0.0
        self.stored = 0
        self.broken = 0

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    def mark(self) -> None:
        """Begin to look for the longest pause anew."""
        self.longest = 0.0

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                sender = await Sender.associate(
                    "127.0.0.1", self._port, [(MR, [EXPLICIT_LE])], called_ae=self._called_ae
                )
                async with sender:
                    for uid, pieces in instances(MR, 11_000):
                        answer = await sender.store(MR, uid, EXPLICIT_LE, pieces)
                        if answer.status == 0:
                            self._acknowledged()
                        await asyncio.sleep(0.005)
            except (OSError, AssociationAborted, AssociationRejected):
                self.broken += 1
                await asyncio.sleep(0.05)

    def _acknowledged(self) -> None:
        now = time.monotonic()
        self.longest = max(self.longest, now - self.last)
        self.last = now
        self.stored += 1
