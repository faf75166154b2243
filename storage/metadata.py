"""What a data directory knows of itself: node.json, and the promise file."""

import json
import struct
from dataclasses import dataclass, replace
from typing import Final

from blake3 import blake3

from storage.disk import Disk, DiskFile
from storage.errors import FormatError, LogContradiction
from storage.position import GENESIS, LogPoint, LogPosition

NODE_FILE: Final = "node.json"
PROMISE_FILE: Final = "promise"
RESTORE_FILE: Final = "restore.json"
"""There while a restore fills the directory, and for good in one that is for looking only."""
FORMAT: Final = 1
_SLOT_BYTES: Final = 4096
_SLOT: Final = struct.Struct(">16sQQQQ32sQ64s")
_MAGIC: Final = b"perenne-promise\n"
PROMISE_MISSING: Final = (
    f"the file `{PROMISE_FILE}` is missing, so what this node swore is not known. Either put the file back as it was"
    " when the node stopped (not an older copy), or, if other replicas hold everything, move the data directory away"
    " and start with an empty one: the node comes back as a new incarnation and is filled"
)


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """incarnation: random id of this formatted directory; a new disk is a new incarnation."""

    cluster_id: str
    node_id: str
    incarnation: str
    format: int = FORMAT


def read_identity(disk: Disk) -> NodeIdentity | None:
    """Return what node.json says, None in a directory that was never formatted.

    Raises FormatError, also where a restore is not finished: what is there is not all of it.
    """
    if disk.exists(RESTORE_FILE):
        raise FormatError(
            f"`{RESTORE_FILE}` says that a restore into this directory is not finished, or was for looking only:"
            " run the same `perenne restore` again, or give another data_dir"
        )
    if not disk.exists(NODE_FILE):
        return None
    try:
        facts = json.loads(disk.read(NODE_FILE))
        identity = NodeIdentity(
            str(facts["cluster_id"]), str(facts["node_id"]), str(facts["incarnation"]), int(facts["format"])
        )
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{NODE_FILE} cannot be read: {error}") from error
    if identity.format != FORMAT:
        raise FormatError(f"{NODE_FILE}: format {identity.format} is not known to this version")
    return identity


def write_identity(disk: Disk, identity: NodeIdentity) -> None:
    """Format a data directory. Raises LogContradiction when it has an identity already, FormatError when it holds a
    log and no promise.
    """
    if disk.exists(NODE_FILE):
        raise LogContradiction(f"{NODE_FILE} exists already")
    # The promise first: whoever finds an identity without one knows that it was lost, not that it was never made.
    if not disk.exists(PROMISE_FILE):
        if disk.list("log"):
            raise FormatError(PROMISE_MISSING)
        disk.write_atomically(PROMISE_FILE, bytes(_SLOT_BYTES) + _encode(1, Promise()))
    facts = {
        "cluster_id": identity.cluster_id,
        "node_id": identity.node_id,
        "incarnation": identity.incarnation,
        "format": identity.format,
    }
    disk.write_atomically(NODE_FILE, json.dumps(facts, indent=2).encode() + b"\n")


@dataclass(frozen=True, slots=True)
class Promise:
    """What this node has sworn, fsynced; no number in it ever falls.

    epoch: the highest it serves. floor: a point known to be committed. counter: the highest change
    counter read
    from `state`. host_boot: the boot id of the machine when this was written.
    """

    epoch: int = 0
    floor: LogPoint = GENESIS
    counter: int = 0
    host_boot: str = ""


class PromiseFile:
    """Two checksummed slots in turn: a torn write leaves the older promise, and the newer was not
    yet relied on.

    Made by `write_identity` and never again: zeros in place of a lost promise would let this incarnation confirm to a
    deposed leader. Raises FormatError when it is missing or neither slot can be read: such a node must not guess;
    SegmentPoisoned.
    """

    def __init__(self, disk: Disk) -> None:
        if not disk.exists(PROMISE_FILE):
            raise FormatError(PROMISE_MISSING)
        self._file: DiskFile = disk.open(PROMISE_FILE)
        # What a killed process left in the page cache is not on the medium yet, and what a failed fsync left there as
        # "clean" never will be: a promise is believed only as it would be read after a power cut.
        self._file.sync()
        self._file.drop_cache()
        found = _newest(self._file.pread(2 * _SLOT_BYTES, 0))
        if found is None:
            raise FormatError("the promise file is damaged in both slots")
        self._number, self._value = found

    @property
    def value(self) -> Promise:
        return self._value

    def store(
        self,
        *,
        epoch: int | None = None,
        floor: LogPoint | None = None,
        counter: int | None = None,
        host_boot: str | None = None,
    ) -> Promise:
        """Raise what is given, fsync, and return the promise; lower values are ignored.

        Raises SegmentPoisoned.
        """
        old = self._value
        new = replace(
            old,
            epoch=max(old.epoch, epoch or 0),
            floor=floor if floor is not None and floor.sequence > old.floor.sequence else old.floor,
            counter=max(old.counter, counter or 0),
            host_boot=old.host_boot if host_boot is None else host_boot,
        )
        if new != old:
            number = self._number + 1
            self._file.pwrite([_encode(number, new)], number % 2 * _SLOT_BYTES)
            self._file.sync()
            self._number, self._value = number, new
        return new

    def close(self) -> None:
        self._file.close()


def newest_promise(content: bytes) -> Promise | None:
    """Return the promise that a file holds; None when both slots are damaged. For looking only."""
    found = _newest(content)
    return None if found is None else found[1]


def _newest(content: bytes) -> tuple[int, Promise] | None:
    slots = (_decode(content[number * _SLOT_BYTES : (number + 1) * _SLOT_BYTES]) for number in (0, 1))
    return max((slot for slot in slots if slot is not None), key=lambda slot: slot[0], default=None)


def _encode(number: int, promise: Promise) -> bytes:
    boot = promise.host_boot.encode()
    if len(boot) > 64:
        raise FormatError("the host boot id is longer than 64 bytes")
    floor = promise.floor
    body = _SLOT.pack(_MAGIC, number, promise.epoch, floor.epoch, floor.sequence, floor.chain, promise.counter, boot)
    return (body + blake3(body).digest()).ljust(_SLOT_BYTES, b"\0")


def _decode(page: bytes) -> tuple[int, Promise] | None:
    body = page[: _SLOT.size]
    if len(body) < _SLOT.size or blake3(body).digest() != page[_SLOT.size :][:32]:
        return None
    magic, number, epoch, floor_epoch, floor_sequence, chain, counter, boot = _SLOT.unpack(body)
    if magic != _MAGIC:
        return None
    floor = LogPoint(LogPosition(floor_epoch, floor_sequence), chain)
    return number, Promise(epoch, floor, counter, boot.rstrip(b"\0").decode())
