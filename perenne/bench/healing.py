"""How fast a scrub reads, beside a plain sequential read with the same digest, and how fast an index is made anew."""

import mmap
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

from blake3 import blake3

from perenne.bench.load import EXPLICIT_LE, SIZES, instances
from perenne.bench.results import Results, say
from perenne.cli.offline_log import locked_node
from perenne.cli.reindex import rebuilt
from perenne.dimse.meta import file_meta
from replication.scrubber import ScrubReading
from storage.digest import digests_of
from storage.disk import RealDisk
from storage.log import Log, LogIdentity
from storage.metadata import NodeIdentity, PromiseFile, write_identity
from storage.position import LogPosition, RecordHeader, RecordKind, chain_after
from storage.reader import BytesPayload
from storage.record import instance_path
from storage.scrub import STEP_BYTES, Depth, Read

WINDOW: Final = 4 * 1024 * 1024
GROUP: Final = 64


def scrub(scrub_bytes: int, repeat: int) -> Results:
    """Medians of a deep pass, and of the floor under it, in turn."""
    sop_class, size = SIZES["CT 525 KB"]
    with tempfile.TemporaryDirectory(prefix="perenne-bench-") as name:
        node = Path(name)
        _fill(node, sop_class, size, scrub_bytes // size)
        log = Log.open(RealDisk(node), LogIdentity("bench"), host_rebooted=False, spares=0)[0]
        works = _works(log, node)
        plain, deep, light = zip(*([_rate(work) for work in works] for _ in range(repeat)), strict=True)
        log.close()
    found: dict[str, float] = {
        "plain read and BLAKE3, MB/s": round(statistics.median(plain), 1),
        "deep scrub, MB/s": round(statistics.median(deep), 1),
        "deep scrub / plain": round(statistics.median(deep) / statistics.median(plain), 2),
        "light scrub, MB/s of log": round(statistics.median(light), 1),
    }
    say(f"scrub: {found}")
    return {"scrub": found}


def _works(log: Log, node: Path) -> tuple[Callable[[], int], ...]:
    return (
        partial(_plain, node),
        partial(_scrubbed, log, node, Depth.DEEP),
        partial(_scrubbed, log, node, Depth.LIGHT),
    )


def _rate(work: Callable[[], int]) -> float:
    """Megabytes of log per second."""
    began = time.perf_counter()
    done = work()
    return done / (time.perf_counter() - began) / 1e6


def _plain(node: Path) -> int:
    """One descriptor, one buffer, past the page cache: nothing that reads and hashes is quicker with one thread."""
    window, done = memoryview(mmap.mmap(-1, WINDOW)), 0
    for path in sorted((node / "log").glob("*.tar")):
        descriptor, hasher, at = os.open(path, os.O_RDONLY | os.O_DIRECT), blake3(), 0
        while got := os.preadv(descriptor, [window], at):
            hasher.update(window[:got])
            at += got
        os.close(descriptor)
        done += at
    return done


def _scrubbed(log: Log, node: Path, depth: Depth) -> int:
    reading, following, upto = ScrubReading(log, node), 1, log.durable.sequence
    while not (done := reading.step(Read(depth, following, upto, STEP_BYTES))).nothing_left:
        if done.segment is not None:
            following = done.segment.last + 1
    assert not log.damaged(), "nothing was damaged"
    return sum(path.stat().st_size for path in (node / "log").glob("*.tar"))


def reindex(count: int, repeat: int) -> Results:
    """Small instances: of large ones no more is read. The index is compared with nothing; tests do that."""
    sop_class, size = SIZES["MR 11 KB"]
    rates: list[float] = []
    per_cpu: list[float] = []
    with tempfile.TemporaryDirectory(prefix="perenne-bench-") as name:
        _fill(Path(name), sop_class, size, count)
        for _ in range(repeat):
            began = time.process_time()
            with locked_node(Path(name)) as node:
                added, seconds, holes = rebuilt(node, quiet=True)
            assert added == count and not holes, "every instance is indexed"
            rates.append(added / seconds)
            per_cpu.append(added / (time.process_time() - began))
    found: dict[str, float] = {
        "instances per s": round(statistics.median(rates), 1),
        "instances per CPU second": round(statistics.median(per_cpu), 1),
    }
    say(f"reindex: {found}")
    return {"reindex": found}


def _fill(directory: Path, sop_class: str, size: int, count: int) -> None:
    """A data directory as a node leaves it, without the network."""
    disk = RealDisk(directory)
    write_identity(disk, NodeIdentity("bench", "n1", "incarnation"))
    log = Log.open(disk, LogIdentity("bench"), host_rebooted=False, spares=0)[0]
    append_instances(log, sop_class, size, count)
    promise = PromiseFile(disk)
    promise.store(floor=log.end)
    promise.close()
    log.close()


def append_instances(log: Log, sop_class: str, size: int, count: int) -> None:
    """As a node does it, without the network."""
    first = log.end.sequence + 1
    for number, (uid, pieces) in enumerate(islice(instances(sop_class, size), count), first):
        meta = file_meta(
            sop_class_uid=sop_class, sop_instance_uid=uid, transfer_syntax_uid=EXPLICIT_LE, source_ae="BENCH"
        )
        payload = BytesPayload(b"".join((meta, *pieces)))
        digests = digests_of(RecordKind.INSTANCE, [payload.data])
        path = instance_path("1.2.3", "1.2.3.4", uid, None)
        position = LogPosition(max(1, log.end.epoch), number)
        header = RecordHeader(
            position, RecordKind.INSTANCE, digests.dataset, digests.digest, number, path, payload.size
        )
        log.append(header, chain_after(log.end.chain, header), payload)
        if number % GROUP == 0:
            log.sync()
    log.sync()
