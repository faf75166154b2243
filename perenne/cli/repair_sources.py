"""Where `perenne repair` takes sound bytes from: another node's data directory, or the tier."""

import asyncio
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Final

from perenne.cli.offline_log import NoDirectory, OfflineNode
from replication.tier.lending import lend
from replication.tier.port import ObjectStore
from storage.disk import RealDisk
from storage.errors import FormatError, RecordCorrupt, StorageError
from storage.position import RecordHeader
from storage.rawrecord import WholeRecord
from storage.reader import BytesPayload, Payload
from storage.record import encode_stub
from storage.segment_file import SegmentFile
from storage.staging import Staged, StagingArea
from storage.table import PAGE, decode_segment_header
from storage.walk import Found, Walk

POOL_BYTES: Final = 64 * 1024 * 1024


class _Lender:
    """One record at a time, copied to where nobody changes it: what was proved is what is put in place."""

    def __init__(self, scratch: RealDisk) -> None:
        self._lent: Staged | None = None
        self._area = StagingArea(scratch, memory_instance_bytes=POOL_BYTES // 4, pool_bytes=POOL_BYTES)

    def close(self) -> None:
        """Let go of what was given last."""
        if self._lent is not None:
            self._lent.release()
        self._lent = None

    def _lend(self, header: RecordHeader, chain: bytes, payload: Staged) -> Payload:
        self._lent = payload
        return WholeRecord(header, chain, payload)


class DirectorySource(_Lender):
    """The data directory of another node of the cluster, which may be running: nothing is locked or written.

    scratch: a directory of this node for what is copied.
    """

    lacking = "the other directory does not have it"

    def __init__(self, directory: Path, scratch: RealDisk) -> None:
        super().__init__(scratch)
        self._directory = directory

    def segment(self, first: int) -> Path | None:
        path = self._directory / "log" / f"{first:012d}.tar"
        return path if path.exists() else None

    def record(self, epoch: int, sequence: int) -> Payload | None:
        return next((self._copied(found) for found in self._found({sequence})), None)

    def sound(self, epochs: Mapping[int, int]) -> Iterator[tuple[int, bool]]:
        """Each of its segments is read once, however many are asked for."""
        there = {found.header.position.sequence for found in self._found(epochs.keys())}
        yield from ((sequence, sequence in there) for sequence in sorted(epochs))

    def _found(self, wanted: Set[int]) -> Iterator[Found]:
        """Those that are sound here."""
        paths = [path for path in sorted((self._directory / "log").glob("*.tar")) if path.stem.isdecimal()]
        firsts = [int(path.stem) for path in paths]
        for place in sorted({bisect_right(firsts, sequence) for sequence in wanted} - {0}):
            walk = Walk(self._directory, verify=True, wanted=lambda header: header.position.sequence in wanted)
            walk.reached(firsts[place - 1] - 1, None)
            for found in walk.once(paths[place - 1], firsts[place] if place < len(firsts) else None):
                if isinstance(found, Found) and found.header.position.sequence in wanted and found.damage is None:
                    yield found

    def _copied(self, found: Found) -> Payload | None:
        """None where it is not what it was a moment ago. Raises StorageFull, OSError."""
        self.close()
        if found.tombstone:
            return BytesPayload(encode_stub(found.header, found.chain, found.tombstone))
        receiving = self._area.begin_raw(found.header.kind)
        try:
            for piece in found.payload.pieces():
                receiving.write(memoryview(piece))
        except RecordCorrupt:
            receiving.abandon()
            return None
        except (StorageError, OSError):
            receiving.abandon()
            raise
        staged = receiving.finish()
        if (staged.digest, staged.dataset_digest) != (found.header.digest, found.header.dataset):
            staged.release()
            return None
        return self._lend(found.header, found.chain, staged)


def refuse_stranger(node: OfflineNode, other: Path) -> None:
    """The first record of a log follows from nothing, and is not proved by its chain. Raises NoDirectory."""
    if other.samefile(node.directory):
        raise NoDirectory(f"{other} is the same directory: give that of another node")
    for path in sorted((other / "log").glob("*.tar")):
        try:
            with SegmentFile(path) as file:
                cluster = decode_segment_header(file.read(0, PAGE)).cluster_id
        except (FormatError, OSError):
            continue
        if cluster != node.identity.cluster_id:
            raise NoDirectory(f"{other} is of another cluster: {cluster}, and not {node.identity.cluster_id}")


class TierSource(_Lender):
    """The bucket. scratch: a directory of this node for what is fetched."""

    lacking = "a tier gives single records back: take it --from another node's directory, or use `perenne restore`"

    def __init__(self, store: ObjectStore, runner: asyncio.Runner, scratch: RealDisk) -> None:
        super().__init__(scratch)
        self._store = store
        self._runner = runner

    def segment(self, first: int) -> Path | None:
        """The objects of a tier are bare records: they have no table, and make no segment by themselves."""
        return None

    def record(self, epoch: int, sequence: int) -> Payload | None:
        self.close()
        found = self._runner.run(lend(self._store, epoch, sequence, self._area))
        if found is None:
            return None
        header, chain, payload = found
        if not isinstance(payload, Staged):
            return BytesPayload(encode_stub(header, chain, payload))
        return self._lend(header, chain, payload)

    def sound(self, epochs: Mapping[int, int]) -> Iterator[tuple[int, bool]]:
        yield from ((sequence, self.record(epochs[sequence], sequence) is not None) for sequence in sorted(epochs))
