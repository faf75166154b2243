"""What the last drill found (`perenne drill`), read at each scrape from the file that it left in the data directory."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, cast

from prometheus_client.core import GaugeMetricFamily, Metric

_SERIES: Final = {
    "perenne_drill_last_success_timestamp_seconds": (
        "last_success",
        "Unix time of the last drill that passed, 0 when none did; an old one wants `perenne drill`",
    ),
    "perenne_drill_last_run_timestamp_seconds": (
        "last_run",
        "Unix time of the last drill, passed or not; 0 when there was none",
    ),
    "perenne_drill_passed": ("passed", "1 when the last drill passed, 0 when it failed or there was none"),
    "perenne_drill_seconds": ("seconds", "Time that the last drill that passed took to restore its sample"),
    "perenne_drill_bytes": ("bytes", "Bytes that the last drill that passed restored"),
    "perenne_drill_whole_archive_seconds": (
        "whole_archive_seconds",
        "Time that a restore of everything would take at the rate of the last drill that passed",
    ),
}


class DrillMetrics:
    """A collector. All 0 while there was no drill, or its file cannot be read."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        facts = self._facts()
        for name, (key, text) in _SERIES.items():
            value = facts.get(key, 0)
            yield GaugeMetricFamily(name, text, value=float(value) if isinstance(value, (int, float)) else 0.0)

    def _facts(self) -> dict[str, Any]:
        try:
            found: Any = json.loads(self._file.read_bytes())
        except (OSError, ValueError):
            return {}
        return cast("dict[str, Any]", found) if isinstance(found, dict) else {}
