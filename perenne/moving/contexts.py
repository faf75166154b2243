"""Which presentation contexts to propose: a pair of SOP class and transfer syntax each, at most 128 to an association.

One context names one transfer syntax, so that an instance is sent in the encoding that it has or not at all.
"""

import threading
from collections.abc import Sequence
from typing import Final

MOST: Final = 128
Pair = tuple[str, str]


class Pairs:
    """The pairs seen so far, the latest last; any thread may call.

    An archive with more than 128 of them is served by associations that propose different ones: whoever has an instance
    of a pair that his association lacks opens another one, with this pair and those seen last.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[Pair, None] = {}

    def note(self, pair: Pair) -> None:
        with self._lock:
            self._seen.pop(pair, None)
            self._seen[pair] = None

    def proposal(self, wanted: Pair) -> list[tuple[str, Sequence[str]]]:
        """`wanted` first, then those seen last."""
        with self._lock:
            latest = [pair for pair in reversed(self._seen) if pair != wanted]
        return [(sop_class, (syntax,)) for sop_class, syntax in [wanted, *latest[: MOST - 1]]]
