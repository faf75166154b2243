"""Writes docs/configuration.md: every key, from the names, defaults and docstrings of perenne/config.py.

`.venv/bin/python -m perenne.config_table` writes it; `tests/config/test_config.py` fails while it is stale.
"""

import ast
import inspect
import typing
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, Final

from perenne import config
from perenne.config import AeConfig, Config

FILE: Final = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"
_UNITS: Final = ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB"))
_HEAD: Final = """# Configuration: every key of a node

Written by `python -m perenne.config_table` from perenne/config.py: change it there.

The file is TOML, given with `perenne node --config FILE`; `perenne config check FILE` explains what is wrong with one.
`PERENNE_<SECTION>__<KEY>` in the environment overrides a key, for example `PERENNE_DIMSE__PORT=104`; another variable
that begins with `PERENNE_` is an error, unless Kubernetes sets it for a service. Sizes are bytes or text such as
`"256MiB"`, times are milliseconds, relative paths are relative to the file. Every key has a default but those that say
"must be given".
"""


def document() -> str:
    """The whole file."""
    notes = _notes()
    parts = [_HEAD]
    hints = typing.get_type_hints(Config)
    for member in fields(Config):
        section = AeConfig if member.name == "ae" else hints[member.name]
        name = "[[ae]]" if member.name == "ae" else f"[{member.name}]"
        parts.append(f"\n## {name}\n\n{inspect.cleandoc(section.__doc__ or '')}\n")
        parts.append("\n| key | default | meaning |\n|---|---|---|\n")
        for key in fields(section):
            meaning = " ".join(notes.get((section.__name__, key.name), "").split()).replace("|", "\\|")
            parts.append(f"| `{key.name}` | {_default(key)} | {meaning} |\n")
    return "".join(parts)


def _default(key: Field[Any]) -> str:
    value: Any = key.default
    if value is MISSING:
        return "must be given"
    if value is None:
        return "absent"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, int):
        for size, unit in _UNITS if key.name.endswith("_bytes") else ():
            if value % size == 0:
                return f'`"{value // size}{unit}"`'
        return f"`{value}`"
    return f'`"{value}"`'


def _notes() -> dict[tuple[str, str], str]:
    """The string below each key, by class and key: Python itself does not keep them."""
    found: dict[tuple[str, str], str] = {}
    for node in ast.parse(inspect.getsource(config)).body:
        if isinstance(node, ast.ClassDef):
            for key, note in zip(node.body, node.body[1:], strict=False):
                if isinstance(key, ast.AnnAssign) and isinstance(key.target, ast.Name) and isinstance(note, ast.Expr):
                    found[node.name, key.target.id] = str(ast.literal_eval(note.value))
    return found


if __name__ == "__main__":
    FILE.write_text(document())
