"""Small logs for tests: records made to follow a given point."""

from pathlib import Path

from storage.digest import digests_of
from storage.disk import RealDisk
from storage.log import Log, LogIdentity
from storage.position import LogPoint, LogPosition, RecordHeader, RecordKind, chain_after
from storage.reader import BytesPayload
from storage.segment import segment_name
from storage.table import ENTRIES_OFFSET, ENTRY_BYTES

SEGMENT_BYTES = 64 * 1024
IDENTITY = LogIdentity("test-cluster", SEGMENT_BYTES)


def record_after(end: LogPoint, size: int, epoch: int = 1, salt: int = 0) -> tuple[RecordHeader, bytes, BytesPayload]:
    """Return header, chain and payload of an instance of `size` bytes that follows `end`."""
    sequence = end.sequence + 1
    data = bytes((sequence * 7 + salt + at) % 255 + 1 for at in range(min(size, 256))) * (size // 256 + 1)
    payload = BytesPayload(data[:size])
    digests = digests_of(RecordKind.INSTANCE, [payload.data])
    header = RecordHeader(
        LogPosition(epoch, sequence),
        RecordKind.INSTANCE,
        digests.dataset,
        digests.digest,
        1_700_000_000_000_000 + sequence,
        f"1.2/1.2.3/1.2.3.{sequence}.dcm",
        size,
    )
    return header, chain_after(end.chain, header), payload


def append(log: Log, size: int, epoch: int = 1, salt: int = 0) -> LogPoint:
    log.append(*record_after(log.end, size, epoch, salt))
    return log.end


def lose(directory: Path, sequence: int) -> None:
    """Damage a record of a closed log in both of its places, so that nothing says what it was."""
    log = Log.open(RealDisk(directory), IDENTITY, host_rebooted=False, spares=0)[0]
    entry = log.entry(sequence)
    log.close()
    assert entry is not None
    with (directory / segment_name(entry.segment)).open("r+b") as file:
        for offset in (entry.offset, ENTRIES_OFFSET + (sequence - entry.segment) * ENTRY_BYTES + 9):
            file.seek(offset)
            file.write(b"rot")
