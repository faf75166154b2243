"""What a store keeps of what it promises, tried at start: shown in `status`, and the judge of synchronous use.

A base probe that fails means that an acknowledgement resting on this store could be a lie. The others are a second
belt or housekeeping: nothing that is acknowledged depends on them (protocol, section 4). One thing no client can see:
whether a confirmed PUT has been synced to a disk (docs/tier.md says how to make SeaweedFS do it).
"""

import asyncio
import enum
import secrets
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from replication.tier.keys import PROBE
from replication.tier.port import AlreadyThere, ChecksumRefused, NotThere, ObjectStore, Stored, TierError, Unreachable

RACERS: Final = 8
_BODY: Final = b"perenne probes what this store keeps of what it promises\n" * 180


class Probe(enum.Enum):
    """One thing that is tried. The value is its name for people and in JSON."""

    WRITE_READ = "read after write"
    RANGE = "range read"
    LIST = "list after write"
    CHECKSUM = "wrong checksum refused"
    CONDITION = "conditional write"
    RACE = "one winner of a race"
    DELETE = "delete"


BASE: Final = frozenset({Probe.WRITE_READ, Probe.RANGE, Probe.LIST, Probe.CHECKSUM})
"""Without these no synchronous use."""

MEANING: Final = {
    Probe.WRITE_READ: "What was confirmed does not come back: nothing put here can be counted as a copy.",
    Probe.RANGE: "Parts of an object cannot be read: a takeover and reading an evicted segment need whole objects.",
    Probe.LIST: "A confirmed object is missing from LIST: a takeover would lead without acknowledged records.",
    Probe.CHECKSUM: "Bytes that were damaged on the way are kept, and confirmed.",
    Probe.CONDITION: "The second belt is missing: two nodes that write one key are told apart by digests alone.",
    Probe.RACE: "The second belt does not hold when it matters: several writers are told that they were first.",
    Probe.DELETE: "Small objects that a whole segment has replaced stay, and cost space.",
}
"""What a failure means."""


class Verdict(enum.Enum):
    """NOT_TRIED: an earlier failure left nothing to try it on."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_TRIED = "not tried"


@dataclass(frozen=True, slots=True)
class ProbeLine:
    """One probe's outcome. found: what was seen, for people. next_step: what to do, empty where it passed.

    means: what the failure means, where a promise was seen broken; empty when the store could not be asked at all.
    """

    probe: Probe
    verdict: Verdict
    found: str
    means: str
    next_step: str
    milliseconds: float

    @property
    def base(self) -> bool:
        return self.probe in BASE

    def document(self) -> dict[str, object]:
        return {
            "probe": self.probe.value,
            "base": self.base,
            "verdict": self.verdict.value,
            "found": self.found,
            "means": self.means,
            "next_step": self.next_step,
            "milliseconds": round(self.milliseconds, 1),
        }


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """All of them, of one store at one time. store: where it is, without secrets."""

    store: str
    lines: tuple[ProbeLine, ...]

    @property
    def passed(self) -> bool:
        return all(line.verdict is Verdict.PASSED for line in self.lines)

    @property
    def conditional_writes(self) -> bool:
        """Whether `put` may ask for the store's condition (`only_if_absent`)."""
        wanted = {Probe.CONDITION, Probe.RACE}
        return wanted <= {line.probe for line in self.lines if line.verdict is Verdict.PASSED}

    def document(self) -> dict[str, object]:
        """For `status` and `--json`."""
        return {
            "store": self.store,
            "passed": self.passed,
            "synchronous_allowed": synchronous_refusal(self) is None,
            "synchronous_refusal": synchronous_refusal(self),
            "probes": [line.document() for line in self.lines],
        }


def synchronous_refusal(result: ProbeResult) -> str | None:
    """Say why no acknowledgement may rest on this store; None when it may.

    >>> synchronous_refusal(ProbeResult("a bucket", ()))
    'a bucket: not tried: read after write, range read, list after write, wrong checksum refused'
    """
    passed = {line.probe for line in result.lines if line.verdict is Verdict.PASSED}
    failed = {line.probe for line in result.lines if line.verdict is Verdict.FAILED}
    missing = [probe for probe in Probe if probe in BASE - passed]
    words = [
        f"{word}: {', '.join(probe.value for probe in found)}"
        for word, found in (
            ("failed", [probe for probe in missing if probe in failed]),
            ("not tried", [probe for probe in missing if probe not in failed]),
        )
        if found
    ]
    return f"{result.store}: {'; '.join(words)}" if words else None


@dataclass(frozen=True, slots=True)
class Trust:
    """What a node may do with a store. refusal: why no acknowledgement may rest on it; None when it may.

    conditional: puts ask for the store's condition. deletes: what was replaced may be deleted.
    """

    refusal: str | None = None
    conditional: bool = True
    deletes: bool = True


def trusted(result: ProbeResult) -> Trust:
    """Judge a store by its probes.

    >>> trusted(ProbeResult("a bucket", ())).deletes
    False
    """
    passed = {line.probe for line in result.lines if line.verdict is Verdict.PASSED}
    return Trust(synchronous_refusal(result), result.conditional_writes, Probe.DELETE in passed)


