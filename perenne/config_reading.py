"""From a TOML file and the environment to a `Config`: types, names, and where each value came from."""

import difflib
import re
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, cast

from perenne.config import AeConfig, Config, ConfigError, Problem
from perenne.config_checks import check
from perenne.config_material import material_findings

PREFIX: Final = "PERENNE_"
_SIZE: Final = re.compile(r"(\d+)\s*([kmgt]i?)?b?", re.IGNORECASE)
_SERVICE: Final = re.compile(
    r"PERENNE_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(ADDR|PORT|PROTO))?)"
)
_SERVICE_URL: Final = re.compile(r"(tcp|udp|sctp)://")
_POWER: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_OPTIONAL_PATH: Final = Path | None
_BOOLEAN: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def load_config(
    file: Path | None, environment: Mapping[str, str], *, material: bool = False, disk: bool = True
) -> Config:
    """Read `file` (None: defaults only), apply `PERENNE_SECTION__KEY` variables, check the whole.

    Relative paths in the file are relative to it. material: look whether certificates fit, too; verbs that need none
    go on without. disk: look whether data_dir can be used; verbs that want addresses and secrets alone
    are typed where that disk is not, or is broken. Raises ConfigError with every problem found.
    """
    reading = _Reading(file)
    tree = reading.parse()
    sections: dict[str, Any] = {}
    known = {member.name: member for member in fields(Config)}
    for name, value in tree.items():
        if name not in known:
            reading.problem(name, f"there is no section [{name}]", _suggest(name, known, "Sections are"))
        elif name == "ae":
            sections[name] = reading.entries(value)
        elif not isinstance(value, dict):
            reading.problem(name, "is a key outside of every section", f"Write it below a line [{name}].")
        else:
            sections[name] = dict(cast("dict[str, object]", value))
    reading.override(sections, known, environment)
    hints = typing.get_type_hints(Config)
    values: dict[str, Any] = {
        name: section if name == "ae" else reading.section(hints[name], name, section)
        for name, section in sections.items()
    }
    if reading.problems:
        raise ConfigError(tuple(reading.problems))
    config = Config(**values)
    problems = check(config, reading.where, disk=disk)
    if material:
        problems += tuple(Problem(reading.where(key), *found) for key, *found in material_findings(config))
    if problems:
        raise ConfigError(problems)
    return config


class _Unfit(Exception):
    """A value that its key cannot have; says why."""


