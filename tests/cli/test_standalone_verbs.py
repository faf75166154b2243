"""Verbs that choose among replicas say of a standalone node that there are none, whatever its tier does."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from perenne.cli.commands import app


@pytest.mark.parametrize(
    "verb",
    [
        ["failover", "--accept-loss"],
        ["coordination", "rebuild"],
        ["node", "replace", "solo"],
        ["node", "retire", "solo"],
    ],
)
def test_a_verb_for_clusters_names_the_configuration_of_a_standalone_node(verb: list[str], tmp_path: Path) -> None:
    config = tmp_path / "solo.toml"
    config.write_text(
        f'[node]\ndata_dir = "{tmp_path}/data"\n[tier]\nkind = "directory"\ndirectory = "{tmp_path}/away"\n'
    )
    done = CliRunner().invoke(app, [*verb, "--config", str(config)])
    assert done.exit_code == 2
    assert "that of a standalone node" in done.stderr and "--without" not in done.stderr
