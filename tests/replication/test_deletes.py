"""Deletes in the driver: what is offered again, and what an index must know before anything rests on it."""

from pathlib import Path
from typing import cast

from replication.recent import Recent
from replication.rejoin import saved_instances
from storage.deletion import Covered, Tombstone
from storage.index import Index, IndexedRecord
from storage.position import GENESIS, LogPoint, LogPosition
from storage.staging import StagingArea
from tests.storage.test_deletion import SERIES, STUDY, UID, write
from tests.storage.test_index import SAMPLES, opened, store


def test_what_was_cut_is_offered_as_what_was_stored_before(tmp_path: Path) -> None:
    """So that the leader drops it where it was deleted since."""
    disk, log = opened(tmp_path / "data")
    store(log, (SAMPLES / "CT_small.dcm").read_bytes())
    log.sync()
    staging = StagingArea(disk, memory_instance_bytes=1 << 20, pool_bytes=4 << 20)
    (draft,) = saved_instances(disk, log.truncate_after(0), staging)
    assert draft.again
    assert draft.sop_instance_uid == UID
    draft.staged.release()
    log.close()


def test_an_index_that_missed_a_tombstone_is_not_complete(tmp_path: Path) -> None:
    disk, log = opened(tmp_path / "data")
    index = Index.open(disk)
    recent = Recent(index, lambda staged: None, log.last_tombstone, budget_bytes=0)
    assert recent.complete and recent.knows_deletes
    index.apply(cast(list[IndexedRecord], []), LogPoint(LogPosition(1, 1), GENESIS.chain), {1: True})
    assert not recent.complete
    assert not recent.knows_deletes
    index.fill([], {1})
    assert recent.complete and recent.knows_deletes
    index.close()
    log.close()


def test_a_tombstone_in_the_log_that_the_index_has_not_come_by_is_known_to_be_there(tmp_path: Path) -> None:
    disk, log = opened(tmp_path / "data")
    index = Index.open(disk)
    store(log, (SAMPLES / "CT_small.dcm").read_bytes())
    write(log, Tombstone((Covered(STUDY, SERIES, UID, bytes(32)),), "", "anna", "", 0, "r"))
    recent = Recent(index, lambda staged: None, log.last_tombstone, budget_bytes=0, unseen=log.end.sequence)
    assert not recent.knows_deletes
    recent.cut_after(1)
    assert not recent.complete, "the instance is not indexed yet"
    index.apply([], cast(LogPoint, log.point_at(1)))
    assert recent.complete and recent.knows_deletes
    index.close()
    log.close()
