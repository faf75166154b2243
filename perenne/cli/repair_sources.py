"""Where `perenne repair` takes sound bytes from: another node's data directory, or the tier."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from replication.tier.lending import lend
from replication.tier.port import ObjectStore
from storage.disk import RealDisk
from storage.rawrecord import WholeRecord
from storage.reader import BytesPayload, Payload
from storage.record import encode_stub
from storage.staging import Staged, StagingArea
from storage.walk import Bytes, Found, Walk

POOL_BYTES: Final = 64 * 1024 * 1024


class DirectorySource:
    """The data directory of another node of the cluster, which may be running: nothing is locked or written."""

    lacking = "the other directory does not have it"

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def segment(self, first: int) -> Path | None:
        path = self._directory / "log" / f"{first:012d}.tar"
        return path if path.exists() else None

    def record(self, epoch: int, sequence: int) -> Payload | None:
        paths = sorted((self._directory / "log").glob("*.tar"))
        held = [path for path in paths if path.stem.isdecimal() and int(path.stem) <= sequence]
        if not held:
            return None
        walk = Walk(self._directory, verify=True, wanted=lambda header: header.position.sequence == sequence)
        walk.reached(int(held[-1].stem) - 1, None)
        following = next((int(path.stem) for path in paths if path.stem.isdecimal() and path > held[-1]), None)
        for found in walk.once(held[-1], following):
            if isinstance(found, Found) and found.header.position.sequence == sequence and found.damage is None:
                if found.tombstone:
                    return BytesPayload(encode_stub(found.header, found.chain, found.tombstone))
                return WholeRecord(found.header, found.chain, _Lent(found.payload))
        return None


class _Lent:
    """The payload of a record in another directory."""

    def __init__(self, found: Bytes) -> None:
        self._found = found
        self.size = found.size

    def parts(self) -> Iterator[memoryview]:
        return (memoryview(piece) for piece in self._found.pieces())


class TierSource:
    """The bucket. scratch: a directory of this node for what is fetched."""

    lacking = "a tier gives single records back: take it --from another node's directory, or use `perenne restore`"

    def __init__(self, store: ObjectStore, runner: asyncio.Runner, scratch: RealDisk) -> None:
        self._store = store
        self._runner = runner
        self._scratch = scratch
        self._lent: Staged | None = None
        self._area = StagingArea(scratch, memory_instance_bytes=POOL_BYTES // 4, pool_bytes=POOL_BYTES)

    def segment(self, first: int) -> Path | None:
        """The objects of a tier are bare records: they have no table, and make no segment by themselves."""
        return None

    def record(self, epoch: int, sequence: int) -> Payload | None:
        if self._lent is not None:
            self._lent.release()
        found = self._runner.run(lend(self._store, epoch, sequence, self._area))
        self._lent = None
        if found is None:
            return None
        header, chain, payload = found
        if not isinstance(payload, Staged):
            return BytesPayload(encode_stub(header, chain, payload))
        self._lent = payload
        return WholeRecord(header, chain, payload)
