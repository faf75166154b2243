"""Files that are written again at each start, unless a person has changed them: then they are his."""

import hashlib
from pathlib import Path
from typing import Final

_MARK: Final = "# Written by script/up, "
_REST: Final = "; once you change it, it is yours and stays as it is."


def signed(body: str) -> str:
    """With a first line that tells whether the rest was changed since.

    >>> signed("x = 1").splitlines()[1]
    'x = 1'
    """
    return f"{_MARK}{_sum(body)}{_REST}\n{body}"


def changed(path: Path) -> bool:
    """Whether there is a file that is not as it was written here."""
    if not path.exists():
        return False
    first, _, body = path.read_text().partition("\n")
    return first != f"{_MARK}{_sum(body)}{_REST}"


def _sum(body: str) -> str:
    return hashlib.blake2b(body.encode(), digest_size=6).hexdigest()
