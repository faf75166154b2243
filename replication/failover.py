"""How long a change of leader takes, as the node saw it that leads afterwards.

detect: from the last word of the leader before, or this node's own stepping down, until this node first stood; nothing
where none was heard. elect: from there until it held the lead, whatever attempts that took. recover: from there until
it took stores. All three are counted once it does: an attempt that came to nothing, or was another's, counts nowhere.
For people alone: nothing is decided by it.
"""

from typing import Final

from replication.core.leader import Leadership
from replication.core.replica import Replica
from replication.core.values import Phase
from storage.timing import TimingReport, Timings

PHASES: Final = ("detect", "elect", "recover")
_BOUNDS_S: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Failovers:
    """What is looked at after each step of the core: on a node whose part does not change, two comparisons."""

    def __init__(self, core: Replica) -> None:
        self._core = core
        self._timings = {phase: Timings(_BOUNDS_S) for phase in PHASES}
        self._leadership: Leadership | None = None
        """The one that this node held when it last looked."""
        self._accepted = False
        self._heard_ms: int | None = None
        self._stood_ms: int | None = None
        self._led_ms = 0

    def report(self) -> dict[str, TimingReport]:
        return {phase: timings.report() for phase, timings in self._timings.items()}

    def look(self, now_ms: int) -> None:
        core = self._core
        leadership = core.leadership
        if leadership is not self._leadership:
            self._changed(leadership, now_ms)
        if leadership is not None:
            if not self._accepted and leadership.phase is Phase.ACTIVE and core.situation.ports.catalogue.complete:
                self._accept(now_ms)
        elif core.candidacy is not None:
            if self._stood_ms is None:
                self._stood_ms = now_ms
        elif core.following.stream is not None:
            self._heard_ms, self._stood_ms = core.following.stream.heard_ms, None

    def _changed(self, leadership: Leadership | None, now_ms: int) -> None:
        if self._leadership is not None:
            self._heard_ms, self._stood_ms = now_ms, None
        self._leadership, self._accepted, self._led_ms = leadership, False, now_ms

    def _accept(self, now_ms: int) -> None:
        self._accepted = True
        stood_ms = self._stood_ms if self._stood_ms is not None else self._led_ms
        if self._heard_ms is not None:
            self._timings["detect"].took((stood_ms - self._heard_ms) / 1000)
        self._timings["elect"].took((self._led_ms - stood_ms) / 1000)
        self._timings["recover"].took((now_ms - self._led_ms) / 1000)
