"""An archive made for measuring: a log written directly through storage, and the objects of a tier made of it."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from perenne.bench.load import EXPLICIT_LE, ROOT, SIZES, instances
from perenne.dimse.meta import file_meta
from replication.coordination.port import ClusterRecord
from replication.tier.keys import Run, run_name
from replication.tier.manifest import claim_for
from replication.tier.port import ObjectStore
from storage.digest import digests_of
from storage.disk import RealDisk
from storage.log import Log, LogIdentity
from storage.position import LogPosition, RecordHeader, RecordKind, chain_after
from storage.reader import BytesPayload
from storage.record import instance_path, small_member

OBJECT_BYTES: Final = 8 * 1024 * 1024
"""Of one object, as the uploader puts what is not in a sealed segment yet."""
AT_ONCE: Final = 2


def write_log(root: Path, cluster: ClusterRecord, count: int, label: str) -> dict[str, bytes]:
    """A log of `count` Part 10 instances behind one EPOCH record; return the digest of each payload by its UID."""
    log, _ = Log.open(
        RealDisk(root), LogIdentity(cluster.cluster_id, cluster.segment_bytes), host_rebooted=False, spares=0
    )
    made: dict[str, bytes] = {}
    try:
        header, payload = small_member(LogPosition(1, 1), RecordKind.EPOCH, {"epoch": 1}, 1)
        log.append(header, chain_after(log.end.chain, header), BytesPayload(payload))
        sop_class, size = SIZES[label]
        for (uid, pieces), _ in zip(instances(sop_class, size), range(count), strict=False):
            meta = file_meta(
                sop_class_uid=sop_class, sop_instance_uid=uid, transfer_syntax_uid=EXPLICIT_LE, source_ae="BENCH"
            )
            content = b"".join((meta, *pieces))
            digests = digests_of(RecordKind.INSTANCE, [content])
            path = instance_path(f"{ROOT}.1", f"{ROOT}.2", uid, None)
            position = LogPosition(1, log.end.sequence + 1)
            header = RecordHeader(
                position,
                RecordKind.INSTANCE,
                digests.dataset,
                digests.digest,
                1_700_000_000_000_000,
                path,
                len(content),
            )
            log.append(header, chain_after(log.end.chain, header), BytesPayload(content))
            made[uid] = digests.digest
    finally:
        log.close()
    return made


async def upload(root: Path, cluster: ClusterRecord, store: ObjectStore) -> list[Run]:
    """Put the whole log as a node leaves it, each sealed segment one object, the rest in groups; say whose it is."""
    identity = LogIdentity(cluster.cluster_id, cluster.segment_bytes)
    log, _ = Log.open(RealDisk(root), identity, host_rebooted=False, spares=0)
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(first: int, last: int) -> Run:
        point = log.point_at(last)
        assert point is not None, "the log is whole"
        run = run_name(first, point)
        async with turn:
            await store.put(run.key, b"".join(log.read_raw(sequence) for sequence in range(first, last + 1)))
        return run

    try:
        await claim_for(store, cluster)
        return list(await asyncio.gather(*(one(*span) for span in _spans(log))))
    finally:
        log.close()
        await store.close()


def _spans(log: Log) -> Iterator[tuple[int, int]]:
    first = 1
    while (sealed := log.sealed_at(first)) is not None:
        yield sealed.first, sealed.last
        first = sealed.last + 1
    size = 0
    for entry in log.iterate(first):
        if size and size + entry.length > OBJECT_BYTES:
            yield first, entry.position.sequence - 1
            first, size = entry.position.sequence, 0
        size += entry.length
    if first <= log.end.sequence:
        yield first, log.end.sequence
