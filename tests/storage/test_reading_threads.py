"""Goal: whoever reads a record while the log thread writes, cuts and writes anew gets one record, whole, or none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage.digest import digests_of
from storage.disk import RealDisk
from storage.errors import RecordAbsent
from storage.log import Log
from storage.position import RecordHeader, RecordKind
from storage.reader import StoredRecord
from tests.storage.log_helpers import IDENTITY, append

SIZE = 5_000


def is_whole(header: RecordHeader, data: bytes) -> bool:
    return digests_of(RecordKind.INSTANCE, [data]).digest == header.digest


def one_record(log: Log, _: int) -> bool:
    found = log.read_any(2)
    assert isinstance(found, StoredRecord)
    return is_whole(found.header, b"".join(bytes(part) for part in found.payload.parts()))


def its_head(log: Log, _: int) -> bool:
    return is_whole(*log.read_head(2, SIZE))


@pytest.mark.parametrize("again", ["written", "pending", "gone"])
@pytest.mark.parametrize("read", [one_record, its_head])
def test_a_record_that_is_cut_and_numbered_anew_while_it_is_read_is_one_or_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Log, int], bool], again: str
) -> None:
    """Everything happens between finding the record where it waits to be written and taking its payload."""
    log = Log.open(RealDisk(tmp_path), IDENTITY, host_rebooted=False, spares=0)[0]
    append(log, SIZE)
    log.sync()
    append(log, SIZE)
    payload = Log._pending_payload  # pyright: ignore[reportPrivateUsage]

    def late(log: Log, pending: Any) -> Any:
        monkeypatch.setattr(Log, "_pending_payload", payload)
        log.truncate_after(1)
        if again != "gone":
            append(log, SIZE, salt=100)
        if again == "written":
            log.sync()
        return payload(log, pending)

    monkeypatch.setattr(Log, "_pending_payload", late)
    try:
        assert read(log, 2)
    except RecordAbsent:
        assert again == "gone"
    assert not log.damaged()
    log.close()
