"""A progress bar with rate and remaining time, on a terminal; silent elsewhere."""

import time
from types import TracebackType
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_EVERY_S: Final = 0.2


class Bar:
    """Counts records, and says how fast bytes arrive."""

    def __init__(self, what: str, *, quiet: bool) -> None:
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=console, disable=quiet or not console.is_terminal)
        self._task = self._progress.add_task(what, total=None, rate="")
        self._began = time.monotonic()
        self._shown = 0.0

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, done: int, total: int, arrived_bytes: int) -> None:
        now = time.monotonic()
        if now - self._shown < _EVERY_S and done < total:
            return
        self._shown = now
        rate = f"{arrived_bytes / max(now - self._began, 0.001) / 1e6:.0f} MB/s"
        self._progress.update(self._task, completed=done, total=total, rate=rate)
