"""Goal: the dashboard can be loaded and read: rows in the order of questions, every panel explained, in its place.

Method: the file itself. That each expression has data: tests/monitoring/test_watching.py.
"""

import itertools
import json
import re
from typing import Any

from tests.monitoring.dashboard import BOARD, panels

ROWS = ["Is it safe?", "Is it accepting?", "Replication", "Storage and scrub", "Tier", "Web", "ZooKeeper", "Process"]
UNITS = {"none", "short", "s", "bytes", "Bps", "ops", "percentunit"}
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def board() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(BOARD.read_text())
    return loaded


def test_rows_come_in_the_order_in_which_one_asks() -> None:
    assert [row for row, _ in itertools.groupby(panel.row for panel in panels())] == ROWS
    assert board()["uid"] == "perenne"
    assert "__inputs" not in board()


def test_variables_choose_source_cluster_node_and_calling_ae() -> None:
    variables = {one["name"]: one for one in board()["templating"]["list"]}
    assert list(variables) == ["datasource", "cluster", "node", "ae"]
    assert variables["cluster"]["definition"] == "label_values(perenne_ready, cluster)"
    assert variables["node"]["definition"] == 'label_values(perenne_ready{cluster="$cluster"}, node)'
    seen = 'label_values(perenne_sender_last_seen_timestamp_seconds{cluster="$cluster"}, ae)'
    assert variables["ae"]["definition"] == variables["ae"]["query"]["query"] == seen
    for name in ("node", "ae"):
        one = variables[name]
        assert one["multi"] and one["includeAll"] and one["allValue"] == ".*", name
    used = {name for panel in panels() for text in panel.expressions for name in re.findall(r"\$(\w+)", text)}
    assert used == {"cluster", "node", "ae", "__rate_interval"}


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


def test_a_heatmap_has_what_grafana_wants_of_one() -> None:
    """What its schema calls required (HeatmapPanelCfg); buckets come counted from Prometheus, by their upper bound."""
    found = [panel for panel in panels() if panel.kind == "heatmap"]
    assert len(found) > 5
    for panel in found:
        options = panel.facts["options"]
        assert options.keys() >= {"color", "exemplars", "legend", "showValue", "tooltip", "yAxis"}, panel.title
        assert options["color"].keys() >= {"exponent", "fill", "mode", "reverse", "scale", "scheme", "steps"}, (
            panel.title
        )
        assert options["calculate"] is False and options["yAxis"]["unit"] == "s", panel.title
        (target,) = panel.facts["targets"]
        assert (target["format"], target["legendFormat"]) == ("heatmap", "{{le}}"), panel.title
        assert target["expr"].startswith("sum by (le) (increase("), panel.title


def test_a_tile_says_so_when_there_is_no_data() -> None:
    for panel in panels():
        if panel.kind != "stat" or " or vector(" in panel.expressions[0]:
            continue
        special = [
            one["options"] for one in panel.facts["fieldConfig"]["defaults"]["mappings"] if one["type"] == "special"
        ]
        assert {one["match"] for one in special} <= {"null", "nan", "null+nan", "true", "false", "empty"}, panel.title
        (null,) = [one["result"] for one in special if one["match"] == "null"]
        assert null["text"] and null["color"] != "green", panel.title


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
