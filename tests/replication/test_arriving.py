"""Goal: a segment that comes in is proved while it does, is durable when it is said to be proved, and leaves nothing
behind where nobody wants it.
"""

import asyncio
import errno
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

import pytest

from replication import arriving
from replication.arriving import ArrivingSegment
from storage.errors import FormatError, RecordCorrupt, SegmentPoisoned
from storage.log import Log
from tests.storage.log_helpers import IDENTITY, append
from tests.storage.memory_disk import MemoryDisk

NAME = "staging/x"
RECORDS = 12


class Place:
    """Where a segment comes in: a log with nothing in it, and the two threads that care for what comes."""

    def __init__(self) -> None:
        source = MemoryDisk()
        sender = Log.open(source, IDENTITY, host_rebooted=False, spares=0)[0]
        append(sender, 9_000)
        while len(sender.segments()) == 1:
            append(sender, 9_000)
        self.last = sender.segments()[0].last
        self.content = source.read("log/000000000001.tar")
        entry = sender.entry(2)
        assert entry is not None
        self.second = entry.offset + entry.length
        self.disk = MemoryDisk()
        self.log = Log.open(self.disk, IDENTITY, host_rebooted=False, spares=0)[0]
        self.prover, self.syncer = ThreadPoolExecutor(1), ThreadPoolExecutor(1)

    def segment(self) -> ArrivingSegment:
        proof = self.log.proof(NAME, len(self.content))
        return ArrivingSegment(NAME, self.disk, proof, self.prover, self.syncer)

    def settle(self) -> None:
        """Wait until both have done what they were asked."""
        for worker in (self.syncer, self.prover):
            worker.submit(lambda: None).result()


@pytest.fixture
def place() -> Generator[Place]:
    place = Place()
    yield place
    place.prover.shutdown()
    place.syncer.shutdown()


@pytest.mark.parametrize("piece", [1_000, 4_096, 50_001, 10_000_000])
def test_it_is_proved_whatever_the_pieces_that_it_comes_in(place: Place, piece: int) -> None:
    segment, content = place.segment(), memoryview(place.content)
    for at in range(0, len(content), piece):
        segment.write(content[at : at + piece])
    segment.arrived()
    proved = asyncio.run(segment.proved())
    assert proved.end.sequence == place.last
    assert place.disk.files[NAME].durable == place.content, "what is proved is durable"
    assert place.log.install_segment(proved) == proved.end
    assert place.log.read(2).payload.size == 9_000


def test_one_damaged_record_refuses_all_of_it(place: Place) -> None:
    wrong = bytearray(place.content)
    wrong[place.second - 4_000] ^= 1
    segment = place.segment()
    for part in (memoryview(wrong)[: place.second], memoryview(wrong)[place.second :]):
        segment.write(part)
        place.settle()
    segment.arrived()
    with pytest.raises(RecordCorrupt) as refused:
        asyncio.run(segment.proved())
    assert refused.value.sequence == 2
    assert place.log.end.sequence == 0


def test_one_that_ends_early_is_refused(place: Place) -> None:
    segment = place.segment()
    segment.write(memoryview(place.content)[:-4_096])
    segment.arrived()
    with pytest.raises(FormatError, match="instead of"):
        asyncio.run(segment.proved())


@pytest.mark.parametrize("failing", [1, 2])
def test_what_the_disk_did_not_keep_is_not_proved(place: Place, failing: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever sync fails: that while more comes in, or the last one. Later ones would say that all is well."""
    monkeypatch.setattr(arriving, "SYNC_BYTES", len(place.content) // 2)
    syncs = 0

    def before(kind: str, name: str) -> None:
        nonlocal syncs
        if (kind, name) == ("sync", NAME):
            syncs += 1
            if syncs == failing:
                raise OSError(errno.EIO, "of the test")

    place.disk.before = before
    segment = place.segment()
    segment.write(memoryview(place.content))
    place.settle()
    segment.arrived()
    with pytest.raises(SegmentPoisoned):
        asyncio.run(segment.proved())
    assert syncs == failing


@pytest.mark.parametrize("whole", [False, True])
def test_what_nobody_wants_leaves_nothing_behind(place: Place, whole: bool) -> None:
    segment, content = place.segment(), memoryview(place.content)
    segment.write(content if whole else content[: place.second])
    if whole:
        segment.arrived()
    segment.discard()
    place.settle()
    assert place.disk.list("staging") == []
