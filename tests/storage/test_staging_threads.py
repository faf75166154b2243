"""Goal: memory comes back whoever lets go of it, whenever that is."""

import gc
import threading
from typing import Any

import pytest

from replication.lookup import FetchedInstance
from storage import staging
from storage.staging import StagingArea, StagingStatistics
from tests.storage.memory_disk import MemoryDisk

PATIENCE_S = 5.0


class Request:
    """A download that its client broke off: its frames and their exception hold each other, and the instance."""

    def __init__(self, area: StagingArea) -> None:
        receiving = area.begin_raw()
        receiving.write(memoryview(b"x" * 1000))
        self.found = FetchedInstance(receiving.finish())
        self.itself = self


def test_the_collector_may_let_go_of_an_instance_in_the_middle_of_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs where something is allocated, as where the pool is counted."""
    area = StagingArea(MemoryDisk(), memory_instance_bytes=1 << 20, pool_bytes=4 << 20)
    counted: list[StagingStatistics] = []

    def allocated(*facts: Any) -> StagingStatistics:
        gc.collect()
        return StagingStatistics(*facts)

    monkeypatch.setattr(staging, "StagingStatistics", allocated)
    gc.disable()
    try:
        Request(area)
        counting = threading.Thread(target=lambda: counted.append(area.statistics()), daemon=True)
        counting.start()
        counting.join(PATIENCE_S)
        assert not counting.is_alive(), "it waits for itself"
    finally:
        gc.enable()
    assert len(counted) == 1 and area.statistics().pooled_bytes_in_use == 0