class _Failed(Exception):
    """A probe saw something else than it should have."""


async def probe(store: ObjectStore, where: str) -> ProbeResult:
    """Try everything on fresh keys below `probe/`, which are removed again as far as the store lets us.

    where: the store's description. Never raises TierError: that is a finding.
    """
    run = _Run(store)
    lines = [await run.line(Probe.WRITE_READ, run.write_read)]
    trials = (
        (Probe.RANGE, run.ranged),
        (Probe.LIST, run.listed),
        (Probe.CHECKSUM, run.checksum),
        (Probe.CONDITION, run.condition),
        (Probe.RACE, run.race),
        (Probe.DELETE, run.delete),
    )
    for name, trial in trials:
        if lines[0].verdict is Verdict.PASSED:
            lines.append(await run.line(name, trial))
        else:
            lines.append(ProbeLine(name, Verdict.NOT_TRIED, f"after {lines[0].probe.value} failed", "", "", 0.0))
    return ProbeResult(where, tuple(lines))


class _Run:
    """The trials, and the keys that they used. None but the conditional ones asks for a condition."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._prefix = f"{PROBE}{secrets.token_hex(8)}/"
        self._plain = f"{self._prefix}plain"
        self._used: list[str] = []

    async def line(self, name: Probe, trial: Callable[[], Awaitable[str]]) -> ProbeLine:
        loop = asyncio.get_running_loop()
        began = loop.time()
        verdict, means, next_step = Verdict.PASSED, "", ""
        try:
            found = await trial()
        except _Failed as failure:
            verdict, found, means = Verdict.FAILED, str(failure), MEANING[name]
            next_step = "Use another store, or mend this one."
        except TierError as error:
            verdict, found = Verdict.FAILED, error.cause
            means = "" if name is Probe.WRITE_READ or isinstance(error, Unreachable) else MEANING[name]
            next_step = error.next_step or "Look at the store, then probe again."
        return ProbeLine(name, verdict, found, means, next_step, (loop.time() - began) * 1000)

    async def write_read(self) -> str:
        await self._put(self._plain, _BODY)
        try:
            if await self._store.get(self._plain) != _BODY:
                raise _Failed("other bytes came back")
        except NotThere as error:
            raise _Failed("what was confirmed is not there") from error
        return f"{len(_BODY)} bytes came back"

    async def ranged(self) -> str:
        for offset, size in ((0, 16), (4096, 4096), (len(_BODY) - 5, 100)):
            if await self._store.get_range(self._plain, offset, size) != _BODY[offset : offset + size]:
                raise _Failed(f"{size} bytes from {offset} on are others")
        return "three ranges came back"

    async def listed(self) -> str:
        for number in range(3):
            key = f"{self._prefix}listed-{number}"
            await self._put(key, b"%d" % number)
            if key not in [found async for found in self._store.list(self._prefix)]:
                raise _Failed("a confirmed object is not in LIST")
        return "each of three was seen at once"

    async def checksum(self) -> str:
        key = f"{self._prefix}damaged"
        try:
            await self._put(key, _BODY, crc32=zlib.crc32(_BODY) ^ 1)
        except ChecksumRefused:
            return "refused"
        raise _Failed("bytes that do not match their checksum were taken")

    async def condition(self) -> str:
        key = f"{self._prefix}taken"
        await self._put(key, _BODY, only_if_absent=True)
        try:
            await self._put(key, _BODY[:-1], only_if_absent=True)
        except AlreadyThere:
            if await self._store.get(key) != _BODY:
                raise _Failed("the second write was refused, and done") from None
            return "the second write was refused"
        raise _Failed("a second write to one key was confirmed")

    async def race(self) -> str:
        key = f"{self._prefix}raced"
        bodies = [b"%d" % number for number in range(RACERS)]
        puts = (self._put(key, body, only_if_absent=True) for body in bodies)
        results = await asyncio.gather(*puts, return_exceptions=True)
        winners = [body for body, result in zip(bodies, results, strict=True) if result is Stored.CREATED]
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, AlreadyThere):
                raise result
        if len(winners) != 1:
            raise _Failed(f"{len(winners)} of {RACERS} writers at once were told that they were first")
        if await self._store.get(key) != winners[0]:
            raise _Failed("the winner's bytes are not those that stayed")
        return f"one of {RACERS} won"

    async def delete(self) -> str:
        for key in self._used:
            await self._store.delete(key)
        left = [key async for key in self._store.list(self._prefix)]
        if left:
            raise _Failed(f"{len(left)} deleted objects are still listed")
        return f"{len(self._used)} objects are gone"

    async def _put(self, key: str, body: bytes, *, crc32: int | None = None, only_if_absent: bool = False) -> Stored:
        if key not in self._used:
            self._used.append(key)
        return await self._store.put(key, body, crc32=crc32, only_if_absent=only_if_absent)
