"""A bar on standard error while something long is done: how far, how fast, how long still. On a terminal alone."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text


class _Rate(ProgressColumn):
    """So many things per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.0f}/s" if speed else "")


@contextmanager
def shown(what: str, total: int, *, quiet: bool, of_bytes: bool = True) -> Generator[Callable[[int], None]]:
    """Give a function that is told how far it has come: of `total` bytes, or things."""
    how = (DownloadColumn(binary_units=True), TransferSpeedColumn()) if of_bytes else (MofNCompleteColumn(), _Rate())
    progress = _bar(*how, quiet=quiet)
    with progress:
        task = progress.add_task(what, total=total)

        def reached(done: int) -> None:
            progress.update(task, completed=done)

        yield reached


def moving_bytes(*, quiet: bool) -> Progress:
    """A bar on standard error; nothing where that is no terminal, or when told to be quiet."""
    return _bar(DownloadColumn(), TransferSpeedColumn(), quiet=quiet)


def moving_things(*, quiet: bool) -> Progress:
    """The same of things that are counted."""
    return _bar(MofNCompleteColumn(), _Rate(), quiet=quiet)


def _bar(*amounts: ProgressColumn, quiet: bool) -> Progress:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), *amounts, TimeRemainingColumn())
    return Progress(*columns, console=console, disable=quiet or not console.is_terminal)
