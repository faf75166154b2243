"""What a scrub does next, and when: decisions alone. No clock, no disk, no thread; time and load are arguments.

A light pass reads headers, tables and chain of every record, a deep one every payload as well. A pass goes segment by
segment, up to what was durable when it began. Its place survives a restart, in a small file of the data directory.
"""

import enum
import json
from dataclasses import dataclass, field
from typing import Final

from blake3 import blake3

from storage.disk import Disk

SCRUB_FILE: Final = "scrub"
QUIET_S: Final = 1.0
"""Without stores and reads for so long, nobody is in the way."""
LOOK_S: Final = 0.25
"""While somebody is, that is looked at again after so long."""
LONGEST_WAIT_S: Final = 60.0
OVERDUE: Final = 2.0
"""Intervals without a complete pass, after which it goes on under load too, slowly."""
UNDER_LOAD: Final = 1 / 8
STEP_S: Final = 0.2
"""What is read without looking up: at most what the rate allows in so long."""
STEP_BYTES: Final = 32 * 1024 * 1024
LEAST_STEP_BYTES: Final = 1024 * 1024


class Depth(enum.Enum):
    """LIGHT: headers, tables, chain. DEEP: every payload too."""

    LIGHT = "light"
    DEEP = "deep"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubSettings:
    """Seconds between the starts of two passes, 0 for never; bytes read in a second, 0 for as fast as it goes."""

    light_every_s: float = 86_400.0
    deep_every_s: float = 7 * 86_400.0
    bytes_per_s: int = 100 * 1024 * 1024

    def every_s(self, depth: Depth) -> float:
        return self.light_every_s if depth is Depth.LIGHT else self.deep_every_s


@dataclass(slots=True)
class Pass:
    """verified_s: when the last complete pass began: every record from before was read since. began_s: of the pass
    under way; it covers records up to `upto`, and its next segment begins with `following` or later. Unix seconds.
    """

    verified_s: float | None = None
    began_s: float | None = None
    upto: int = 0
    following: int = 0


@dataclass(slots=True)
class Progress:
    """What survives a restart. first_s: when this node first looked after itself."""

    first_s: float
    passes: dict[Depth, Pass] = field(default_factory=lambda: {depth: Pass() for depth in Depth})

    def encode(self) -> bytes:
        facts: dict[str, object] = {"first_s": self.first_s}
        for depth, one in self.passes.items():
            facts[depth.value] = [one.verified_s, one.began_s, one.upto, one.following]
        body = json.dumps(facts).encode() + b"\n"
        return body + blake3(body).hexdigest().encode() + b"\n"

    def not_ahead(self, wall_s: float) -> None:
        """Times that lie ahead of the clock count as now: it was set back, and would have to catch up."""
        self.first_s = min(self.first_s, wall_s)
        for one in self.passes.values():
            one.verified_s = None if one.verified_s is None else min(one.verified_s, wall_s)
            one.began_s = None if one.began_s is None else min(one.began_s, wall_s)

    @classmethod
    def decode(cls, content: bytes, wall_s: float) -> "Progress | None":
        """None when it cannot be believed. Times that lie ahead of the clock count as now."""
        body, _, digest = content[:-1].rpartition(b"\n")
        body += b"\n"
        if blake3(body).hexdigest().encode() != digest:
            return None

        facts = json.loads(body)
        found = cls(float(facts["first_s"]))
        for depth in Depth:
            verified, began, upto, following = facts[depth.value]
            found.passes[depth] = Pass(verified, began, int(upto), int(following))
        found.not_ahead(wall_s)
        return found


def read_progress(disk: Disk, wall_s: float) -> Progress:
    """What an earlier process wrote; a new beginning where there is none, or where it is damaged."""
    found = Progress.decode(disk.read(SCRUB_FILE), wall_s) if disk.exists(SCRUB_FILE) else None
    return found or Progress(wall_s)


def write_progress(disk: Disk, progress: bytes) -> None:
    disk.write_atomically(SCRUB_FILE, progress)


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing for so long."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Read:
    """Read about so many bytes of the segment that begins with record `following` or after it."""

    depth: Depth
    following: int
    upto: int
    bytes: int


