"""Goal: whoever installs the chart is told what will not work, and what to do. Method: the notes that Helm renders."""

from typing import Any

import pytest

from tests.chart.rendering import NAMESPACE, render

ELSEWHERE = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
HERE: dict[str, Any] = {"podSelector": {}}
WATCHED = {"serviceMonitor": {"enabled": True}}


def notes(values: dict[str, Any]) -> str:
    (text,) = (text for path, text in render(values).items() if path.endswith("NOTES.txt"))
    return text


@pytest.mark.parametrize("metrics", [WATCHED, {"prometheusRule": {"enabled": True}}])
def test_a_prometheus_that_is_shut_out_is_told(metrics: dict[str, Any]) -> None:
    said = notes({"metrics": metrics})
    assert f"networkPolicy.httpFrom lets in pods of the namespace {NAMESPACE} alone" in said
    assert "--set-json 'networkPolicy.httpFrom=[" in said
    assert "lets in the nodes alone" in notes({"metrics": metrics, "networkPolicy": {"httpFrom": []}})


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"metrics": WATCHED, "networkPolicy": {"enabled": False}},
        {"metrics": WATCHED, "networkPolicy": {"httpFrom": [HERE, ELSEWHERE]}},
        {"metrics": WATCHED, "networkPolicy": {"httpFrom": [{"ipBlock": {"cidr": "10.1.0.0/16"}}]}},
    ],
)
def test_who_is_not_shut_out_is_told_nothing(values: dict[str, Any]) -> None:
    said = notes(values)
    assert "Success means 2 durable copies" in said
    assert "httpFrom" not in said


@pytest.mark.parametrize(
    ("values", "cause", "step"),
    [
        (
            {"tls": {"enabled": False}},
            "nodes speak to each other in plain text",
            "--set tls.secretName=perenne-secrets",
        ),
        ({"tls": {"enabled": False}}, "whoever reaches ZooKeeper may decide who leads", "zookeeper.credentialsSecret"),
        ({"tls": {"enabled": False}}, "nodes speak with ZooKeeper in plain text", "zookeeper.bundled.tls"),
        ({"zookeeper": {"bundled": {"tls": False}}}, "nodes speak with ZooKeeper in plain text", "bundled.tls"),
        ({"zookeeper": {"external": "zk:2181"}}, "with ZooKeeper in plain text", "config.coordination.tls is not set"),
        ({"httpToken": {"enabled": False}}, "whoever reaches port 8080 reads every image", "httpToken"),
    ],
)
def test_a_door_that_stands_open_is_told(values: dict[str, Any], cause: str, step: str) -> None:
    (told,) = (part for part in notes(values).split("\n\nNOTE: ") if cause in part)
    assert step in told
    assert cause not in notes({})


def test_the_default_has_no_door_to_tell_of() -> None:
    assert "NOTE:" not in notes({})
    assert "Locked with the secret perenne-secrets" in notes({})
