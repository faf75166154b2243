"""Where a record sits in the log, and the chain that proves everything before it.

These values are shared by every part of Perenne; the decision core may import nothing else of `storage`.
Pure values and one pure function: nothing here reads a clock, a file or a socket.
"""

import enum
import struct
from typing import Final

from blake3 import blake3
from msgspec import Struct

DIGEST_BYTES: Final = 32
NO_DIGEST: Final = bytes(DIGEST_BYTES)


class RecordKind(enum.Enum):
    """What a record of the log is. The value is its name on disk."""

    INSTANCE = "instance"
    TOMBSTONE = "tombstone"
    EPOCH = "epoch"
    NOTE = "note"


KIND_CODE: Final = {
    RecordKind.INSTANCE: 1,
    RecordKind.TOMBSTONE: 2,
    RecordKind.EPOCH: 3,
    RecordKind.NOTE: 4,
}


class LogPosition(Struct, frozen=True, order=True, gc=False):
    """Where a record sits in the log, ordered by epoch and then by sequence.

    epoch: the leadership under which it was written; rises by one or more per election.
    sequence: 1-based and without gaps, so `sequence - 1` records precede it.
    """

    epoch: int
    sequence: int


class LogPoint(Struct, frozen=True, gc=False):
    """A position together with the chain up to and including it: 32 bytes that prove a whole prefix.

    Two replicas with an equal point hold byte-identical records up to it.
    """

    position: LogPosition
    chain: bytes

    @property
    def epoch(self) -> int:
        return self.position.epoch

    @property
    def sequence(self) -> int:
        return self.position.sequence


GENESIS: Final = LogPoint(LogPosition(0, 0), NO_DIGEST)
"""The point before the first record of every log."""


class EpochSpan(Struct, frozen=True, gc=False):
    """The records of one epoch in one log: first and last sequence, both included."""

    epoch: int
    first: int
    last: int


class RecordHeader(Struct, frozen=True, gc=False):
    """What the chain proves of one record besides its payload (docs/format.md, Record).

    dataset: BLAKE3 of the data set alone, `NO_DIGEST` where the record is not an instance.
    digest: BLAKE3 over the preamble and File Meta bytes followed by `dataset`; for other kinds over the payload.
    time_us: the leader's clock when it numbered the record, microseconds since 1970 UTC, replicated as it is.
    path: member name in the tar file. size: payload bytes, without padding.
    """

    position: LogPosition
    kind: RecordKind
    dataset: bytes
    digest: bytes
    time_us: int
    path: str
    size: int


_FIXED: Final = struct.Struct(">QQB32s32sqQ")


def chain_after(previous: bytes, header: RecordHeader) -> bytes:
    """Return `chain[s] = blake3(chain[s-1] ‖ header[s] ‖ digest[s])`, 32 bytes.

    header[s] is packed big-endian: sequence, epoch (u64 each), kind (u8), dataset, digest (32 bytes each),
    time_us (i64), size (u64), then the path in UTF-8, which is last because it alone varies in length.
    """
    packed = _FIXED.pack(
        header.position.sequence,
        header.position.epoch,
        KIND_CODE[header.kind],
        header.dataset,
        header.digest,
        header.time_us,
        header.size,
    )
    return blake3(b"".join((previous, packed, header.path.encode(), header.digest))).digest()
