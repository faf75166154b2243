"""Opening what a data directory holds: promise, log, and the settled tail (protocol, section 8)."""

import logging
from dataclasses import dataclass
from typing import Final

from storage.disk import Disk
from storage.log import Log, LogIdentity
from storage.metadata import PromiseFile

_LOG: Final = logging.getLogger("perenne.opening")
UNSETTLED: Final = "?"
"""Follows the boot id in the promise file until the log was found to hold everything committed: a process that is
restarted before that must wait for the other members as the first one after the reboot did."""


@dataclass(frozen=True, slots=True)
class Store:
    """host_rebooted: the machine restarted since this node last was in sync, so unsynced writes may be gone."""

    promise: PromiseFile
    log: Log
    host_rebooted: bool


def open_store(disk: Disk, identity: LogIdentity, *, host_boot: str, direct: bool, spares: int) -> Store:
    """Open promise and log.

    A torn tail goes to lost+found: if it was committed, another member has it, and the election or the stream brings
    it back (ADR 0002). A corrupt one stays until it is repaired, and such a node does not lead.

    Raises LogLocked, FormatError, LogContradiction, SegmentPoisoned, StorageFull.
    """
    promise = PromiseFile(disk)
    value = promise.value
    recorded = value.host_boot
    host_rebooted = recorded.removesuffix(UNSETTLED) not in ("", host_boot)
    unsettled = host_rebooted or recorded.endswith(UNSETTLED)
    log, report = Log.open(
        disk, identity, host_rebooted=host_rebooted, direct=direct, floor=value.floor.sequence, spares=spares
    )
    _LOG.info("opened the log", extra={"end": report.end.sequence, "seconds": round(report.seconds, 3)})
    tail = log.tail
    if tail is not None and not tail.torn:
        _LOG.critical("the end of the log is corrupt", extra={"first": tail.first})
        return Store(promise, log, unsettled)
    if tail is not None:
        names = log.cut_torn_tail()
        _LOG.warning("a torn tail was moved to lost+found", extra={"first": tail.first, "files": len(names)})
    promise.store(host_boot=host_boot + (UNSETTLED if unsettled else ""))
    return Store(promise, log, unsettled)
