"""Goal: what recipes say to type is there: the verb, each option, and what the verb cannot do without.

Method: each `perenne …` between backticks or in a block, against the verbs as they are.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from perenne.cli.commands import app

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILES = ("docs/recovery.md", "docs/tier.md", "docs/moving.md", "docs/security.md")


def commands(text: str) -> Iterator[str]:
    """What follows `perenne`, of each command."""
    for block in BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"[;|&]", re.sub(r"\s#.*", "", line)):
                if found := re.match(r"\s*perenne (.+)", part):
                    yield found[1]
    for span in re.findall(r"`([^`]*)`", BLOCK.sub("", text)):
        if found := re.match(r"perenne (.+)", " ".join(span.split())):
            yield found[1]


def wrong(words: list[str]) -> str:
    """What of this command is not there; empty when all of it is. A verb that is only named lacks nothing."""
    command: Any = typer.main.get_command(app)
    given: set[str] = set()
    rest = iter(words)
    for word in rest:
        if word.startswith("-"):
            name = word.partition("=")[0]
            options = [one for one in command.params if name in (*one.opts, *one.secondary_opts)]
            if not options and name != "--help":
                return f"no option {name}"
            given.add(name)
            if options and not options[0].is_flag and "=" not in word:
                next(rest, None)
        elif word in getattr(command, "commands", {}):
            command = command.commands[word]
        elif hasattr(command, "commands") and not given:
            return f"no verb {word}"
    required = [one for one in command.params if one.required and one.param_type_name == "option"]
    lacking = [one.opts[0] for one in required if not given.intersection(one.opts)]
    return f"lacks {', '.join(lacking)}" if lacking and given - {"--help"} else ""


@pytest.mark.parametrize("file", FILES)
def test_what_is_to_be_typed_is_there(file: str) -> None:
    found = list(commands((ROOT / file).read_text()))
    assert found, "it says what to type"
    assert {text: why for text in found if (why := wrong(shlex.split(text.replace("…", ""))))} == {}


def test_what_is_not_there_is_noticed() -> None:
    block = "```\nperenne log lss D ; perenne lost-found list\n```\n"
    found = commands(f"`perenne restore --cluster`, `perenne drill\n--config X --alll`\n{block}")
    expected = ["no verb lss", "", "lacks --config", "no option --alll"]
    assert [wrong(shlex.split(text)) for text in found] == expected
