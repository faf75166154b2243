"""What a node tells an operator's verbs over HTTP (`/standing`), and the copy of `state` that it keeps for them."""

import asyncio
import logging
from pathlib import Path
from typing import Any, Final

from perenne.lostfound import look, names
from replication.core.values import ClusterState
from replication.replicator import Replicator
from replication.standing import describe, newest, recall, remember
from storage.disk import Disk
from storage.errors import StorageError

_LOG: Final = logging.getLogger("perenne.standing")
LOOK_S: Final = 0.5
LISTED: Final = 1000
"""Files of lost+found that are told one by one."""


class StandingReport:
    """Of one node."""

    def __init__(self, replicator: Replicator, disk: Disk, data_dir: Path) -> None:
        self._replicator = replicator
        self._disk = disk
        self._data_dir = data_dir
        self._recalled = recall(disk)
        """The newest that this node ever read: also when the coordination service has it no more."""

    async def document(self) -> dict[str, Any]:
        saved = await asyncio.to_thread(self._saved)
        return {**self.facts(), "lost_and_found": saved}

    def facts(self) -> dict[str, Any]:
        """On the event loop."""
        return describe(self._replicator, self._recalled)

    def _saved(self) -> list[dict[str, Any]]:
        """What lies in lost+found, headers only."""
        found: list[dict[str, Any]] = []
        for name in names(self._data_dir)[:LISTED]:
            try:
                saved = look(self._data_dir, name, verify=False)
            except OSError as error:
                found.append({"name": name, "error": str(error.strerror)})
            else:
                found.append({"name": name, "sequence": saved.sequence, "sop_instance_uid": saved.sop_instance_uid})
        return found

    async def keep(self) -> None:
        """Write `state` down whenever a later one was read. Nothing waits for it, and nothing rests on it."""
        while True:
            known = newest(self._recalled, self._replicator.core.situation.cluster)
            if known is not None and known != self._recalled:
                self._recalled = known
                await self._write(known)
            await asyncio.sleep(LOOK_S)

    async def _write(self, state: ClusterState) -> None:
        try:
            await asyncio.to_thread(remember, self._disk, state)
        except (StorageError, OSError) as error:
            _LOG.warning("the cluster state could not be written down", extra={"reason": str(error)})
