"""The part of values.schema.json that says what `config` may hold, from the keys in perenne/config.py."""

import json
import re
import typing
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from perenne.config import Config
from perenne.config_checks import LEVELS, POLICIES
from perenne.config_tier import KINDS, MODES
from perenne.config_tls import CLIENTS, WAYS
from tests.chart.rendering import CHART

FILE: Final = CHART / "values.schema.json"
OF_THE_CHART: Final[dict[str, frozenset[str] | None]] = {
    "node": None,
    "tls": None,
    "ae": None,
    "peer": frozenset({"host", "port", "advertise_host"}),
    "dimse": frozenset({"host", "port", "tls_port"}),
    "http": frozenset({"host", "port", "token_file"}),
    "coordination": frozenset({"zookeeper", "credentials_file"}),
    "tier": frozenset({"directory", "credentials_file", "ca_file"}),
}
"""What the chart sets by itself, or has other values for: no key of `config`. None: the whole section."""
_SPECIAL: Final = {
    "cluster.copies_required": {"type": "integer", "minimum": 1},
    "cluster.allow_solo": {"const": False},
    "cluster.conflict_policy": {"enum": list(POLICIES)},
    "coordination.session_timeout_ms": {"type": "integer", "minimum": 1000, "maximum": 60_000},
    "dimse.ae_title": {"type": "string", "minLength": 1, "maxLength": 16},
    "dimse.tls": {"enum": list(WAYS)},
    "dimse.tls_clients": {"enum": list(CLIENTS)},
    "log.level": {"enum": list(LEVELS)},
    "tier.mode": {"enum": list(MODES)},
    "tier.kind": {"enum": list(KINDS)},
}
_REQUIRED: Final = {"cluster": ["copies_required"]}
_PLACE: Final = re.compile(r'(?<=\n)    "config": \{\n.*?\n    \},\n', re.DOTALL)


def sections() -> dict[str, dict[str, Any]]:
    """The schema of each key that may be given, by section."""
    made: dict[str, dict[str, Any]] = {}
    for name, kind in typing.get_type_hints(Config).items():
        own = OF_THE_CHART.get(name, frozenset())
        if own is not None:
            hints = typing.get_type_hints(kind)
            keys = [member.name for member in fields(kind) if member.name not in own]
            made[name] = {key: _SPECIAL.get(f"{name}.{key}") or _type(key, hints[key]) for key in keys}
    return made


def _type(key: str, hint: Any) -> dict[str, str]:
    if hint is int:
        return {"$ref": "#/$defs/size"} if key.endswith("_bytes") else {"type": "integer"}
    assert hint in (bool, str, Path, Path | None), key
    return {"type": "boolean" if hint is bool else "string"}


def config() -> str:
    """As it stands in the file."""
    parts = ",\n".join(_section(name, keys) for name, keys in sections().items())
    return f"""    "config": {{
      "$comment": "Written by script/chart from perenne/config.py.",
      "type": "object", "additionalProperties": false, "required": {json.dumps(list(_REQUIRED))},
      "properties": {{
{parts}
      }}
    }},
"""


def _section(name: str, keys: dict[str, Any]) -> str:
    required = f', "required": {json.dumps(_REQUIRED[name])}' if name in _REQUIRED else ""
    lines = ",\n".join(f'            "{key}": {json.dumps(schema)}' for key, schema in keys.items())
    return f"""        "{name}": {{
          "type": "object", "additionalProperties": false{required},
          "properties": {{
{lines}
          }}
        }}"""


def document() -> str:
    """The file with this part made anew. Raises ValueError when it has no place for it."""
    made, places = _PLACE.subn(lambda _: config(), FILE.read_text())
    if places != 1:
        raise ValueError(f'{FILE}: "config" is not where it was')
    return made
