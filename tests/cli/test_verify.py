"""Goal: `perenne log verify` misses nothing that is lost, and cries wolf over no node that writes.

Method: a real log on a real disk, with pages, entries and segments taken away behind its back.
"""

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from perenne.cli.verify import verify_directory
from storage.disk import RealDisk
from storage.log import Log
from storage.metadata import NodeIdentity, PromiseFile, write_identity
from storage.position import LogPoint, RecordHeader
from storage.record import encode_header
from storage.table import ENTRIES_OFFSET, ENTRY_BYTES, PAGE
from storage.walk import Fault, Found, Walk
from tests.integration.rig import perenne
from tests.storage.log_helpers import IDENTITY, append, record_after

SIZES = (100, 5000, 300, 9000, 40, 2000, 700)
FIRST = "log/000000000001.tar"


def opened(directory: Path) -> Log:
    directory.mkdir(exist_ok=True)
    return Log.open(RealDisk(directory), IDENTITY, host_rebooted=False, spares=0)[0]


def filled(directory: Path, epochs: int = 1, *, close: bool = True) -> Log:
    """Seven records per epoch; every epoch has a segment of its own."""
    log = opened(directory)
    for epoch in range(1, epochs + 1):
        for size in SIZES:
            append(log, size, epoch)
            log.sync()
    if close:
        log.close()
    return log


def verified(directory: Path) -> tuple[int, str]:
    done = perenne("log", "verify", str(directory))
    assert done.stderr == ""
    return done.returncode, done.stdout


def overwrite(file: Path, offset: int, data: bytes) -> None:
    with file.open("r+b") as opened_file:
        opened_file.seek(offset)
        opened_file.write(data)


def offset_of(directory: Path, sequence: int) -> int:
    log = opened(directory)
    entry = log.entry(sequence)
    log.close()
    assert entry is not None
    return entry.offset


@pytest.mark.parametrize("close", [True, False])
def test_a_whole_log_has_nothing_wrong(tmp_path: Path, close: bool) -> None:
    filled(tmp_path, 3, close=close)
    assert verified(tmp_path) == (0, "21 records, 0 damaged, 0 lost, 0 other faults\n")


@pytest.mark.parametrize("close", [True, False])
def test_a_page_of_zeros_at_a_record_loses_that_record_and_no_other(tmp_path: Path, close: bool) -> None:
    place = offset_of(tmp_path, 4) if filled(tmp_path) else 0
    if not close:
        shutil.rmtree(tmp_path)
        filled(tmp_path, close=False)
    overwrite(tmp_path / FIRST, place, bytes(PAGE))
    code, text = verified(tmp_path)
    assert code == 1
    assert "record 4" in text
    assert "6 records, 0 damaged, 1 lost" in text


def test_a_damaged_table_entry_is_noticed_and_its_record_still_checked(tmp_path: Path) -> None:
    filled(tmp_path)
    overwrite(tmp_path / FIRST, ENTRIES_OFFSET + 3 * ENTRY_BYTES + 20, b"damage")
    code, text = verified(tmp_path)
    assert code == 1
    assert "record 4: its table entry is damaged" in text
    assert "7 records, 0 damaged, 0 lost, 1 other faults" in text


def test_a_record_and_its_entry_may_both_be_gone(tmp_path: Path) -> None:
    filled(tmp_path)
    overwrite(tmp_path / FIRST, offset_of(tmp_path, 4), bytes(PAGE))
    overwrite(tmp_path / FIRST, ENTRIES_OFFSET + 3 * ENTRY_BYTES, bytes(ENTRY_BYTES))
    code, text = verified(tmp_path)
    assert code == 1
    assert "record 4 cannot be read" in text
    assert "6 records, 0 damaged, 1 lost" in text