class ScrubPlan:
    """Decides. now_s: monotonic; wall_s: Unix. activity: any number that changes when somebody stores or reads."""

    def __init__(self, settings: ScrubSettings, progress: Progress) -> None:
        self._settings = settings
        self.progress = progress
        self._activity: int | None = None
        self._active_s = float("-inf")
        self._free_s = float("-inf")
        """When what was read last is paid for at the allowed rate."""
        self._asked: set[Depth] = set()
        """Passes under way that somebody asked for: they come first, and go on under load, slowly."""

    def next(self, now_s: float, wall_s: float, *, durable: int, activity: int) -> Wait | Read:
        """What to do now. durable: the last record that is on stable storage."""
        if activity != self._activity:
            if self._activity is not None:
                self._active_s = now_s
            self._activity = activity
        self.progress.not_ahead(wall_s)
        depth = self._due(wall_s)
        if depth is None:
            return Wait(self._until_due(wall_s))
        one = self.progress.passes[depth]
        if one.began_s is None:
            one.began_s, one.upto, one.following = wall_s, durable, 1
        busy = now_s - self._active_s < QUIET_S
        if busy and not self._overdue(depth, wall_s):
            return Wait(LOOK_S)
        if now_s < self._free_s:
            return Wait(min(self._free_s - now_s, LONGEST_WAIT_S))
        return Read(depth, one.following, one.upto, self._step(busy))

    def ask(self, depth: Depth, wall_s: float, *, durable: int) -> bool:
        """Somebody wants a pass now. False when one that was asked for is under way: it goes on."""
        if depth in self._asked:
            return False
        self._asked.add(depth)
        one = self.progress.passes[depth]
        one.began_s, one.upto, one.following = wall_s, durable, 1
        return True

    def read(self, now_s: float, size: int) -> None:
        """So much was read since the last `Read`."""
        rate = self._rate(now_s - self._active_s < QUIET_S)
        self._free_s = max(self._free_s, now_s - STEP_S) + (size / rate if rate else 0.0)

    def segment_done(self, depth: Depth, last: int) -> bool:
        """A segment was read to its end; true when that was the last one of the pass."""
        one = self.progress.passes[depth]
        one.following = last + 1
        if one.following <= one.upto:
            return False
        self._complete(depth)
        return True

    def nothing_left(self, depth: Depth) -> None:
        """There is no segment any more in what the pass was to read."""
        self._complete(depth)

    def age_s(self, depth: Depth, wall_s: float) -> float:
        """For how long nothing proves that all records are sound: since the last complete pass began."""
        return max(0.0, wall_s - self._since(depth))

    def _complete(self, depth: Depth) -> None:
        self._asked.discard(depth)
        one = self.progress.passes[depth]
        one.verified_s, one.began_s, one.upto, one.following = one.began_s, None, 0, 0

    def _since(self, depth: Depth) -> float:
        verified = self.progress.passes[depth].verified_s
        return self.progress.first_s if verified is None else verified

    def _due(self, wall_s: float) -> Depth | None:
        """The one that is the longest without, measured in its intervals: so neither starves the other."""
        if self._asked:
            return Depth.LIGHT if Depth.LIGHT in self._asked else Depth.DEEP
        due: list[tuple[float, Depth]] = []
        for depth in Depth:
            one, every = self.progress.passes[depth], self._settings.every_s(depth)
            began = one.began_s is not None or one.verified_s is None
            if every and (began or self.age_s(depth, wall_s) >= every):
                due.append((self.age_s(depth, wall_s) / every, depth))
        return max(due, key=lambda one: one[0])[1] if due else None

    def _until_due(self, wall_s: float) -> float:
        left = [self._since(depth) + every - wall_s for depth in Depth if (every := self._settings.every_s(depth)) > 0]
        return max(LOOK_S, min([*left, LONGEST_WAIT_S]))

    def _overdue(self, depth: Depth, wall_s: float) -> bool:
        return depth in self._asked or wall_s - self._since(depth) > OVERDUE * self._settings.every_s(depth)

    def _rate(self, busy: bool) -> float:
        return self._settings.bytes_per_s * (UNDER_LOAD if busy else 1.0)

    def _step(self, busy: bool) -> int:
        rate = self._rate(busy)
        return max(LEAST_STEP_BYTES, min(STEP_BYTES, int(rate * STEP_S))) if rate else STEP_BYTES
