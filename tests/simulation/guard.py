"""What the lists of guards are made of."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Guard:
    """`old` is in `file` exactly once; `new` takes the guard away. shown_by: the test (a pytest id) that fails then.

    needless: why nothing can fail without it, as "kept although …" goes on, where it is kept as a second belt.
    """

    name: str
    file: str
    old: str
    new: str
    shown_by: str = ""
    needless: str = ""
