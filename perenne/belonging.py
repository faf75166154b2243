"""Whom the files in a data directory belong to: a verb is typed by root, and the service runs as somebody else."""

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path


def given_back(directory: Path) -> None:
    """What root has made in a data directory is given to whom the directory belongs to: a service that runs as its own
    user could read none of it. A file that has further names is left alone, as it may be anybody's.
    """
    if os.geteuid() != 0:
        return
    try:
        owner = directory.stat()
    except OSError:
        return
    if owner.st_uid == 0:
        return
    for path in _below(directory):
        with contextlib.suppress(OSError):  # gone meanwhile
            found = path.lstat()
            alone = stat.S_ISDIR(found.st_mode) or (stat.S_ISREG(found.st_mode) and found.st_nlink == 1)
            if found.st_uid == 0 and alone:
                os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _below(directory: Path) -> Iterator[Path]:
    for root, directories, files in os.walk(directory):
        for name in (*directories, *files):
            yield Path(root, name)
