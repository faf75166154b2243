"""How long each of the stages takes that make a record safe: measured where the effects are carried out.

For people alone: nothing is decided by it. A record that was never written counts nowhere.
"""

from collections import deque
from time import perf_counter

from storage.timing import TimingReport, Timings


class Stages:
    """One node's. peer_ack, tier_put and commit are counted by whoever sends, puts and answers."""

    def __init__(self) -> None:
        self.local_fsync = Timings()
        self.peer_ack = Timings()
        self.tier_put = Timings()
        self.commit = Timings()
        self._queued: deque[tuple[int, float]] = deque()

    def queued(self, sequence: int) -> None:
        """A record was handed to the log thread."""
        self._queued.append((sequence, perf_counter()))

    def durable(self, sequence: int) -> None:
        """Everything up to here is on stable storage."""
        queued = self._queued
        if queued and queued[0][0] <= sequence:
            now, took = perf_counter(), self.local_fsync.took
            while queued and queued[0][0] <= sequence:
                took(now - queued.popleft()[1])

    def forget(self) -> None:
        """What was queued is not written, or not by this node: the log failed, or was cut."""
        self._queued.clear()

    def report(self) -> dict[str, TimingReport]:
        return {name: getattr(self, name).report() for name in ("local_fsync", "peer_ack", "tier_put", "commit")}
