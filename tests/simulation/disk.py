"""A disk in memory that knows what is on the medium and what only the page cache holds.

Faults: `crash` with the power (each 512-byte sector of each unsynced write is there or not: torn and lost writes), a
power cut or a kill in the middle of an operation, EIO on fsync with the pages marked clean (reads still show them, the
medium does not have them), ENOSPC, slowness and hanging, a synced write that never reached the medium, one that went
to another place, flipped bits, wiping, and `snapshot`/`restore` (a disk rolled back, promise and floor included).

Names are durable when a call returns, as `storage.disk.Disk` demands.
"""

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from storage.disk import Buffer, DiskFile
from storage.errors import LogLocked, SegmentPoisoned, StorageFull
from tests.simulation.world import PowerCut

SECTOR = 512
PAGE = 4096
SYNC_US = 120
ROOM = 1 << 30


@dataclass(slots=True, eq=False)
class Content:
    """medium: what survives a power cut. cached: what a read sees. unsynced: writes since the last sync, in order."""

    medium: bytearray = field(default_factory=bytearray)
    cached: bytearray = field(default_factory=bytearray)
    unsynced: list[tuple[int, bytes]] = field(default_factory=lambda: list[tuple[int, bytes]]())

    def written_back(self) -> bytearray:
        """The medium after what the system writes back by itself."""
        found = bytearray(self.medium)
        for offset, data in self.unsynced:
            found.extend(bytes(max(0, offset + len(data) - len(found))))
            found[offset : offset + len(data)] = data
        return found

    def copy(self) -> "Content":
        return Content(bytearray(self.medium), bytearray(self.cached), list(self.unsynced))


