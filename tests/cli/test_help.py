"""What `--help` says reaches the terminal: words in square brackets are taken for markup there, and vanish."""

import re
from collections.abc import Callable, Iterator
from typing import get_type_hints

import typer

from perenne.cli.commands import app


def texts(of: typer.Typer) -> Iterator[str]:
    for command in (*of.registered_commands, of.registered_callback):
        if command is not None and command.callback is not None:
            yield from texts_of(command.callback)
    for group in of.registered_groups:
        if group.typer_instance is not None:
            yield from texts(group.typer_instance)


def texts_of(verb: Callable[..., object]) -> Iterator[str]:
    yield verb.__doc__ or ""
    for hint in get_type_hints(verb, include_extras=True).values():
        for about in getattr(hint, "__metadata__", ()):
            yield getattr(about, "help", None) or ""


def test_no_help_has_words_that_vanish() -> None:
    found = [text for text in texts(app) if text]
    assert len(found) > 100
    assert [text for text in found if re.search(r"\[\w+\]", text)] == []
