"""The room on the file system of the data directory, read at each scrape."""

import os
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily, Metric


class RoomMetrics:
    """A collector. Raises OSError when the directory is gone: the node is then not to be scraped as if it were well."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        facts = os.statvfs(self._directory)
        yield GaugeMetricFamily(
            "perenne_disk_free_bytes",
            "Room left for this node on the file system of its data directory",
            value=facts.f_bavail * facts.f_frsize,
        )
        yield GaugeMetricFamily(
            "perenne_disk_capacity_bytes",
            "Size of the file system of the data directory",
            value=facts.f_blocks * facts.f_frsize,
        )