@dataclass(slots=True, eq=False)
class Medium:
    """What lies in one machine; it outlives processes. `index` stands for the index file."""

    files: dict[str, Content] = field(default_factory=lambda: dict[str, Content]())
    room: int = ROOM
    index: sqlite3.Connection | None = None

    def snapshot(self) -> "Medium":
        """What is on the medium now, without what only the cache holds."""
        files = {name: Content(bytearray(c.medium), bytearray(c.medium)) for name, c in self.files.items()}
        return Medium(files, self.room)

    def lose_power(self, chance: Random) -> int:
        """Keep of every unsynced write some sectors; return how many sectors were lost."""
        lost = 0
        for content in self.files.values():
            for offset, data in content.unsynced:
                keep_all, drop_all = chance.random() < 0.2, chance.random() < 0.3
                end = offset + len(data)
                if len(content.medium) < end:
                    content.medium.extend(bytes(end - len(content.medium)))
                at = offset
                while at < end:
                    upto = min(end, (at // SECTOR + 1) * SECTOR)
                    if keep_all or (not drop_all and chance.random() < 0.5):
                        content.medium[at:upto] = data[at - offset : upto - offset]
                    else:
                        lost += 1
                    at = upto
            content.unsynced.clear()
            content.cached = bytearray(content.medium)
        return lost

    def evict(self) -> None:
        """The page cache forgets what it believes to be clean."""
        for content in self.files.values():
            if not content.unsynced:
                content.cached = bytearray(content.medium)

    def holds(self, payload: bytes) -> bool:
        """Whether the log on the medium contains these bytes."""
        return any(payload in c.medium for name, c in self.files.items() if name.startswith("log/0"))

    def saved(self, payload: bytes) -> bool:
        return any(payload in c.medium for name, c in self.files.items() if name.startswith("lost+found/"))


class SimDisk:
    """One process's view of a medium: the production protocol `storage.disk.Disk`. Useless once the process is dead.

    before(operation, name): called before each; may raise PowerCut, or an OSError that the operation then meets.
    """

    def __init__(self, medium: Medium) -> None:
        self.medium = medium
        self.dead = False
        self.slow_us = 0
        self.cost_us = 0
        """Time that operations took since somebody set it to 0."""
        self.before: Callable[[str, str], None] = lambda operation, name: None
        self.lose_next_write = False
        self.misdirect_next_write = False
        self._locked: set[str] = set()

    def touch(self, operation: str, name: str) -> None:
        if self.dead:
            raise PowerCut
        if operation != "read":
            self.before(operation, name)
            self.cost_us += (SYNC_US if operation == "sync" else 10) + self.slow_us

    def reserve(self, size: int) -> None:
        if size > self.medium.room:
            raise StorageFull("the disk is full")
        self.medium.room -= size

    def open(self, name: str, *, create: bool = False, direct: bool = False) -> DiskFile:
        self.touch("open", name)
        if name not in self.medium.files:
            if not create:
                raise FileNotFoundError(name)
            self.medium.files[name] = Content()
        return SimFile(self, self.medium.files[name], name)

    def preallocate(self, name: str, size: int, *, zeros: bool = True) -> None:
        self.touch("preallocate", name)
        self.reserve(size)
        self.medium.files[name] = Content(bytearray(size), bytearray(size))

    def write_atomically(self, name: str, data: bytes) -> None:
        self.touch("replace", name)
        self.reserve(len(data))
        self.medium.files[name] = Content(bytearray(data), bytearray(data))

    def read(self, name: str) -> bytes:
        self.touch("read", name)
        return bytes(self.medium.files[name].cached)

    def exists(self, name: str) -> bool:
        return name in self.medium.files or any(known.startswith(name + "/") for known in self.medium.files)

    def list(self, directory: str) -> list[str]:
        prefix = directory + "/" if directory else ""
        rest = [name[len(prefix) :] for name in self.medium.files if name.startswith(prefix)]
        return sorted(name for name in rest if "/" not in name)

    def rename(self, old: str, new: str) -> None:
        self.touch("rename", new)
        self.medium.files[new] = self.medium.files.pop(old)

    def remove(self, name: str) -> None:
        self.touch("remove", name)
        self.medium.room += len(self.medium.files.pop(name).cached)

    def make_directory(self, name: str) -> None:
        self.touch("mkdir", name)

    def sync_directory(self, name: str) -> None:
        self.touch("sync", name)

    def free_bytes(self) -> int:
        return self.medium.room

    def lock(self, name: str) -> None:
        if name in self._locked:
            raise LogLocked(name)
        self._locked.add(name)

    def path(self, name: str) -> Path | None:
        return None

    def close(self) -> None:
        self._locked.clear()


class SimFile:
    """One open file of a SimDisk."""

    def __init__(self, disk: SimDisk, content: Content, name: str) -> None:
        self._disk = disk
        self._content = content
        self._name = name
        self._poisoned = False

    def pread(self, size: int, offset: int) -> bytes:
        self._disk.touch("read", self._name)
        return bytes(self._content.cached[offset : offset + size])

    def pread_into(self, buffer: memoryview, offset: int) -> int:
        data = self.pread(len(buffer), offset)
        buffer[: len(data)] = data
        return len(data)

    def pwrite(self, parts: Sequence[Buffer], offset: int) -> None:
        self._refuse_if_poisoned()
        data = b"".join(bytes(part) for part in parts)
        content = self._content
        half = self._cut_short("write", data)
        if half is not None:
            data = half
        if (grown := offset + len(data) - len(content.cached)) > 0:
            self._disk.reserve(grown)
            content.cached.extend(bytes(grown))
        content.cached[offset : offset + len(data)] = data
        if self._disk.lose_next_write and self._name.startswith("log/"):
            self._disk.lose_next_write = False
        elif self._disk.misdirect_next_write and self._name.startswith("log/") and len(content.cached) > 2 * PAGE:
            self._disk.misdirect_next_write = False
            elsewhere = (offset + PAGE) % (len(content.cached) // PAGE * PAGE)
            content.unsynced.append((elsewhere, data[: len(content.cached) - elsewhere]))
        else:
            content.unsynced.append((offset, data))
        if half is not None:
            raise PowerCut

    def _cut_short(self, operation: str, data: bytes) -> bytes | None:
        """Return the part that is still written when the process is killed in the middle of it."""
        try:
            self._disk.touch(operation, self._name)
        except PowerCut:
            return data[: len(data) // 2 // SECTOR * SECTOR]
        except OSError as error:
            self._poisoned = True
            raise SegmentPoisoned(f"{operation} of {self._name} failed") from error
        return None

    def sync(self) -> None:
        self._refuse_if_poisoned()
        content = self._content
        try:
            self._disk.touch("sync", self._name)
        except OSError as error:
            self._poisoned = True
            content.unsynced.clear()  # marked clean, as kernels do
            raise SegmentPoisoned(f"fdatasync of {self._name} failed") from error
        if len(content.medium) != len(content.cached):
            content.medium.extend(bytes(len(content.cached) - len(content.medium)))
        for offset, data in content.unsynced:
            content.medium[offset : offset + len(data)] = data
        content.unsynced.clear()

    def end_direct(self) -> None:
        pass

    def drop_cache(self) -> None:
        self._disk.touch("read", self._name)
        if not self._content.unsynced:
            self._content.cached[:] = self._content.medium

    def truncate(self, size: int) -> None:
        self._disk.touch("truncate", self._name)
        for image in (self._content.cached, self._content.medium):
            del image[size:]
            image.extend(bytes(size - len(image)))

    def size(self) -> int:
        return len(self._content.cached)

    def close(self) -> None:
        pass

    def _refuse_if_poisoned(self) -> None:
        if self._poisoned:
            raise SegmentPoisoned(f"{self._name} was poisoned by an earlier failure")
