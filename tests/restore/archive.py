"""Archives to restore: a log built directly through storage, and the objects of a tier made of it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from replication.restore.engine import Engine, Until
from replication.restore.filling import Filling, Marker
from replication.restore.report import Report
from replication.tier.keys import Run, run_name
from replication.tier.port import ObjectStore
from storage.digest import digests_of
from storage.disk import RealDisk
from storage.log import Log, LogIdentity
from storage.position import LogPoint, LogPosition, RecordHeader, RecordKind, chain_after
from storage.reader import BytesPayload
from storage.record import small_member

SEGMENT_BYTES = 4 * 1024 * 1024
IDENTITY = LogIdentity("0123456789abcdef", SEGMENT_BYTES)
STUDY = "1.2.826.0.1.3680043.10.1337.5"


def uid(number: int) -> str:
    return f"{STUDY}.{number // 100}.{number}"


def instance(number: int, size: int) -> bytes:
    """Bytes of an instance: storage looks at nothing in them."""
    seed = number.to_bytes(4, "big")
    return (b"DATA" + seed * (size // 4))[:size]


@dataclass
class Archive:
    """A log under `root`, being written; `end` of it."""

    root: Path
    log: Log

    @classmethod
    def begin(cls, root: Path, identity: LogIdentity = IDENTITY) -> "Archive":
        log, _ = Log.open(RealDisk(root), identity, host_rebooted=False, spares=0)
        return cls(root, log)

    @property
    def end(self) -> LogPoint:
        return self.log.end

    def append(self, header: RecordHeader, payload: bytes) -> None:
        self.log.append(header, chain_after(self.end.chain, header), BytesPayload(payload))

    def epoch(self, epoch: int) -> None:
        """A new leader's first record."""
        self.append(*small_member(LogPosition(epoch, self.end.sequence + 1), RecordKind.EPOCH, {"epoch": epoch}, 1))

    def instances(self, count: int, size: int = 600, epoch: int = 0) -> None:
        for _ in range(count):
            number = self.end.sequence + 1
            payload = instance(number, size)
            digests = digests_of(RecordKind.INSTANCE, [payload])
            header = RecordHeader(
                LogPosition(epoch or self.end.epoch, number),
                RecordKind.INSTANCE,
                digests.dataset,
                digests.digest,
                1_700_000_000_000_000 + number * 1_000_000,
                f"{STUDY}/{STUDY}.{number // 100}/{uid(number)}.dcm",
                size,
            )
            self.append(header, payload)

    def sealed(self) -> None:
        """Close, as a node does."""
        self.log.close()


def reopened(root: Path) -> Log:
    return Log.open(RealDisk(root), IDENTITY, host_rebooted=False, spares=0)[0]


def body(log: Log, first: int, last: int) -> bytes:
    return b"".join(log.read_raw(sequence) for sequence in range(first, last + 1))


def groups(log: Log, size: int, first: int = 1) -> list[tuple[int, int]]:
    """Spans of at most `size` records that no epoch crosses."""
    spans: list[tuple[int, int]] = []
    for epoch in log.epochs():
        start = max(first, epoch.first)
        while start <= epoch.last:
            spans.append((start, min(start + size - 1, epoch.last)))
            start = spans[-1][1] + 1
    return spans


async def put(store: ObjectStore, log: Log, spans: Sequence[tuple[int, int]]) -> list[Run]:
    """Upload records as whole objects; return their names."""
    runs: list[Run] = []
    for first, last in spans:
        point = log.point_at(last)
        assert point is not None
        runs.append(run_name(first, point))
        await store.put(runs[-1].key, body(log, first, last))
    return runs


def marker(source: str = "test", kind: str = "cluster") -> Marker:
    return Marker(kind, source, IDENTITY.cluster_id, IDENTITY.segment_bytes, "n1" if kind != "past" else "")


def silent(_done: int, _total: int, _arrived: int) -> None:
    """Nobody looks."""


def restored(store: ObjectStore, to: Path, until: Until | None = None, kind: str = "cluster") -> Report:
    """Restore, without any coordination."""
    filling = Filling.begin(to, marker(kind=kind))
    try:
        engine = Engine(store, filling, until or Until(), silent)
        return asyncio.run(engine.run())
    finally:
        filling.close()


def segments(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((root / "log").glob("*.tar"))}
