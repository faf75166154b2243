"""Reads what an administrator is told to type: the command blocks of docs/operating.md, and where each is to run.

A comment stands above each block: `<!-- on: n1 n2 -->`, perhaps with `; needs indexes` or `; goes off`. Two kinds
have no block: `; power on`, and `; as in SECTION`, which is the first block of that section.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from tests.chart.rendering import ROOT

DOCUMENT: Final = ROOT / "docs" / "operating.md"
SECTION: Final = "From three bare machines to a cluster"
PORTS: Final = "Ports and firewall"
MACHINES: Final = ("n1", "n2", "n3")
FENCE: Final = "```"
_MARK: Final = re.compile(
    r"<!-- on: (?P<on>n\d(?: n\d)*)(?:; (?P<how>needs indexes|goes off|power on|as in (?P<section>[^;>]+)))? -->"
)


class NotUnderstood(Exception):
    """The text names the line."""


@dataclass(frozen=True, slots=True)
class Block:
    """Commands to run on these machines, one after the other. text: empty for switching a machine on."""

    machines: tuple[str, ...]
    text: str
    line: int
    needs_indexes: bool = False
    goes_off: bool = False
    power_on: bool = False

    @property
    def title(self) -> str:
        return self.text.strip().splitlines()[0] if self.text else "(switched on)"


def section(document: str, title: str) -> list[tuple[int, str]]:
    """Its lines with their numbers. Raises NotUnderstood."""
    lines = list(enumerate(document.splitlines(), 1))
    inside = [number for number, line in lines if line == f"## {title}"]
    if len(inside) != 1:
        raise NotUnderstood(f"there are {len(inside)} sections {title!r}")
    found: list[tuple[int, str]] = []
    for number, line in lines[inside[0] :]:
        if line.startswith("## "):
            break
        found.append((number, line))
    return found


def blocks(document: str, title: str = SECTION) -> list[Block]:
    """In order. Raises NotUnderstood, also for a block without a mark and a mark without a block."""
    lines = section(document, title)
    found: list[Block] = []
    at = 0
    while at < len(lines):
        number, line = lines[at]
        at += 1
        if line.startswith(FENCE):
            raise NotUnderstood(f"line {number}: no comment above the block says where it runs")
        if not line.startswith("<!--"):
            continue
        mark = _MARK.fullmatch(line)
        if mark is None:
            raise NotUnderstood(f"line {number}: {line!r} does not say where something runs")
        machines, how = tuple(mark["on"].split()), mark["how"]
        if how == "power on":
            found.append(Block(machines, "", number, power_on=True))
        elif mark["section"]:
            found.append(Block(machines, _first(document, mark["section"]), number))
        else:
            text, at = _fenced(lines, at)
            found.append(Block(machines, text, number, how == "needs indexes", how == "goes off"))
    return found


def _fenced(lines: Sequence[tuple[int, str]], at: int) -> tuple[str, int]:
    """The block that begins there, and where it has ended. Raises NotUnderstood."""
    if at == len(lines) or lines[at][1] != FENCE:
        raise NotUnderstood(f"line {lines[at - 1][0]}: no block follows")
    for end in range(at + 1, len(lines)):
        if lines[end][1] == FENCE:
            return "".join(f"{line}\n" for _, line in lines[at + 1 : end]), end + 1
    raise NotUnderstood(f"line {lines[at][0]}: the block does not end")


def _first(document: str, title: str) -> str:
    lines = section(document, title)
    for at, (_, line) in enumerate(lines):
        if line == FENCE:
            return _fenced(lines, at)[0]
    raise NotUnderstood(f"section {title!r} has no block")


def written(text: str, file: str) -> str:
    """What a block writes into that file by `cat >FILE <<EOF`. Raises NotUnderstood."""
    found = re.search(rf"^cat >{re.escape(file)} <<EOF\n(.*?)^EOF$", text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise NotUnderstood(f"{file} is not written there")
    return found[1]


def commands(text: str) -> Iterator[str]:
    """Each command line, joined where it goes on, without what is written into files."""
    bare = re.sub(r"(<<EOF)\n.*?^EOF$", r"\1", text, flags=re.MULTILINE | re.DOTALL)
    for line in bare.replace("\\\n", " ").splitlines():
        for command in re.split(r" (?:\|\||\||&&) |; ", line.partition(" #")[0]):
            if command.strip():
                yield command.strip()


def ports(document: str) -> set[int]:
    """Whatever the table of ports allows to be listened on. Raises NotUnderstood."""
    rows = [line.split("|")[1] for _, line in section(document, PORTS) if line.startswith("|")]
    found = {int(number) for row in rows if "IP protocol" not in row for number in re.findall(r"\d+", row)}
    if not found:
        raise NotUnderstood("the table of ports is empty")
    return found
