"""Reads deploy/Containerfile: stages, and the instructions of each, with its arguments filled in."""

import json
import re
import shlex
from dataclasses import dataclass, field
from typing import Final

_KNOWN: Final = {
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "HEALTHCHECK",
    "RUN",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
}


@dataclass(frozen=True, slots=True)
class Instruction:
    word: str
    rest: str


@dataclass(slots=True)
class Stage:
    """One FROM and what follows it."""

    base: str
    name: str
    instructions: list[Instruction] = field(default_factory=list[Instruction])

    def last(self, word: str) -> str:
        """Raises IndexError when there is none."""
        return [one.rest for one in self.instructions if one.word == word][-1]

    def every(self, word: str) -> list[str]:
        return [one.rest for one in self.instructions if one.word == word]

    @property
    def environment(self) -> dict[str, str]:
        pairs = (word.partition("=") for rest in self.every("ENV") for word in shlex.split(rest))
        return {name: value for name, _, value in pairs}

    @property
    def command(self) -> list[str]:
        """ENTRYPOINT and CMD."""
        words: list[str] = json.loads(self.last("ENTRYPOINT")) + json.loads(self.last("CMD"))
        return words

    @property
    def health(self) -> list[str]:
        words: list[str] = json.loads(self.last("HEALTHCHECK").partition("CMD ")[2])
        return words


class NotUnderstood(ValueError):
    """The text says which line."""


def parse(text: str) -> list[Stage]:
    """Raises NotUnderstood."""
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        word, _, rest = line.partition(" ")
        if word == "ARG" and not stages:
            name, _, value = rest.partition("=")
            arguments[name] = value
        elif word == "FROM":
            found = re.fullmatch(r"\$\{(\w+)\}(?: AS (\w+))?", rest)
            if found is None:
                raise NotUnderstood(line)
            stages.append(Stage(arguments[found[1]], found[2] or ""))
        elif word in _KNOWN and stages:
            stages[-1].instructions.append(Instruction(word, rest.strip()))
        else:
            raise NotUnderstood(line)
    return stages
