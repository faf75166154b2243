"""The table of values in the chart's README, from the comments `# -- …` in values.yaml."""

import json
import re
from collections.abc import Iterator
from typing import Any, Final, cast

import yaml

from tests.chart.rendering import CHART

README: Final = CHART / "README.md"
BEGIN: Final = "<!-- values: written by script/chart from values.yaml -->\n"
END: Final = "<!-- end of values -->\n"
_KEY: Final = re.compile(r"( *)([A-Za-z_][\w./-]*):")
_NOTE: Final = re.compile(r" *# -- (.*)")


def rows(text: str) -> Iterator[tuple[str, Any, str]]:
    """Path, default and meaning of every value that has a comment."""
    tree: Any = yaml.safe_load(text)
    path: list[tuple[int, str]] = []
    note = ""
    for line in text.splitlines():
        if found := _NOTE.fullmatch(line):
            note = found[1]
        elif key := _KEY.match(line):
            indent = len(key[1])
            path = [(depth, name) for depth, name in path if depth < indent] + [(indent, key[2])]
            if note:
                names = [name for _, name in path]
                value = tree
                for name in names:
                    value = value[name]
                yield ".".join(names), value, note
            note = ""


def leaves(tree: Any, above: str = "") -> Iterator[str]:
    """Paths of everything that is no mapping."""
    if not isinstance(tree, dict) or not tree:
        yield above
        return
    for name, value in cast("dict[str, Any]", tree).items():
        yield from leaves(value, f"{above}.{name}" if above else name)


def undocumented(text: str) -> list[str]:
    """Values that no comment covers."""
    covered = [path for path, _, _ in rows(text)]
    every = leaves(yaml.safe_load(text))
    return [leaf for leaf in every if not any(leaf == path or leaf.startswith(f"{path}.") for path in covered)]


def table() -> str:
    lines = ["| value | default | meaning |", "|---|---|---|"]
    for path, value, note in rows((CHART / "values.yaml").read_text()):
        default = json.dumps(value).replace("|", "\\|")
        lines.append(f"| `{path}` | `{default}` | {note} |")
    return "\n".join(lines) + "\n"


def document() -> str:
    """The README with its table made anew. Raises ValueError when it has no place for one."""
    before, begin, rest = README.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{README}: the lines around the table of values are missing")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"
