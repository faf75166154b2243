"""How an operator reaches a standalone node: files in its data directory. Whoever may write there may give orders.

`ops/<id>.json` is an order, `ops/<id>.result.json` what came of it. Both are written whole, by a rename; whoever gave
the order takes them away, and a node that starts throws away what it finds.
"""

import asyncio
import os
from pathlib import Path
from typing import Final

from replication.coordination import codec
from replication.coordination.port import CoordinationCorrupt, CoordinationUnavailable, Operation
from storage.disk import Disk
from storage.errors import StorageError

DIRECTORY: Final = "ops"
_RESULT: Final = ".result.json"


class OrderBox:
    """The node's side."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        if disk.exists(DIRECTORY):
            for name in disk.list(DIRECTORY):
                disk.remove(f"{DIRECTORY}/{name}")
        else:
            disk.make_directory(DIRECTORY)

    def names(self) -> frozenset[str]:
        """The orders that lie there."""
        found = self._disk.list(DIRECTORY)
        return frozenset(name for name in found if name.endswith(".json") and not name.endswith(_RESULT))

    def orders(self) -> list[Operation]:
        """Those without a result; what is no order, or was taken away meanwhile, is left out."""
        found: list[Operation] = []
        for name in sorted(self.names()):
            try:
                order = codec.decode_operation(self._disk.read(f"{DIRECTORY}/{name}"))
            except (CoordinationCorrupt, StorageError, OSError):
                continue
            if not self._disk.exists(f"{DIRECTORY}/{order.id}{_RESULT}") and name == f"{order.id}.json":
                found.append(order)
        return found

    def finish(self, order: Operation, result: str) -> None:
        """Answer an order that lies there. Raises StorageError."""
        if self._disk.exists(f"{DIRECTORY}/{order.id}.json"):
            done = Operation(order.verb, order.id, order.arguments, result)
            self._disk.write_atomically(f"{DIRECTORY}/{order.id}{_RESULT}", codec.encode_operation(done))


class OrderDesk:
    """The operator's side, for one order after another."""

    def __init__(self, data_dir: Path) -> None:
        self._directory = data_dir / DIRECTORY
        self._given: str | None = None

    async def request_operation(self, operation: Operation) -> None:
        """Raises CoordinationUnavailable when no node has made the directory, or it may not be written."""
        self.close()
        try:
            await asyncio.to_thread(self._write, operation)
        except OSError as error:
            why = f"{self._directory}: {error.strerror}; is the node running, and may this user write there?"
            raise CoordinationUnavailable(why) from error
        self._given = operation.id

    def _write(self, operation: Operation) -> None:
        whole = self._directory / f"{operation.id}.json"
        unfinished = whole.with_suffix(".tmp")
        unfinished.write_bytes(codec.encode_operation(operation))
        if os.geteuid() == 0:  # whom the directory belongs to is to read it
            owner = self._directory.stat()
            os.chown(unfinished, owner.st_uid, owner.st_gid)
        unfinished.rename(whole)

    async def operations(self) -> tuple[Operation, ...]:
        try:
            return (codec.decode_operation((self._directory / f"{self._given}{_RESULT}").read_bytes()),)
        except (OSError, CoordinationCorrupt):
            return ()

    def close(self) -> None:
        """Take away what was given and what came of it."""
        if self._given is not None:
            for name in (f"{self._given}.json", f"{self._given}{_RESULT}"):
                (self._directory / name).unlink(missing_ok=True)
        self._given = None
