"""What `--help` says reaches the terminal: words in square brackets are taken for markup there, and vanish."""

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import get_type_hints

import typer
from typer.testing import CliRunner

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


def test_help_is_broken_where_the_terminal_ends() -> None:
    """And not in the middle of its lines as well, where the source was; what is set in columns stays so."""
    done = CliRunner(env={"COLUMNS": "60", "TERMINAL_WIDTH": "60"}).invoke(app, ["verify", "--help"])
    shown = [line.strip() for line in done.stdout.split("Arguments")[0].splitlines()]
    at = shown.index(next(line for line in shown if line.startswith("A node may be running")))
    paragraph = shown[at : shown.index("", at)]
    assert len(paragraph) > 5
    assert all(len(line) + len(following.split()[0]) >= 57 for line, following in pairwise(paragraph))
    drill = CliRunner(env={"COLUMNS": "130", "TERMINAL_WIDTH": "130"}).invoke(app, ["drill", "--help"]).stdout
    assert re.search(r"A sample every night: {11}perenne drill", drill)