@dataclass(slots=True)
class _Reading:
    """One pass over one file. origins: for keys that came from the environment, the variable."""

    file: Path | None
    problems: list[Problem] = field(default_factory=lambda: list[Problem]())
    origins: dict[str, str] = field(default_factory=lambda: dict[str, str]())

    def where(self, key: str) -> str:
        if key in self.origins:
            return f"environment {self.origins[key]}"
        return f"{self.file}: {key}" if self.file else key

    def problem(self, key: str, cause: str, next_step: str) -> None:
        self.problems.append(Problem(self.where(key), cause, next_step))

    def parse(self) -> dict[str, object]:
        if self.file is None:
            return {}
        try:
            return tomllib.loads(self.file.read_text(encoding="utf-8"))
        except OSError as error:
            cause = f"cannot be read: {error.strerror}"
            raise ConfigError((Problem(str(self.file), cause, "Check the path and its permissions."),)) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            step = "Mend that line; strings need quotes, sections need [brackets]."
            raise ConfigError((Problem(str(self.file), f"is not TOML: {error}", step),)) from error

    def entries(self, value: object) -> tuple[AeConfig, ...]:
        """Read the `[[ae]]` tables."""
        if not isinstance(value, list):
            self.problem("ae", "is not a list of tables", "Write each calling AE as [[ae]] with title = and host =.")
            return ()
        made: list[AeConfig] = []
        for number, entry in enumerate(cast("list[object]", value), 1):
            if not isinstance(entry, dict):
                self.problem(f"ae[{number}]", "is not a table", "Write [[ae]] with title = and host =.")
            elif (found := self.section(AeConfig, f"ae[{number}]", cast("dict[str, object]", entry))) is not None:
                made.append(cast("AeConfig", found))
        return tuple(made)

    def override(self, sections: dict[str, Any], known: Mapping[str, object], environment: Mapping[str, str]) -> None:
        """Put `PERENNE_SECTION__KEY` over the file. Whatever else begins so is a mistake, or Kubernetes'."""
        for variable, text in sorted(environment.items()):
            section, separator, key = variable.removeprefix(PREFIX).lower().partition("__")
            if not variable.startswith(PREFIX) or _of_kubernetes(variable, text):
                continue
            if not separator:
                step = _spelling(variable)
                self.problems.append(Problem(f"environment {variable}", "sets nothing", step))
                continue
            if section not in known or section == "ae":
                cause = "[[ae]] cannot be set here" if section == "ae" else f"there is no section [{section}]"
                step = "Write it in the file." if section == "ae" else _suggest(section, known, "Sections are")
                self.problems.append(Problem(f"environment {variable}", cause, step))
                continue
            self.origins[f"{section}.{key}"] = variable
            sections.setdefault(section, {})[key] = _FromEnvironment(text)

    def section(self, kind: type, name: str, values: Mapping[str, object]) -> object | None:
        """Make one section's dataclass; None when something in it is wrong."""
        hints = typing.get_type_hints(kind)
        made: dict[str, object] = {}
        good = True
        for key, value in values.items():
            where = f"{name}.{key}"
            if key not in hints:
                self.problem(where, "there is no such key", _suggest(key, hints, f"Keys of [{name}] are"))
                good = False
                continue
            try:
                made[key] = self._convert(hints[key], key, value, from_file=where not in self.origins)
            except _Unfit as error:
                self.problem(where, str(error), _example(hints[key], key))
                good = False
        for member in fields(kind):
            if member.default is MISSING and member.default_factory is MISSING and member.name not in values:
                self.problem(f"{name}.{member.name}", "is missing", _example(hints[member.name], member.name))
                good = False
        return cast("object", kind(**made)) if good else None

    def _convert(self, hint: object, key: str, value: object, *, from_file: bool) -> object:
        if isinstance(value, _FromEnvironment):
            value = value.parsed(hint)
        if hint in (Path, _OPTIONAL_PATH):
            if not isinstance(value, str) or not value:
                raise _Unfit(f"{value!r} is not a path")
            base = self.file.parent if self.file is not None and from_file else Path()
            return base / Path(value).expanduser()
        if hint is int and key.endswith("_bytes") and isinstance(value, str):
            return _bytes(value)
        if hint is int:
            if not isinstance(value, int) or isinstance(value, bool):
                raise _Unfit(f"{value!r} is not a whole number")
            return value
        if hint is bool:
            if not isinstance(value, bool):
                raise _Unfit(f"{value!r} is neither true nor false")
            return value
        assert hint is str or isinstance(hint, types.UnionType), hint
        if not isinstance(value, str):
            raise _Unfit(f"{value!r} is not a string")
        return value


def _of_kubernetes(variable: str, text: str) -> bool:
    """Whether it is one of those that Kubernetes sets for a service called `perenne` or `perenne-something`."""
    return bool(_SERVICE.fullmatch(variable)) or (variable.endswith("_PORT") and bool(_SERVICE_URL.match(text)))


def _spelling(variable: str) -> str:
    """The variable that was meant, or how they are spelt."""
    sections = typing.get_type_hints(Config)
    names = [f"{PREFIX}{s}__{m.name}".upper() for s, k in sections.items() if s != "ae" for m in fields(k)]
    by_words = {name.replace("__", "_"): name for name in names}
    close = difflib.get_close_matches(variable.upper(), by_words, n=1, cutoff=0.8)
    if close:
        return f"Did you mean {by_words[close[0]]}?"
    return f"Write {PREFIX}SECTION__KEY, with two underscores between them (docs/configuration.md)."


@dataclass(frozen=True, slots=True)
class _FromEnvironment:
    """A value as the environment gives it: always text."""

    text: str

    def parsed(self, hint: object) -> object:
        if hint is bool:
            return _BOOLEAN.get(self.text.strip().lower(), self.text)
        if hint is int and re.fullmatch(r"-?\d+", self.text.strip()):
            return int(self.text)
        return self.text


def _bytes(text: str) -> int:
    """Read a size such as `256MiB` or `4 GB`; decimal and binary prefixes mean what they say."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise _Unfit(f"{text!r} is not a size")
    prefix = (found[2] or "").lower()
    return int(found[1]) * int((1024 if prefix.endswith("i") else 1000) ** _POWER[prefix.rstrip("i")])


def _example(hint: object, key: str) -> str:
    if key.endswith("_bytes"):
        return 'Write bytes as a whole number, or text such as "256MiB".'
    if key.endswith("_ms"):
        return "Write milliseconds as a whole number."
    return {
        int: "Write a whole number.",
        bool: "Write true or false.",
        Path: 'Write a path, in "quotes".',
        cast("type", _OPTIONAL_PATH): 'Write a path, in "quotes", or leave it out.',
    }.get(cast("type", hint), 'Write text, in "quotes".')


def _suggest(name: str, known: Mapping[str, object], otherwise: str) -> str:
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    return f"Did you mean {close[0]}?" if close else f"{otherwise}: {', '.join(known)}."
