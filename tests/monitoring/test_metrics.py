"""Goal: every metric is exported from the start, keeps the conventions, teaches, and stands in docs/metrics.md.

Method: a real node in this process, its registry, a real scrape of its port, promtool; no list kept by hand.
That labels know every value from the start: tests/dimse/test_refusals.py.
"""

import asyncio
import re
import subprocess
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge

from tests.monitoring.document import DOCUMENT, OF_OTHERS, Described, described, document, objections
from tests.monitoring.real_node import node_in, scraped

MONITORING = Path(__file__).resolve().parents[2] / "monitoring"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Described], str]:
    """What a node that has just begun has in its registry, and what it answers to a scrape."""
    directory = tmp_path_factory.mktemp("node")

    async def run() -> tuple[list[Described], str]:
        async with node_in(directory) as running:
            return described(running.exported.registry), await scraped(running, directory)

    return asyncio.run(run())


def test_the_document_is_current(node: tuple[list[Described], str]) -> None:
    assert DOCUMENT.read_text() == document(node[0]), "run script/metrics-doc"


def test_every_metric_keeps_the_conventions_and_is_there_from_the_start(node: tuple[list[Described], str]) -> None:
    assert objections(node[0]) == []
    assert len(node[0]) > 70


def test_what_breaks_the_conventions_is_named() -> None:
    registry = CollectorRegistry()
    Gauge("perenne_wait_ms", "How long somebody waited", registry=registry)
    Gauge("queue_total", "How many somebodies wait", registry=registry)
    Counter("perenne_things", "Things", registry=registry)
    Counter("perenne_late", "Comes with the first of them", ["reason"], registry=registry)
    found = "\n".join(objections(described(registry)))
    assert "perenne_wait_ms: base units" in found
    assert "queue_total: the prefix" in found
    assert "queue_total: counters end" in found
    assert "perenne_things_total: its help" in found
    assert "perenne_late_total: no series from the start" in found


def test_a_scrape_has_every_metric_of_the_code(node: tuple[list[Described], str]) -> None:
    """Every name that is written in monitoring/ comes out of the port, with samples unless they are of other nodes."""
    metrics, text = node
    families = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    assert families == {metric.name for metric in metrics}
    sampled = {re.sub(r"_(bucket|count|sum)$", "", name) for name in re.findall(r"^(\w+)[ {]", text, re.MULTILINE)}
    assert families - sampled == {metric.name for metric in metrics if OF_OTHERS & metric.labels.keys()}
    written = {name for file in MONITORING.glob("*.py") for name in re.findall(r'"(perenne_\w+)"', file.read_text())}
    assert len(written) > 60
    assert {name for name in written if not {name, f"{name}_total"} & families} == set()


@pytest.mark.needs("promtool")
def test_promtool_agrees_with_a_real_scrape(node: tuple[list[Described], str]) -> None:
    done = subprocess.run(["promtool", "check", "metrics"], input=node[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