def test_without_a_table_the_records_are_found_by_themselves(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    overwrite(tmp_path / FIRST, offset_of(tmp_path, 4), bytes(PAGE))
    overwrite(tmp_path / FIRST, ENTRIES_OFFSET, bytes(len(SIZES) * ENTRY_BYTES))
    code, text = verified(tmp_path)
    assert code == 1
    assert "13 records, 0 damaged, 1 lost" in text


@pytest.mark.parametrize(("gone", "lost"), [("000000000001", "1 to 7"), ("000000000008", "8 to 14")])
def test_a_missing_segment_is_noticed(tmp_path: Path, gone: str, lost: str) -> None:
    filled(tmp_path, 3)
    (tmp_path / "log" / f"{gone}.tar").unlink()
    code, text = verified(tmp_path)
    assert code == 1
    assert f"records {lost} are missing" in text
    assert "14 records, 0 damaged, 7 lost" in text


def test_a_segment_of_another_log_does_not_follow(tmp_path: Path) -> None:
    filled(tmp_path / "a", 3)
    other = opened(tmp_path / "b")
    for epoch in (1, 2, 3):
        for size in SIZES:
            append(other, size, epoch, salt=3)
    other.close()
    shutil.copy(tmp_path / "b/log/000000000008.tar", tmp_path / "a/log/000000000008.tar")
    code, text = verified(tmp_path / "a")
    assert code == 1
    assert text.count("does not follow from the segment before it") == 2


def test_a_log_that_is_shorter_than_its_node_knew_is_noticed(tmp_path: Path) -> None:
    write_identity(RealDisk(tmp_path), NodeIdentity("cluster", "n1", "disk"))
    point = filled(tmp_path, 2).end
    promise = PromiseFile(RealDisk(tmp_path))
    promise.store(epoch=2, floor=point)
    promise.close()
    assert verified(tmp_path)[0] == 0
    (tmp_path / "log/000000000008.tar").unlink()
    code, text = verified(tmp_path)
    assert code == 1
    assert "knew 14 to be committed" in text


def test_bytes_after_the_last_record_are_noticed(tmp_path: Path) -> None:
    filled(tmp_path)
    size = (tmp_path / FIRST).stat().st_size
    overwrite(tmp_path / FIRST, size - 2 * PAGE, b"left over")
    assert verified(tmp_path)[0] == 1


def test_a_damaged_segment_header_hides_no_record(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    overwrite(tmp_path / "log/000000000008.tar", 600, b"damage")
    code, text = verified(tmp_path)
    assert code == 1
    assert "21 records, 0 damaged, 0 lost, 1 other faults" in text


def test_a_group_that_a_killed_process_left_half_written_is_no_loss(tmp_path: Path) -> None:
    log = filled(tmp_path, close=False)
    header, chain, payload = record_after(log.end, 9000)
    end = offset_of_next(log)
    overwrite(tmp_path / FIRST, end, encode_header(header, chain) + payload.data[:4000])
    code, text = verified(tmp_path)
    assert code == 0, text
    assert "no sender was told" in text
    assert "7 records, 0 damaged, 0 lost, 0 other faults" in text


def offset_of_next(log: Log) -> int:
    entry = log.entry(log.end.sequence)
    assert entry is not None
    return entry.offset + entry.length


def test_a_node_that_writes_meanwhile_raises_no_alarm(tmp_path: Path) -> None:
    log = filled(tmp_path, close=False)
    stop = threading.Event()

    def write() -> None:
        while not stop.wait(0.005):
            for size in SIZES:
                append(log, size)
            log.sync()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(4):
            done = perenne("log", "verify", "--json", str(tmp_path))
            assert done.returncode == 0, done.stdout
            assert json.loads(done.stdout.splitlines()[-1])["records"] >= 7
    finally:
        stop.set()
        writer.join()
        log.close()


def test_extract_goes_on_after_damage(tmp_path: Path) -> None:
    filled(tmp_path / "n")
    overwrite(tmp_path / "n" / FIRST, offset_of(tmp_path / "n", 4), bytes(PAGE))
    done = perenne("log", "extract", str(tmp_path / "n"), str(tmp_path / "out"))
    assert done.returncode == 1
    assert "record 4" in done.stderr
    assert len(list((tmp_path / "out").rglob("*.dcm"))) == 6


def test_extract_says_that_a_uid_is_not_there(tmp_path: Path) -> None:
    filled(tmp_path / "n")
    done = perenne("log", "extract", "--uid", "9.9.9", str(tmp_path / "n"), str(tmp_path / "out"))
    assert done.returncode == 1
    assert "9.9.9: not found" in done.stderr


def test_two_records_of_one_name_are_both_extracted(tmp_path: Path) -> None:
    log = opened(tmp_path / "n")
    for size in (100, 200):
        header, _, payload = record_after(log.end, size)
        log.append(*renamed(log.end, header), payload)
    log.close()
    done = perenne("log", "extract", str(tmp_path / "n"), str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert "unknown.v2.dcm" in done.stderr
    assert {path.name: path.stat().st_size for path in (tmp_path / "out").rglob("*.dcm")} == {
        "unknown.dcm": 100,
        "unknown.v2.dcm": 200,
    }


def renamed(end: LogPoint, header: RecordHeader) -> tuple[RecordHeader, bytes]:
    from msgspec.structs import replace

    from storage.position import chain_after

    header = replace(header, path="1.2/1.2.3/unknown.dcm")
    return header, chain_after(end.chain, header)


def test_it_goes_on_from_a_record(tmp_path: Path) -> None:
    """Payloads of segments before it are not read again; chain, headers and whatever is missing there are looked at."""
    filled(tmp_path, 3)
    second = tmp_path / "log" / f"{len(SIZES) + 1:012d}.tar"
    log = opened(tmp_path)
    info = log.sealed_records(len(SIZES) + 1)
    log.close()
    overwrite(second, info.offset + info.size - 600, b"!")  # within the payload of its last record
    for first, code in ((0, 1), (len(SIZES) + 1, 1), (2 * len(SIZES), 1), (2 * len(SIZES) + 1, 0)):
        done = perenne("verify", str(tmp_path), "--from", str(first))
        assert (done.returncode, done.stderr) == (code, ""), done
        assert f"{3 * len(SIZES)} records" in done.stdout


def test_interrupted_it_says_where_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    filled(tmp_path, 3)
    walk = Walk.segment

    def until_the_third(self: Walk, path: Path) -> Iterator[Found | Fault]:
        if int(path.stem) > 2 * len(SIZES):
            raise KeyboardInterrupt
        return walk(self, path)

    monkeypatch.setattr(Walk, "segment", until_the_third)
    assert verify_directory(tmp_path, deep=True, study="", as_json=True) == 130
    assert f"`--from {2 * len(SIZES) + 1}` goes on there" in capsys.readouterr().err


def test_an_evicted_segment_is_no_damage_and_a_damaged_entry_in_it_is(tmp_path: Path) -> None:
    log = filled(tmp_path, 2, close=False)
    log.evict(1)
    log.close()
    code, told = verified(tmp_path)
    assert (code, told.splitlines()) == (
        0,
        [
            "000000000001.tar: record 1: records 1 to 7 are evicted: the tier holds them",
            "7 records, 0 damaged, 0 lost, 0 other faults",
        ],
    )
    overwrite(tmp_path / FIRST, ENTRIES_OFFSET + 2 * ENTRY_BYTES + 40, b"?")
    code, told = verified(tmp_path)
    assert code == 1
    assert "record 3: its table entry is missing or damaged, and its segment is evicted" in told
