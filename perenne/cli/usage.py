"""What every verb does about a wrong call: one line on standard error, and an exit code."""

import os
import signal
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from perenne.config import Config, ConfigError
from perenne.config_checks import SERVERS_STEP, no_servers
from perenne.config_reading import load_config

Answer = TypeVar("Answer")


def _servers(given: str) -> str:
    """Raises typer.BadParameter, before anybody tries to connect there."""
    for server in no_servers(given):
        raise typer.BadParameter(f"{server!r} is not host:port. {SERVERS_STEP}")
    return given


ZooKeeperOption = Annotated[
    str, typer.Option("--zookeeper", callback=_servers, help="host:port,… instead of a configuration.")
]


def fail(text: str, code: int = 1) -> typer.Exit:
    """To be raised. 1: something is wrong with the data or the cluster. 2: bad usage."""
    sys.stderr.write(f"perenne: {text}\n")
    return typer.Exit(code)


def asked(question: Callable[[], Answer]) -> Answer:
    """What a person answers; also from within a coroutine, where asyncio would take the first Ctrl-C for itself and go
    on waiting for the answer. Raises KeyboardInterrupt at once; typer.Abort at the end of the input.
    """
    held = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return question()
    except typer.Abort as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, held)


@contextmanager
def completed() -> Generator[None]:
    """Ctrl-C waits until the end of what would be of no use by halves. Raises KeyboardInterrupt then."""
    pressed = False

    def noted(*_: object) -> None:
        nonlocal pressed
        pressed = True

    held = signal.getsignal(signal.SIGINT)
    if held is not signal.default_int_handler:  # nobody may press it, or somebody else listens
        yield
        return
    signal.signal(signal.SIGINT, noted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, held)
        if pressed:
            raise KeyboardInterrupt


def read_config(file: Path | None, *, disk: bool = False) -> Config:
    """disk: whether it is for who works on its data_dir. Raises typer.Exit, with everything that is wrong."""
    try:
        return load_config(file, os.environ, disk=disk)
    except ConfigError as error:
        raise fail(str(error), 2) from error
