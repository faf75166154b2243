"""The scrub on a simulated node: the production `Scrubber`, its plan, its thread's reading and its repairs.

It reads files past the page cache; here each step reads a copy of what lies on the simulated medium at that moment, in
a directory of this run. Light and deep passes come within seconds instead of days.
"""

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from replication.scrubber import Scrubber, ScrubReading, Step
from storage.scrub import Depth, Read, ScrubSettings
from storage.walk import Fault, Walk
from tests.simulation.disk import Medium
from tests.simulation.world import Violation

if TYPE_CHECKING:
    from tests.simulation.process import Process

SETTINGS = ScrubSettings(light_every_s=1.5, deep_every_s=2.5, bytes_per_s=0)


class Mirror:
    """A directory with one data directory per machine, of which only what is looked at is up to date."""

    def __init__(self) -> None:
        self._root = Path(tempfile.mkdtemp(prefix="perenne-simulated-"))

    def of(self, name: str) -> Path:
        directory = self._root / name
        (directory / "log").mkdir(parents=True, exist_ok=True)
        return directory

    def copy(self, name: str, medium: Medium, file: str) -> None:
        """What a read past the cache gives: the medium, and what the system writes back before such a read."""
        path, content = self.of(name) / file, medium.files.get(file)
        if content is None:
            path.unlink(missing_ok=True)
            return
        path.write_bytes(content.written_back())

    def damage(self, name: str, medium: Medium, durable: int) -> tuple[str, str]:
        """What `perenne verify` finds wrong with a whole log: of the records up to `durable`, and around them. What is
        being written may be half there.
        """
        directory = self.of(name)
        names = [file for file in medium.files if file.startswith("log/0")]
        for path in (directory / "log").iterdir():
            path.unlink()
        for file in names:
            self.copy(name, medium, file)
        walk = Walk(directory, verify=True)
        records = around = ""
        for path in walk.segments():
            for one in walk.segment(path):
                if not isinstance(one, Fault):
                    if one.damage is not None and one.header.position.sequence <= durable:
                        records = f"record {one.header.position.sequence}: {one.damage}"
                elif one.lost and (one.sequence or 0) <= durable:
                    records = f"{path.name}: {one.text}"
                elif not one.note and not one.lost:
                    around = f"{path.name}: {one.text}"
        for one in walk.finish():
            if one.lost and (one.sequence or 0) <= durable:
                records = f"record {one.sequence}: {one.text}"
        return records, around

    def close(self) -> None:
        shutil.rmtree(self._root, ignore_errors=True)


class SimReading(ScrubReading):
    """Reads from the mirror."""

    def __init__(self, process: "Process", mirror: Mirror) -> None:
        super().__init__(process.log, mirror.of(process.name))
        self._process = process
        self._mirror = mirror
        self.begun_us: dict[Depth, int | None] = dict.fromkeys(Depth)
        """When the pass under way began to read in this process."""
        self.upto: dict[Depth, int] = dict.fromkeys(Depth, 0)
        """The last record that it covers: what came later, even before it began to read, is the next one's."""
        self.unread: dict[Depth, bool] = dict.fromkeys(Depth, False)
        """Whether something around the records was damaged: what it hid is for the next pass to read."""

    def step(self, read: Read) -> Step:
        process = self._process
        process.disk.touch("read", "log")
        if read.following == 1:
            self.unread[read.depth] = False
            self.begun_us[read.depth], self.upto[read.depth] = process.world.now_us, read.upto
        known = [one for one in process.log.segments() if one.last is not None]
        wanted = [one for one in known if (one.last or 0) >= read.following and one.first <= read.upto]
        for one in wanted[:1]:
            self._mirror.copy(process.name, process.medium, one.name)
            process.disk.cost_us += 200
        done = super().step(read)
        faults = done.segment.faults if done.segment is not None else []
        self.unread[read.depth] |= any(not fault.note for fault in faults)
        return done


class SimScrubber(Scrubber):
    """Says when a pass came to its end."""

    def __init__(self, process: "Process", mirror: Mirror) -> None:
        self._sim_reading = SimReading(process, mirror)
        super().__init__(process.replicator, process.disk, SETTINGS, reading=self._sim_reading, step_back=lambda: None)
        self._process = process
        self.passes = 0
        self.verified_us = -1
        """When the last complete deep pass of this process began to read."""
        self.covered = 0
        """The last record that it covers."""
        self.judged_us = -1
        """Of the pass after which the simulator looked for itself."""

    async def after(self, depth: Depth, done: Step) -> None:
        underway = self.plan.progress.passes[depth]
        await super().after(depth, done)
        if underway.began_s is not None:
            return
        self.passes += 1
        begun_us, self._sim_reading.begun_us[depth] = self._sim_reading.begun_us[depth], None
        if depth is Depth.DEEP and begun_us is not None and not self._sim_reading.unread[depth]:
            self.verified_us, self.covered = begun_us, self._sim_reading.upto[depth]
        with contextlib.suppress(Violation):  # kept by the world, which raises it after this step
            self._process.observer.scrubbed(self._process)
