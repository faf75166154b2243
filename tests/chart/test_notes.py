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


def test_doors_that_stand_open_are_told_until_they_are_shut() -> None:
    said = notes({})
    assert "nodes speak to each other in plain text" in said
    assert "perenne certs certificates perenne-0 perenne-1 perenne-2" in said
    assert "httpToken is not set" in said
    shut = notes({"tls": {"secretName": "certificates"}, "httpToken": {"name": "token"}})
    assert "plain text" not in shut and "httpToken" not in shut
