"""lost+found: bytes taken out of the log, kept byte for byte and fsynced before they are cut.

Never deleted here.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from storage.disk import Buffer, Disk
from storage.position import LogPoint

DIRECTORY: Final = "lost+found"
RESUBMITTED: Final = "resubmitted"
"""Below it, what an operator offered to the cluster again, and the cluster has: kept all the same."""


class LostAndFound:
    """Names: `<sequence>-<epoch>-<chain prefix>.tar` for whole records (each a tar member),
    `…-damaged.bin` for others.
    """

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        if DIRECTORY not in disk.list(""):
            disk.make_directory(DIRECTORY)

    def save_record(self, point: LogPoint, parts: Iterable[Buffer]) -> str:
        """Keep one valid record. Saving it again writes the same name and the same bytes."""
        stem = f"{point.sequence:012d}-{point.epoch}-{point.chain[:8].hex()}"
        return self._save(f"{DIRECTORY}/{stem}.tar", parts)

    def save_damaged(self, sequence: int, parts: Iterable[Buffer]) -> str:
        """Keep bytes that are no valid record, under a name not used before."""
        taken = set(self._disk.list(DIRECTORY))
        number = 1
        while (name := f"{sequence:012d}-{number}-damaged.bin") in taken:
            number += 1
        return self._save(f"{DIRECTORY}/{name}", parts)

    def save_segment(self, name: str, parts: Iterable[Buffer]) -> str:
        """Keep a whole segment under the name that was chosen for it."""
        return self._save(name, parts)

    def names(self) -> Sequence[str]:
        """What is kept, relative to the data directory; unfinished copies left out."""
        return [f"{DIRECTORY}/{name}" for name in self._disk.list(DIRECTORY) if not name.endswith(".tmp")]

    def _save(self, name: str, parts: Iterable[Buffer]) -> str:
        temporary = name + ".tmp"
        file = self._disk.open(temporary, create=True)
        try:
            file.truncate(0)
            offset = 0
            for part in parts:
                file.pwrite([part], offset)
                offset += len(part)
            file.sync()
        finally:
            file.close()
        self._disk.rename(temporary, name)
        return name
