"""Goal: the dashboard can be loaded and read: rows in the order of questions, every panel explained, in its place.

Method: the file itself. That each expression has data: tests/monitoring/test_watching.py.
"""

import itertools
import json
import re
from typing import Any

from tests.monitoring.dashboard import BOARD, panels

ROWS = ["Is it safe?", "Is it accepting?", "Replication", "Storage and scrub", "Tier", "ZooKeeper", "Process"]
UNITS = {"none", "short", "s", "bytes", "Bps", "ops", "percentunit"}
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def board() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(BOARD.read_text())
    return loaded


def test_rows_come_in_the_order_in_which_one_asks() -> None:
    assert [row for row, _ in itertools.groupby(panel.row for panel in panels())] == ROWS
    assert board()["uid"] == "perenne"
    assert "__inputs" not in board()


def test_variables_choose_source_cluster_and_node() -> None:
    variables = {one["name"]: one for one in board()["templating"]["list"]}
    assert list(variables) == ["datasource", "cluster", "node"]
    assert variables["cluster"]["definition"] == "label_values(perenne_ready, cluster)"
    assert variables["node"]["definition"] == 'label_values(perenne_ready{cluster="$cluster"}, node)'
    assert variables["node"]["multi"] and variables["node"]["includeAll"] and variables["node"]["allValue"] == ".*"


def test_each_panel_explains_itself() -> None:
    for panel in panels():
        shown = panel.facts["fieldConfig"]["defaults"]
        assert len(panel.facts["description"].split()) >= 3, panel.title
        assert shown["unit"] in UNITS, panel.title
        assert shown["thresholds"]["steps"][0]["value"] is None, panel.title
        sources = [panel.facts["datasource"], *(one["datasource"] for one in panel.facts["targets"])]
        assert all(source == DATASOURCE for source in sources), panel.title
        if panel.kind == "stat":
            assert shown["color"] == {"mode": "thresholds"}, panel.title
    titles = [(panel.row, panel.title) for panel in panels()]
    assert len(set(titles)) == len(titles)


def test_each_expression_is_of_the_chosen_cluster() -> None:
    """Every selector names the cluster, and rates follow the resolution of the screen."""
    for panel in panels():
        for expression in panel.expressions:
            for name, labels in re.findall(r"\b(perenne_\w+|process_\w+|up|ALERTS|scrape_\w+)(\{[^}]*\})?", expression):
                assert 'cluster="$cluster"' in labels, f"{panel.title}: {name}{labels}"
            assert set(re.findall(r"\[([^]]+)\]", expression)) <= {"$__rate_interval", "1h", "1d"}, panel.title


def test_no_panel_lies_on_another() -> None:
    taken: dict[tuple[int, int], str] = {}
    every = board()["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    for panel in every:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        for cell in itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])):
            assert cell not in taken, f"{panel['title']} lies on {taken[cell]}"
            taken[cell] = panel["title"]
