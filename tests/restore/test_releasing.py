"""What a run kept aside beyond a gap goes once the gap is mended and the log has all of it, and nothing else goes."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from replication.restore import filling
from replication.restore.engine import Engine, Until
from replication.restore.filling import Filling
from replication.restore.releasing import Releasing
from replication.tier.keys import Run, run_name
from storage.position import LogPoint
from storage.record import decode_header, encode_header, encode_stub
from tests.restore.archive import Archive, body, groups, instance, marker, put, reopened, restored, segments
from tests.tier.rig import Reached, directory_reached

SIZE = 20_000
GROUP = 10


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs in three segments; the first two are full."""
    root = tmp_path_factory.mktemp("archive") / "data"
    made = Archive.begin(root)
    made.epoch(1)
    made.instances(250, size=SIZE)
    made.epoch(4)
    made.instances(100, size=SIZE)
    made.sealed()
    return root


@pytest.fixture
def tier(tmp_path: Path) -> Reached:
    return directory_reached(tmp_path / "san")


def upload(tier: Reached, archive: Path) -> list[Run]:
    """Groups, but for one whole segment with its table, as an uploader puts it."""
    log = reopened(archive)
    second = log.segments()[1]
    whole = (second.first, second.last or 0)
    spans = [(first, last) for first, last in groups(log, GROUP) if last < whole[0]]
    spans += [(spans[-1][1] + 1, whole[0] - 1)] + [span for span in groups(log, GROUP, whole[1] + 1)]
    runs = asyncio.run(put(tier.store, log, [span for span in spans if span[0] <= span[1]]))
    point = log.point_at(whole[1])
    assert point is not None
    runs.append(run_name(whole[0], point))
    asyncio.run(tier.store.put(runs[-1].key, b"".join(log.sealed_records(whole[0]).pieces())))
    log.close()
    return sorted(runs)


@pytest.fixture
def gap(archive: Path, tier: Reached, tmp_path: Path) -> Callable[[], None]:
    """A restore has met the gap at record 11; calling this mends it."""
    early = next(run for run in upload(tier, archive) if run.first == GROUP + 1)
    path, aside = tmp_path / "san" / early.key, tmp_path / "aside"
    path.rename(aside)
    report = restored(tier.store, tmp_path / "data")
    assert report.end.sequence == GROUP and all(kept.saved for kept in report.kept)
    return lambda: put_back(aside, path)


def put_back(aside: Path, path: Path) -> None:
    aside.rename(path)


def nothing(_releasing: Releasing, _durable: LogPoint) -> None:
    """In the place of a release."""


def aside(data: Path) -> list[Path]:
    return sorted((data / "lost+found").iterdir())


def room(data: Path) -> int:
    """What the files take on the disk."""
    return sum(path.stat().st_blocks * 512 for path in data.rglob("*") if path.is_file())


