"""What is refused, told in the log: the first of a kind at once, then how many there were, once a minute."""

import asyncio
import logging
from typing import Final

_LOG: Final = logging.getLogger("perenne.dimse.refusals")
_PERIOD_S: Final = 60.0
_KINDS: Final = 64
"""Kinds that are told apart within a period; no peer makes them grow beyond."""


class Refusals:
    """Belongs to one event loop. period_s: how often one kind may be in the log."""

    def __init__(self, period_s: float = _PERIOD_S) -> None:
        self._period_s = period_s
        self._more: dict[tuple[str, str], int] = {}
        self._timers: dict[tuple[str, str], asyncio.TimerHandle] = {}

    def tell(self, what: str, reason: str) -> None:
        """Count one. what, reason: fixed texts, never anything of a data set."""
        kind = (what, reason)
        if kind not in self._more and len(self._more) >= _KINDS:
            kind = (what, "other reasons")
        if kind in self._more:
            self._more[kind] += 1
            return
        self._write(kind, 1)

    def close(self) -> None:
        """Tell what was counted and not yet told."""
        for timer in self._timers.values():
            timer.cancel()
        for kind, count in self._more.items():
            if count:
                _LOG.warning(kind[0], extra={"reason": kind[1], "count": count})
        self._more.clear()
        self._timers.clear()

    def _write(self, kind: tuple[str, str], count: int) -> None:
        _LOG.warning(kind[0], extra={"reason": kind[1], "count": count})
        self._more[kind] = 0
        self._timers[kind] = asyncio.get_running_loop().call_later(self._period_s, self._period_over, kind)

    def _period_over(self, kind: tuple[str, str]) -> None:
        count = self._more.pop(kind)
        del self._timers[kind]
        if count:
            self._write(kind, count)
