"""A wrong value is refused where it is typed, before anything is reached or asked: one line, exit code 2."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from perenne.cli.commands import app


def with_zookeeper(command: Any, *names: str) -> Iterator[list[str]]:
    """Each verb that takes --zookeeper, as one types it."""
    if subcommands := getattr(command, "commands", None):
        for name, verb in subcommands.items():
            yield from with_zookeeper(verb, *names, name)
    elif any("--zookeeper" in parameter.opts for parameter in command.params):
        needed = [parameter for parameter in command.params if parameter.required]
        words = ([one.opts[0], "1"] if one.param_type_name == "option" else ["1"] for one in needed)
        yield [*names, *(word for typed in words for word in typed)]


VERBS = list(with_zookeeper(get_command(app)))


def test_many_verbs_go_to_zookeeper() -> None:
    assert len(VERBS) > 15


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_what_is_no_address_of_zookeeper_is_refused(verb: list[str]) -> None:
    done = CliRunner().invoke(app, [*verb, "--zookeeper", "zk1:2181,zk2:port"])
    assert (done.exit_code, done.stdout) == (2, "")
    said = " ".join(re.split(r"[\s│]+", done.stderr))  # it stands in a box, and is broken where that ends
    assert "'zk2:port' is not host:port" in said