def test_it_goes_as_the_log_grows_so_the_archive_never_needs_its_room_twice(
    archive: Path, tier: Reached, gap: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    before, kept = room(data), len(aside(data))
    assert kept > 10 and before > 300 * SIZE, "nearly all of the archive lies there"
    gap()
    monkeypatch.setattr(filling, "_SYNC_BYTES", GROUP * SIZE)
    taken: list[int] = []
    left: list[int] = []

    def look(_done: int, _total: int, _arrived: int) -> None:
        taken.append(room(data))
        left.append(len(aside(data)))

    going_on = Filling.begin(data, marker())
    report = asyncio.run(Engine(tier.store, going_on, Until(), look).run())
    going_on.close()
    assert report.complete and segments(data) == segments(archive)
    assert (aside(data), report.released, report.staying) == ([], kept, {})
    assert f"{kept} files that an earlier run kept" in report.text() and report.document()["released"] == kept
    whole_segment = 4 * 1024 * 1024
    assert max(taken) < before + whole_segment + 4 * GROUP * SIZE, "one object, and what is not synced yet, at most"
    assert len(set(left)) > 8, "not at the end only"


def test_what_a_killed_run_left_to_release_goes_at_the_next(
    archive: Path, tier: Reached, gap: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the log was synced, before anything was removed; and, once, in the middle of a copy."""
    data = tmp_path / "data"
    first = aside(data)[0]
    with first.open("rb") as file:
        copied = file.read(3 * SIZE)
    Path(f"{first}.tmp").write_bytes(copied)
    gap()
    with monkeypatch.context() as patched:
        patched.setattr("replication.restore.releasing.Releasing.upto", nothing)
        assert restored(tier.store, data).complete
    assert len(aside(data)) > 10
    report = restored(tier.store, data)
    assert (report.records, aside(data), report.staying) == (0, [], {}) and report.released > 10


def test_a_gap_that_stays_keeps_what_lies_beyond_it(tier: Reached, gap: Callable[[], None], tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in aside(tmp_path / "data")}
    report = restored(tier.store, tmp_path / "data")
    assert not report.complete and (report.released, report.staying) == (0, {})
    assert {path: path.read_bytes() for path in aside(tmp_path / "data")} == before


def test_of_two_gaps_one_is_mended(archive: Path, tier: Reached, gap: Callable[[], None], tmp_path: Path) -> None:
    data = tmp_path / "data"
    (later,) = (tmp_path / "san").rglob("000000000031-*.tar")
    later.unlink()
    gap()
    report = restored(tier.store, data)
    assert report.end.sequence == 30 and report.released == 1
    assert [Path(kept.saved) for kept in report.kept] == [path.relative_to(data) for path in aside(data)][1:]
    assert [*report.staying] == [f"lost+found/{aside(data)[0].name}"] and "31" in aside(data)[0].name


# What is not proved stays


def other_branch(_data: bytes, tmp_path: Path) -> bytes:
    """The same positions, the same sizes, another chain."""
    made = Archive.begin(tmp_path / "branch")
    made.epoch(1)
    made.instances(19, size=SIZE - 1)
    made.instances(11, size=SIZE)
    try:
        return body(made.log, 21, 30)
    finally:
        made.sealed()


def header_altered(data: bytes, _tmp_path: Path) -> bytes:
    at = data.index(b"comment=seq=25 ")
    return data[: at + 8] + bytes([data[at + 8] ^ 1]) + data[at + 9 :]


def one_more(data: bytes, _tmp_path: Path) -> bytes:
    return data + data[: len(data) // 10]


def strange_end(data: bytes, _tmp_path: Path) -> bytes:
    return data + bytes(4096) + b"something" + bytes(4087)


def same_chain_said(data: bytes, _tmp_path: Path) -> bytes:
    """A header that is not the log's, under the chain that the log has there."""
    decoded = decode_header(data)
    head = encode_header(replace(decoded.header, digest=bytes(32)), decoded.chain)
    assert len(head) == decoded.payload_offset
    return head + data[len(head) :]


def payload_altered(data: bytes, _tmp_path: Path) -> bytes:
    at = data.index(instance(25, SIZE)) + 100
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def as_it_was(data: bytes, _tmp_path: Path) -> bytes:
    return data


@pytest.mark.parametrize("damage", [other_branch, header_altered, one_more, strange_end, same_chain_said])
def test_what_is_not_proved_by_the_chain_stays(
    damage: Callable[[bytes, Path], bytes], tier: Reached, gap: Callable[[], None], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    (path,) = (data / "lost+found").glob("beyond-*-000000000021-000000000030-*.tar")
    path.write_bytes(damage(path.read_bytes(), tmp_path))
    there = path.read_bytes()
    gap()
    report = restored(tier.store, data)
    assert report.complete and aside(data) == [path] and path.read_bytes() == there
    assert [*report.staying] == [f"lost+found/{path.name}"] and f"{path.name} stays: " in report.text()
    assert report.document()["staying"][0]["why"]


@pytest.mark.parametrize(("damage", "stays"), [(payload_altered, True), (as_it_was, False)])
def test_a_damaged_one_goes_only_if_it_does_not_differ(
    damage: Callable[[bytes, Path], bytes], stays: bool, tier: Reached, gap: Callable[[], None], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    (path,) = (data / "lost+found").glob("beyond-*-000000000021-000000000030-*.tar")
    damaged = path.with_name(path.name.removesuffix(".tar") + "-damaged.bin")
    damaged.write_bytes(damage(path.read_bytes(), tmp_path))
    gap()
    report = restored(tier.store, data)
    assert report.complete and aside(data) == ([damaged] if stays else [])
    assert len(report.staying) == stays


def test_bytes_that_the_log_has_no_more_stay(tier: Reached, archive: Path, tmp_path: Path) -> None:
    """A stub came in the place of what lies aside: the chain is the same, the bytes are not."""
    log = reopened(archive)
    runs = asyncio.run(put(tier.store, log, groups(log, GROUP)))
    early = tmp_path / "san" / runs[1].key
    early.rename(tmp_path / "early")
    data = tmp_path / "data"
    restored(tier.store, data)
    gone, point = log.read(25).header, log.point_at(25)
    assert point is not None
    raw = body(log, 21, 24) + encode_stub(gone, point.chain, 40) + body(log, 26, 30)
    log.close()
    asyncio.run(tier.store.delete(runs[2].key))
    asyncio.run(tier.store.put(runs[2].key, raw))
    put_back(tmp_path / "early", early)
    report = restored(tier.store, data)
    (path,) = aside(data)
    assert "-000000000021-000000000030-" in path.name and "does not hold its bytes" in str(report.staying)
