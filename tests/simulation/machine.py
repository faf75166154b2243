"""One machine of the cluster: its disk, which outlives processes, and the process that a supervisor keeps running."""

from dataclasses import dataclass, field
from random import Random

from replication.core.values import Identity, Member, ReplicaId
from storage.position import GENESIS, LogPoint
from tests.simulation.disk import Medium
from tests.simulation.process import Process

MENDABLE = ("flipped bits", "rotten record")
"""Harm that scrub and mender make good."""
SUPERVISOR_US = (150_000, 2_000_000)


@dataclass(frozen=True, slots=True)
class GoneDisk:
    """A disk that was lost, with what was durable there: confirmations of it may still be on their way.

    by: the process that confirmed them. harmed: some of it may not have been readable any more.
    """

    medium: Medium
    durable: LogPoint
    by: Identity | None
    harmed: bool


@dataclass
class Machine:
    """harm: what was done to its disk that the promise must cover; empty while what it synced is there.

    durable: the newest record that the present disk's processes saw synced. kept: every chain that was durable here.
    stops: the process ended and nobody starts it again, with the reason: an operator must act.
    """

    number: int
    name: str
    medium: Medium = field(default_factory=Medium)
    process: Process | None = None
    host_boot: str = "host-0"
    incarnation: str = ""
    harm: str = ""
    harm_us: int = 0
    confirmed: int = 0
    """When it was last harmed, and what was durable there then."""
    durable: LogPoint = GENESIS
    tip: LogPoint = GENESIS
    cutting: LogPoint | None = None
    kept: dict[bytes, None] = field(default_factory=dict[bytes, None])
    promise: int = 0
    copied_promise: int = 0
    """What a disk that was put back promises, as long as no process has read it."""
    floor: LogPoint = GENESIS
    counter: int = 0
    restart_us: int = 0
    starts: int = 0
    hosts: int = 0
    stops: str = ""
    by: Identity | None = None
    """The process that took a step on the present disk last."""
    lost: list[GoneDisk] = field(default_factory=list[GoneDisk])
    snapshot: Medium | None = None
    snapshot_point: LogPoint = GENESIS
    snapshot_promise: int = 0
    bad_from_us: int = 0

    @property
    def promised(self) -> int:
        """The highest epoch that its disk has promised."""
        return max(self.promise, self.copied_promise)

    @property
    def member(self) -> Member:
        return Member(ReplicaId(self.name), self.incarnation)

    @property
    def alive(self) -> bool:
        return self.process is not None and not self.process.loop.dead

    @property
    def running(self) -> Process | None:
        """The process, if it is there and not paused."""
        process = self.process
        return process if process is not None and not process.loop.dead and not process.loop.paused else None

    def bits_flipped(self, harm: str, now_us: int) -> None:
        self.harm_us = now_us
        if self.harm in ("", *MENDABLE):
            self.harm = harm
        else:  # neither a scrub nor catching up makes it sound
            self.harm = f"{self.harm.partition(',')[0]}, and {harm}"
        self.confirmed = max(self.confirmed, self.durable.sequence)

    def new_disk(self) -> None:
        """Everything that was on the disk is gone."""
        self.disk_goes(harmed=bool(self.harm))
        self.medium = Medium()
        self.incarnation, self.stops, self.snapshot = "", "", None
        self.durable = self.tip = self.floor = self.snapshot_point = GENESIS
        self.promise = self.copied_promise = self.counter = self.confirmed = 0
        self.cutting = None
        self.kept = {}

    def disk_goes(self, *, harmed: bool) -> None:
        """Remember it."""
        self.lost.append(GoneDisk(self.medium, self.durable, self.by, harmed))

    def lose_power(self, chance: Random) -> int:
        """Returns how many sectors of unsynced writes are lost."""
        lost = self.medium.lose_power(chance)
        self.hosts += 1
        self.host_boot = f"host-{self.hosts}"
        return lost

    def holds(self, dataset: bytes, sequence: int, head: bytes = b"") -> bool:
        """Whether the medium itself has these bytes as what record `sequence` may contain. head: and these, without
        which they are no record.
        """
        # A disk that lies: what it reports as synced is what counts as its copy.
        return _contains(self.medium, dataset, sequence, head, believed=bool(self.harm))

    def evicted(self, sequence: int) -> bool:
        """Whether its log knows this record and has let go of its bytes: the bucket is to have them."""
        process = self.process
        return process is not None and process.log.is_evicted(sequence)

    def held(self, dataset: bytes, sequence: int) -> bool:
        """The same for the disks that were lost."""
        return any(_contains(gone.medium, dataset, sequence, b"", believed=True) for gone in self.lost)


def _contains(medium: Medium, dataset: bytes, sequence: int, head: bytes, *, believed: bool) -> bool:
    names = [n for n in medium.files if n.startswith("log/0") and int(n[4:16]) <= sequence]
    if not names:
        return False
    content = medium.files[max(names)]
    images = (content.medium, content.cached) if believed else (content.medium,)
    return any(dataset in image and head in image for image in images)
