"""Goal: a segment in the tier is what a group of its records would be, proved there; whatever is not right stays out.

Method: a real log on a real disk, real stores; damage in the log and in the store.
"""

import asyncio
import subprocess
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication import packing
from replication.core import effects as fx
from replication.core import events as ev
from replication.packing import Packer
from replication.tier import streaming
from replication.tier.contents import Link, RunReader, read_run
from replication.tier.keys import Run, run_name
from replication.tier.streaming import stream_run
from storage.disk import RealDisk
from storage.errors import FormatError, RecordCorrupt
from storage.log import Log
from storage.position import EpochSpan
from tests.storage.log_helpers import IDENTITY, append
from tests.tier.paper_bucket import PaperBucket, appended
from tests.tier.rig import Reached, run


@dataclass
class Holder:
    """A node's log of several segments and two epochs, and its hand."""

    log: Log
    reached: Reached
    packer: Packer
    directory: Path

    def spans(self) -> list[EpochSpan]:
        found = [self.log.sealed_at(segment.first) for segment in self.log.segments()]
        return [span for span in found if span is not None]

    def name(self, span: EpochSpan) -> Run:
        end = self.log.point_at(span.last)
        assert end is not None
        return run_name(span.first, end)

    def records(self, first: int, last: int) -> bytes:
        return b"".join(self.log.read_raw(sequence) for sequence in range(first, last + 1))

    def pack(self, span: EpochSpan) -> ev.TierPacked:
        return run(self.packer.pack(fx.PackSegment(1, span.first, span.last), conditional=True))

    def get(self, run_: Run) -> bytes:
        return run(self.reached.store.get(run_.key))


@pytest.fixture
def holder(reached: Reached, tmp_path: Path) -> Generator[Holder]:
    disk = RealDisk(tmp_path / "node")
    log, _ = Log.open(disk, IDENTITY, host_rebooted=False, spares=0)
    for number in range(30):
        append(log, 3000 + 500 * (number % 7), epoch=1 if number < 17 else 4)
    log.sync()
    pool = ThreadPoolExecutor(2)
    yield Holder(log, reached, Packer(log, disk, reached.store, pool, urgent=lambda: False), tmp_path / "node")
    pool.shutdown()
    log.close()


@pytest.mark.parametrize("in_memory", [0, packing.IN_MEMORY_BYTES])
def test_a_segment_is_the_bytes_of_its_records_and_nothing_else(
    holder: Holder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, in_memory: int
) -> None:
    monkeypatch.setattr(packing, "IN_MEMORY_BYTES", in_memory)
    monkeypatch.setattr(streaming, "RANGE_BYTES", 7000)
    for span in holder.spans()[:2]:
        event = holder.pack(span)
        assert (event.reason, event.moved) == ("", len(holder.records(span.first, span.last)))
        assert holder.get(holder.name(span)) == holder.records(span.first, span.last)
        assert holder.pack(span).moved == 0, "it is there already"
    whole = tmp_path / "whole.tar"
    whole.write_bytes(holder.get(holder.name(holder.spans()[0])) + bytes(1024))
    done = subprocess.run(["tar", "tf", str(whole)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "1.2/1.2.3/1.2.3.1.dcm"
    assert not done.stderr


def test_an_epoch_starts_a_segment_so_no_object_holds_two(holder: Holder) -> None:
    spans = holder.spans()
    assert {span.epoch for span in spans} == {1, 4}
    for span in spans:
        epochs = {
            entry.position.epoch for entry in holder.log.iterate(span.first) if entry.position.sequence <= span.last
        }
        assert epochs == {span.epoch}
    end = holder.log.point_at(18)
    assert end is not None
    with pytest.raises(FormatError, match="holds record"):
        read_run(run_name(17, end), holder.records(17, 18))


def test_what_is_damaged_here_does_not_leave_under_a_good_name(holder: Holder) -> None:
    span = holder.spans()[0]
    file = holder.directory / holder.log.segments()[0].name
    data = bytearray(file.read_bytes())
    data[data.index(b"1.2.3.2.dcm") + 1000] ^= 1
    file.write_bytes(bytes(data))
    event = holder.pack(span)
    assert not event.lasting
    assert "record 2 is damaged" in event.reason
    assert holder.log.damaged() == (2,)
    assert not run(keys(holder.reached))


def test_what_was_altered_in_the_bucket_is_found_and_replaces_nothing(holder: Holder) -> None:
    span = holder.spans()[1]
    assert not holder.pack(span).reason
    holder.reached.alter(holder.name(span).key)
    event = holder.pack(span)
    assert event.lasting
    assert "damaged" in event.reason


def test_what_was_replaced_is_deleted_and_deleting_it_again_is_no_error(holder: Holder) -> None:
    span = holder.spans()[0]
    small: list[Run] = []
    for sequence in range(span.first, span.last + 1):
        small.append(holder.name(EpochSpan(1, sequence, sequence)))
        run(holder.reached.store.put(small[-1].key, holder.log.read_raw(sequence)))
    assert not holder.pack(span).reason
    for _ in range(2):
        assert run(holder.packer.delete(fx.DeleteRuns(2, tuple(small)))) == ev.TierDeleted(2)
    assert run(keys(holder.reached)) == [holder.name(span).key]


async def keys(reached: Reached) -> list[str]:
    return [key async for key in reached.store.list("log/")]


# Reading piece by piece


@given(st.lists(st.integers(0, 200), min_size=1, max_size=6), st.integers(1, 9000), st.data())
def test_in_pieces_of_any_size_an_object_is_what_it_is_as_a_whole(
    salts: list[int], piece: int, data: st.DataObject
) -> None:
    bucket = PaperBucket()
    name = bucket.put(appended((), 1, salts))
    whole = bucket.objects[name]
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(whole) - 1))
        whole = whole[:place] + bytes([whole[place] ^ 1 << data.draw(st.integers(0, 7))]) + whole[place + 1 :]
    whole = whole[: data.draw(st.sampled_from([len(whole), len(whole) - 1, len(whole) // 2]))]
    outcomes: list[tuple[Link, ...] | type[Exception]] = []
    for size in (len(whole) + 1, piece):
        reader, links = RunReader(name), list[Link]()
        try:
            for at in range(0, len(whole), size):
                links += reader.feed(whole[at : at + size])
            reader.finish()
            outcomes.append(tuple(links))
        except (RecordCorrupt, FormatError):
            outcomes.append(ValueError)
    assert outcomes[0] == outcomes[1]
    assert (outcomes[0] is not ValueError) == (whole == bucket.objects[name])


def test_an_object_comes_in_ranges_and_one_that_is_left_early_leaves_nothing_behind(
    reached: Reached, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "RANGE_BYTES", 4096)
    bucket = PaperBucket()
    log = appended((), 1, list(range(9)))
    name = bucket.put(log)

    async def read(most: int) -> list[int]:
        await reached.store.put(name.key, bucket.objects[name])
        found: list[int] = []
        with ThreadPoolExecutor(1) as pool:
            stream = stream_run(reached.store, name.key, RunReader(name), pool)
            async for links in stream:
                found += [link.sequence for link in links]
                if len(found) >= most:
                    await stream.aclose()
                    break
        await asyncio.sleep(0)
        return found

    assert run(read(100)) == list(range(1, 11))
    assert run(read(2)) == [1, 2]
