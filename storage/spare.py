"""Zeroed segments kept ready, so that a roll does not stall the write path while 256 MiB of
zeros are written.
"""

import threading
from typing import Final

from storage.disk import Disk
from storage.errors import StorageError
from storage.table import segment_file_bytes

PREFIX: Final = "spare-"
NEXT: Final = "next-"
"""A segment that has its header but not yet its name."""
REWRITTEN: Final = "rewritten-"
"""A sealed segment that is being written anew, and has not taken its place yet."""


class Spares:
    """Prepares up to `wanted` spare files in a thread of its own; with 0, each is made when it is needed.

    A spare is `log/spare-<n>`: not `*.tar`, so that a glob of the log never meets it.
    """

    def __init__(self, disk: Disk, segment_bytes: int, wanted: int) -> None:
        self._disk = disk
        self._size = segment_file_bytes(segment_bytes, 0)
        self._wanted = wanted
        self._changed = threading.Condition()
        self._closing = False
        self._ready: list[str] = []
        self._number = 0
        for name in disk.list("log"):
            if name.endswith(".tmp") or name.startswith((NEXT, REWRITTEN)):
                disk.remove(f"log/{name}")
            elif name.startswith(PREFIX):
                self._number = max(self._number, int(name.removeprefix(PREFIX)))
                self._ready.append(f"log/{name}")
        self._thread: threading.Thread | None = None
        if wanted:
            self._thread = threading.Thread(target=self._prepare, name="perenne-spare-segments", daemon=True)
            self._thread.start()

    @property
    def ready(self) -> int:
        with self._changed:
            return len(self._ready)

    def take(self, name: str, size: int) -> None:
        """Put a zeroed file of `size` bytes at `name`. Raises StorageFull with nothing left behind."""
        if size != self._size:
            # Written once, whole, by the record that needs it: zeros first would double its writes.
            self._disk.preallocate(name, size, zeros=False)
            return
        with self._changed:
            spare = self._ready.pop(0) if self._ready else None
            self._changed.notify_all()
        if spare is None:
            self._disk.preallocate(name, size)
        else:
            self._disk.rename(spare, name)

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _prepare(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or len(self._ready) < self._wanted)
                if self._closing:
                    return
                self._number += 1
                name = f"log/{PREFIX}{self._number}"
            try:
                self._disk.preallocate(name, self._size)
            except (StorageError, OSError):
                # No room now. The roll tries again itself and reports it; here wait until a spare
                # is asked for.
                with self._changed:
                    self._changed.wait(timeout=10)
                continue
            with self._changed:
                self._ready.append(name)
