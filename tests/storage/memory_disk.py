"""A disk in memory that knows what is durable and what is not, and can fail. For tests and the simulator.

Names are durable when a call returns, as `storage.disk.Disk` demands. Bytes are durable after `sync`; until
then each 512-byte sector of each write may or may not have reached the medium.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from storage.disk import Buffer, DiskFile
from storage.errors import LogLocked, MediumUnreadable, SegmentPoisoned, StorageFull

SECTOR = 512
PAGE = 4096


def _pages(offset: int, size: int) -> range:
    return range(offset // PAGE, -(-(offset + size) // PAGE))


@dataclass
class Content:
    """durable: what survives a power cut. unsynced: the writes since the last sync, oldest first.

    unreadable: numbers of pages that are not given back until they are written whole.
    """

    durable: bytearray = field(default_factory=bytearray)
    volatile: bytearray = field(default_factory=bytearray)
    unsynced: list[tuple[int, bytes]] = field(default_factory=lambda: list[tuple[int, bytes]]())
    unreadable: set[int] = field(default_factory=set[int])

    def copy(self) -> "Content":
        return Content(bytearray(self.durable), bytearray(self.volatile), list(self.unsynced))


class MemoryFile:
    def __init__(self, disk: "MemoryDisk", content: Content, name: str) -> None:
        self._disk = disk
        self._content = content
        self._name = name
        self._poisoned = False

    def pread(self, size: int, offset: int) -> bytes:
        bad = self._content.unreadable
        if bad and not bad.isdisjoint(_pages(offset, size)):
            raise MediumUnreadable(f"{self._name} at {offset}")
        return bytes(self._content.volatile[offset : offset + size])

    def pread_into(self, buffer: memoryview, offset: int) -> int:
        data = self.pread(len(buffer), offset)
        buffer[: len(data)] = data
        return len(data)

    def pwrite(self, parts: Sequence[Buffer], offset: int) -> None:
        if self._poisoned:
            raise SegmentPoisoned(self._name)
        data = b"".join(bytes(part) for part in parts)
        self._disk.before("write", self._name)
        for page in self._content.unreadable.intersection(_pages(offset, len(data))):
            # Whole pages are written without a look at what lies there; a part of one is not.
            if not (offset <= page * PAGE and page * PAGE + PAGE <= offset + len(data)):
                raise SegmentPoisoned(f"{self._name}: a page must be read to be written in part")
            self._content.unreadable.discard(page)
        content = self._content
        if (grown := offset + len(data) - len(content.volatile)) > 0:
            self._disk.reserve(grown)
            content.volatile.extend(bytes(grown))
        content.volatile[offset : offset + len(data)] = data
        content.unsynced.append((offset, data))
        self._disk.after("write", self._name)

    def sync(self) -> None:
        if self._poisoned:
            raise SegmentPoisoned(self._name)
        try:
            self._disk.before("sync", self._name)
        except OSError as error:
            self._poisoned = True
            self._content.unsynced.clear()  # marked clean, as kernels do
            raise SegmentPoisoned(self._name) from error
        self._content.durable[:] = self._content.volatile
        self._content.unsynced.clear()
        self._disk.after("sync", self._name)

    def end_direct(self) -> None:
        pass

    def drop_cache(self) -> None:
        if not self._content.unsynced:
            self._content.volatile[:] = self._content.durable

    def truncate(self, size: int) -> None:
        for image in (self._content.volatile, self._content.durable):
            del image[size:]
            image.extend(bytes(size - len(image)))

    def size(self) -> int:
        return len(self._content.volatile)

    def close(self) -> None:
        pass


class MemoryDisk:
    """before(kind, name) may raise OSError or StorageFull to make an operation fail;
    after(kind, name) observes.
    """

    def __init__(self, room: int = 1 << 40) -> None:
        self.files: dict[str, Content] = {}
        self.directories = {""}
        self.before: Callable[[str, str], None] = lambda kind, name: None
        self.after: Callable[[str, str], None] = lambda kind, name: None
        self.room = room
        self._locked: set[str] = set()
        self._names = threading.Lock()

    def reserve(self, size: int) -> None:
        if size > self.room:
            raise StorageFull("the test's disk is full")
        self.room -= size

    def open(self, name: str, *, create: bool = False, direct: bool = False) -> DiskFile:
        with self._names:
            if name not in self.files:
                if not create:
                    raise FileNotFoundError(name)
                self.files[name] = Content()
            return MemoryFile(self, self.files[name], name)

    def preallocate(self, name: str, size: int, *, zeros: bool = True) -> None:
        self.before("preallocate", name)
        self.reserve(size)
        with self._names:
            self.files[name] = Content(bytearray(size), bytearray(size))
        self.after("preallocate", name)

    def write_atomically(self, name: str, data: bytes) -> None:
        self.before("replace", name)
        with self._names:
            self.files[name] = Content(bytearray(data), bytearray(data))
        self.after("replace", name)

    def read(self, name: str) -> bytes:
        return bytes(self.files[name].volatile)

    def exists(self, name: str) -> bool:
        return name in self.files

    def list(self, directory: str) -> list[str]:
        prefix = directory + "/" if directory else ""
        with self._names:
            rest = [name[len(prefix) :] for name in self.files if name.startswith(prefix)]
        return sorted(name for name in rest if "/" not in name)

    def rename(self, old: str, new: str) -> None:
        self.before("rename", new)
        with self._names:
            self.files[new] = self.files.pop(old)
        self.after("rename", new)

    def remove(self, name: str) -> None:
        self.before("remove", name)
        with self._names:
            content = self.files.pop(name)
        self.room += len(content.volatile)
        self.after("remove", name)

    def make_directory(self, name: str) -> None:
        self.directories.add(name)

    def sync_directory(self, name: str) -> None:
        pass

    def free_bytes(self) -> int:
        return self.room

    def lock(self, name: str) -> None:
        if name in self._locked:
            raise LogLocked(name)
        self._locked.add(name)

    def path(self, name: str) -> Path | None:
        return None

    def close(self) -> None:
        self._locked.clear()

    def copy(self) -> "MemoryDisk":
        other = MemoryDisk(self.room)
        other.files = {name: content.copy() for name, content in self.files.items()}
        return other
