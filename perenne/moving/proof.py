"""Bytes are compared with their digest before anything is written under a name."""

import http.client
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from perenne.moving.content import IN_MEMORY, PIECE, Content, Held, InFile, Unreadable
from perenne.moving.holdings import Holding
from storage.digest import PayloadHasher
from storage.errors import RecordCorrupt


class Damaged(Exception):
    """No place gives the bytes that the digest names; the text says why."""


def proved(one: Holding, folder: Path) -> Content:
    """Get an instance from the first place that gives it whole. folder: for large ones. Raises Damaged."""
    whys: list[str] = []
    for place in one.places:
        try:
            content, digest = _gathered(place, one.size, folder)
        except (RecordCorrupt, Unreadable, http.client.HTTPException, OSError) as error:
            whys.append(str(error))
            continue
        if digest == one.digest:
            return content
        content.discard()
        whys.append(one.other(digest))
    raise Damaged("; ".join(dict.fromkeys(whys)))


def _gathered(place: Callable[[], Iterator[bytes | memoryview]], size: int, folder: Path) -> tuple[Content, bytes]:
    hasher = PayloadHasher()
    if size <= IN_MEMORY:
        data = b"".join(place())
        hasher.update(data)
        return Held(data), hasher.finish().digest
    descriptor, name = tempfile.mkstemp(dir=folder, prefix="spool-")
    path, written = Path(name), 0
    try:
        with os.fdopen(descriptor, "wb") as file:
            for piece in place():
                hasher.update(piece)
                file.write(piece)
                written += len(piece)
    except BaseException:  # Ctrl-C too: half a file is not left behind
        path.unlink()
        raise
    return InFile(path, written, temporary=True), hasher.finish().digest


def digest_of_file(path: Path) -> bytes:
    """Raises OSError."""
    hasher = PayloadHasher()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            hasher.update(piece)
    return hasher.finish().digest
