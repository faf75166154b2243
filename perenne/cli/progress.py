"""Progress bars of verbs that move bytes: amount, rate and remaining time, on a terminal only."""

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn


def moving_bytes(*, quiet: bool) -> Progress:
    """A bar on standard error; nothing where that is no terminal, or when told to be quiet."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, disable=quiet or not console.is_terminal)
