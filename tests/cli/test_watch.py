"""Goal: `script/up --watch` watches every node with the real rules, and `script/down` ends that as well.

Method: the very commands, with two nodes; Prometheus itself says what it watches.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml

from perenne.local import up
from perenne.local.cluster import LocalCluster
from perenne.local.processes import wait_until
from perenne.local.prometheus import RULES, Prometheus


def called(*arguments: str) -> int:
    return up.main(list(arguments))


def running(directory: Path) -> Prometheus:
    found = LocalCluster.load(directory).prometheus
    assert found is not None, "cluster.json knows it"
    return found


def watched(prometheus: Prometheus) -> dict[str, str]:
    """By node: where it is scraped, if it is."""
    return {
        series["metric"]["node"]: series["metric"]["instance"]
        for series in prometheus.query('up{job="perenne", cluster="local"} == 1')
    }


def targets(prometheus: Prometheus) -> set[str]:
    return {target["labels"]["node"] for target in prometheus.ask("targets")["activeTargets"]}


def test_up_watches_and_down_ends_that_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERENNE_CLUSTER__SEGMENT_BYTES", "4194304")
    monkeypatch.setenv("PERENNE_STORAGE__SPARE_SEGMENTS", "1")
    monkeypatch.setenv("PERENNE_STORAGE__RESERVE_BYTES", "1048576")
    directory = tmp_path / "mine"
    here = ("--dir", str(directory))
    try:
        assert called("up", *here, "--nodes", "2", "--watch") == 0
        prometheus = running(directory)
        assert f"Prometheus {prometheus.url}/alerts" in capsys.readouterr().out

        nodes = {node.id: f"127.0.0.1:{node.http_port}" for node in LocalCluster.load(directory).nodes}
        assert len(nodes) == 2
        wait_until(lambda: watched(prometheus) == nodes, [prometheus.running], "every node is scraped", 20)
        groups: list[dict[str, Any]] = prometheus.ask("rules")["groups"]
        wanted = [rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
        assert sorted(rule["name"] for group in groups for rule in group["rules"]) == sorted(wanted)

        # Again, without asking for it: it is found, and watches the node that is new.
        assert called("up", *here, "--nodes", "3") == 0
        assert running(directory) == prometheus
        assert prometheus.url in capsys.readouterr().out
        wait_until(lambda: len(targets(prometheus)) == 3, [prometheus.running], "the new node is a target", 20)
        assert targets(prometheus) == {node.id for node in LocalCluster.load(directory).nodes}
    finally:
        assert called("down", *here) == 0
    assert "ended 5 processes" in capsys.readouterr().err
    assert not prometheus.running.alive
    assert LocalCluster.load(directory).prometheus is None
