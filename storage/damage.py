"""Which records are known to be damaged here: remembered on the disk, so that a restart does not make a node sound."""

import struct
import threading
from collections.abc import Callable
from typing import Final

from blake3 import blake3

from storage.disk import Disk
from storage.errors import FormatError, StorageError

DAMAGE_FILE: Final = "damaged"
_MAGIC: Final = b"perenne-damaged\n"
_HEAD: Final = struct.Struct(">16sQ")
_DIGEST_BYTES: Final = 32


class DamageRegister:
    """The sequences that failed a check and were not repaired since. Any thread may call.

    changed(): called after every change, in the thread that made it. Raises FormatError when the file that keeps them
    cannot be believed: what it said is not known, and such a node must not count as sound.
    """

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._lock = threading.Lock()
        self._known = frozenset(_decode(disk.read(DAMAGE_FILE))) if disk.exists(DAMAGE_FILE) else frozenset[int]()
        self._kept = self._known
        self.changed: Callable[[], None] = lambda: None

    @property
    def known(self) -> frozenset[int]:
        return self._known

    def note(self, *sequences: int) -> None:
        """Remember damage."""
        self._change(lambda known: known.union(sequences))

    def clear(self, *sequences: int) -> None:
        """These were read and verified, or repaired."""
        self._change(lambda known: known.difference(sequences))

    def cut_after(self, sequence: int) -> None:
        """What was cut is damaged no more."""
        self._change(lambda known: frozenset(number for number in known if number <= sequence))

    def _change(self, change: Callable[[frozenset[int]], frozenset[int]]) -> None:
        with self._lock:
            before = self._known
            # In memory at once, whatever the disk says: a full or dying one must not keep the node from knowing.
            self._known = change(before)
            changed = self._known != before
            if self._known != self._kept:
                self._keep()
        if changed:
            self.changed()

    def _keep(self) -> None:
        """Write the file. Where that fails it is tried again with the next change, and reads find the damage anew."""
        try:
            self._disk.write_atomically(DAMAGE_FILE, _encode(self._known))
        except (StorageError, OSError):
            return
        self._kept = self._known


def _encode(known: frozenset[int]) -> bytes:
    body = _HEAD.pack(_MAGIC, len(known)) + b"".join(sequence.to_bytes(8, "big") for sequence in sorted(known))
    return body + blake3(body).digest()


def _decode(content: bytes) -> list[int]:
    body, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    if len(body) < _HEAD.size or blake3(body).digest() != digest or not body.startswith(_MAGIC):
        raise FormatError(
            f"the file `{DAMAGE_FILE}` is damaged, so what was known to be damaged is not known: run"
            " `perenne log verify` on the data directory; if it finds"
            " nothing, remove the file, else empty the directory"
        )
    return [int.from_bytes(body[at : at + 8], "big") for at in range(_HEAD.size, len(body), 8)]
