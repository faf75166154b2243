"""One payload out of a log, into a file of its own."""

from pathlib import Path

from storage.digest import PayloadHasher
from storage.walk import Found


def copy_checked(found: Found, to: Path) -> bool:
    """Write a payload to a new file; False, and no file, when it does not match its digest. Raises OSError."""
    hasher = PayloadHasher(found.header.kind)
    part = to.with_name(f"{to.name}.part")  # Ctrl-C leaves no file that looks whole
    with part.open("wb") as file:
        for piece in found.payload.pieces():
            hasher.update(piece)
            file.write(piece)
    if hasher.finish().digest != found.header.digest:
        part.unlink()
        return False
    part.replace(to)
    return True
