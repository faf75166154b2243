"""Goal: a value that the chart does not know is refused before anything is installed. Method: Helm itself."""

from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import helm_python
import yaml

from perenne.config import AeConfig, Config
from perenne.config_reading import load_config
from tests.chart import schema, table
from tests.chart.rendering import CHART, documents, quiet, render, with_watched


def test_a_typo_below_config_is_seen_by_the_linter(tmp_path: Path) -> None:
    """As by hand: `helm lint -f FILE`, with the file's values in place of the chart's own."""
    chart = with_watched(tmp_path)
    own = yaml.safe_load((chart / "values.yaml").read_text())
    own["config"]["log"]["levle"] = "debug"
    (chart / "values.yaml").write_text(yaml.safe_dump(own))
    with quiet():
        errors = helm_python.lint(chart, strict=True)["errors"]
    assert "levle" in " ".join(map(str, errors))


def test_config_takes_every_key_that_is_not_the_charts_own(tmp_path: Path) -> None:
    """Each with its default: the schema knows it, and so does the node."""
    given: dict[str, dict[str, Any]] = {}
    for section, keys in schema.sections().items():
        defaults = getattr(Config(), section)
        given[section] = {key: getattr(defaults, key) for key in keys if getattr(defaults, key) is not None}
    given["cluster"]["segment_bytes"] = "256 MiB"
    (config_map,) = (
        d
        for d in documents(render({"config": given, "tls": {"enabled": False}}))
        if d["kind"] == "ConfigMap" and "node.toml" in d["data"]
    )
    file = tmp_path / "node.toml"
    file.write_text(config_map["data"]["node.toml"].replace("/var/lib/perenne", str(tmp_path)))
    config = load_config(file, {"PERENNE_NODE__ID": "perenne-0"})
    assert len(given) >= 10
    for section, keys in schema.sections().items():
        for key in keys:
            assert getattr(getattr(config, section), key) == getattr(getattr(Config(), section), key), key


def test_the_schema_of_config_is_current() -> None:
    assert schema.FILE.read_text() == schema.document(), "run script/chart"
    every = {f"{section.name}.{key.name}" for section in fields(Config) for key in fields(kinds()[section.name])}
    own = {key for name, keys in schema.OF_THE_CHART.items() for key in keys_of(name, keys)}
    assert own <= every, "what the chart sets by itself exists"
    known = {f"{section}.{key}" for section, keys in schema.sections().items() for key in keys}
    assert known | own == every
    assert not known & own


def kinds() -> dict[str, type]:
    return {**get_type_hints(Config), "ae": AeConfig}


def keys_of(section: str, keys: frozenset[str] | None) -> set[str]:
    return {f"{section}.{key}" for key in keys or (member.name for member in fields(kinds()[section]))}


def test_the_schema_knows_every_value() -> None:
    whole: Any = yaml.safe_load(schema.FILE.read_text())
    for path, _, _ in table.rows((CHART / "values.yaml").read_text()):
        place = whole
        for name in path.split("."):
            assert name in place["properties"], path
            place = place["properties"][name]
            place = whole["$defs"][place["$ref"].rsplit("/", 1)[1]] if "$ref" in place else place
