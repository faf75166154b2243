"""Goal: every alert fires when it must, keeps quiet when it must, rests on series that exist, and says what to do; and
the tiles beside them call nothing well that nobody can know.

Method: Prometheus' own judge, promtool, over the rules, over tiles and over a node's exposition.
"""

import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.monitoring.dashboard import panels, substituted
from tests.monitoring.exposition import metrics

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "monitoring" / "alerts" / "perenne.yaml"
TESTS = sorted((RULES.parent / "tests").glob("*.yaml"))
SEVERITIES = {"critical", "warning", "info"}
promtool = pytest.mark.needs("promtool")


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def series(exposition: str) -> set[str]:
    return set(re.findall(r"^(perenne_\w+)", exposition, re.MULTILINE))


def run(*words: str, text: str = "") -> None:
    done = subprocess.run(["promtool", *words], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_has_a_firing_and_a_quiet_case() -> None:
    fires: Counter[str] = Counter()
    quiet: Counter[str] = Counter()
    for file in TESTS:
        for case in yaml.safe_load(file.read_text())["tests"]:
            for one in case["alert_rule_test"]:
                (fires if one["exp_alerts"] else quiet)[one["alertname"]] += 1
    names = {rule["alert"] for rule in alerts()}
    assert len(names) == len(alerts()) > 30
    assert (set(fires), set(quiet)) == (names, names)


@promtool
def test_promtool_finds_nothing_wrong_with_the_rules() -> None:
    run("check", "rules", "--lint=all", "--lint-fatal", str(RULES))


@promtool
@pytest.mark.parametrize("file", TESTS, ids=[file.stem for file in TESTS])
def test_promtool_agrees_with_the_cases(file: Path) -> None:
    run("test", "rules", str(file))


def test_under_replicated_and_for_long_are_the_same_condition() -> None:
    (short,) = (rule for rule in alerts() if rule["alert"] == "PerenneUnderReplicated")
    (long,) = (rule for rule in alerts() if rule["alert"] == "PerenneUnderReplicatedLong")
    assert short["expr"] == long["expr"]


def node(name: str, leads: int, *, tier: int = 0, alive: bool = True) -> list[dict[str, str]]:
    """Its series, as of three in sync; of one that is not alive they end after three minutes."""
    values = {
        "perenne_build_info": 1,
        "perenne_in_sync_replicas": 3,
        "perenne_tier_in_sync": tier,
        "perenne_tier_configured": tier,
        "perenne_under_replicated_records": 0,
        'perenne_role{role="leader"}': leads,
    }
    if tier and leads:
        values['perenne_replica_lag_records{replica="tier"}'] = 9
    span = "x10" if alive else "x3 stale"
    labels = f'cluster="c", node="{name}"'
    return [
        {
            "series": f"{series[:-1]}, {labels}}}" if series.endswith("}") else f"{series}{{{labels}}}",
            "values": f"{value}{span}",
        }
        for series, value in values.items()
    ]


ALL_WELL = [*node("n1", 1), *node("n2", 0), *node("n3", 0)]
ONE_DIED = [*node("n1", 1), *node("n2", 0), *node("n3", 0, alive=False)]
WITH_TIER = [*node("n1", 1, tier=1), *node("n2", 0, tier=1)]
LEADER_DIED = [*node("n1", 1, alive=False), *node("n2", 0), *node("n3", 0)]
ALL_DIED = [*node("n1", 1, alive=False), *node("n2", 0, alive=False), *node("n3", 0, alive=False)]


@promtool
@pytest.mark.parametrize(
    ("series", "copies", "under", "behind"),
    [
        pytest.param(ALL_WELL, 3, 0, 0, id="all well"),
        pytest.param(ONE_DIED, 2, 0, 0, id="the last state says 3, and 2 answer"),
        pytest.param(WITH_TIER, 3, 0, 9, id="two nodes and the tier"),
        pytest.param(LEADER_DIED, 0, None, None, id="nobody leads"),
        pytest.param(ALL_DIED, 0, None, None, id="all died"),
    ],
)
def test_tiles_call_nothing_well_that_nobody_can_know(
    tmp_path: Path, series: list[dict[str, str]], copies: int, under: int | None, behind: int | None
) -> None:
    tiles = {panel.title: substituted(panel.expressions[0], "c") for panel in panels() if panel.kind == "stat"}
    expected = {"Copies of a new instance": copies, "Under-replicated records": under, "Tier is behind by": behind}
    asked = [
        {
            "expr": tiles[title],
            "eval_time": "6m",
            "exp_samples": [] if value is None else [{"labels": "{}", "value": value}],
        }
        for title, value in expected.items()
    ]
    case = {"interval": "1m", "input_series": series, "promql_expr_test": asked}
    file = tmp_path / "tiles.yaml"
    file.write_text(yaml.safe_dump({"evaluation_interval": "1m", "tests": [case]}))
    run("test", "rules", str(file))


def test_a_tile_without_data_is_not_green() -> None:
    """Without data Grafana takes the colour of the first step, or of what stands for null."""
    for panel in panels():
        shown = panel.facts["fieldConfig"]["defaults"]
        known_anyway = panel.expressions[0].startswith("count(ALERTS") or "or vector(-1)" in panel.expressions[0]
        if panel.kind != "stat" or shown["thresholds"]["steps"][0]["color"] != "green" or known_anyway:
            continue
        (null,) = [one["options"]["result"] for one in shown["mappings"] if one["options"].get("match") == "null"]
        assert (null["text"], null["color"]) == ("unknown", "orange"), panel.title
        assert "vector(" not in panel.expressions[0], panel.title


def test_each_alert_says_what_to_do() -> None:
    operating = (ROOT / "docs" / "operating.md").read_text()
    headings = re.findall(r"^## (.+)$", (ROOT / "docs" / "recovery.md").read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for rule in alerts():
        assert rule["labels"]["severity"] in SEVERITIES, rule["alert"]
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}, rule["alert"]
        file, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert file == "docs/recovery.md", rule["alert"]
        assert anchor in anchors, f"{rule['alert']}: docs/recovery.md has no heading for #{anchor}"
        assert f"| `{rule['alert']}` |" in operating, f"{rule['alert']} is missing in docs/operating.md"


def test_each_alert_rests_on_series_that_exist(tmp_path: Path) -> None:
    exported = series(metrics(tmp_path).render().decode())
    for rule in alerts():
        named = set(re.findall(r"\bperenne_\w+", rule["expr"]))
        assert named <= exported, f"{rule['alert']}: {named - exported}"
        assert named or "up{" in rule["expr"], rule["alert"]


@promtool
def test_the_exposition_keeps_the_conventions(tmp_path: Path) -> None:
    run("check", "metrics", text=metrics(tmp_path, "CT1").render().decode())


def test_each_configured_sender_is_counted_and_no_other_has_a_name(tmp_path: Path) -> None:
    watched = metrics(tmp_path, "CT1", "MR1")
    watched.association_opened("CT1")
    watched.stored(10, 0.1, 0, "CT1")
    watched.stored(10, 0.1, 0xA700, "CT1")
    watched.association_rejected("calling_ae", "EVIL")
    text = watched.render().decode()
    assert 'perenne_sender_instances_total{ae="CT1",result="received"} 1.0' in text
    assert 'perenne_sender_instances_total{ae="CT1",result="refused"} 1.0' in text
    assert 'perenne_sender_associations_total{ae="other",result="rejected"} 1.0' in text
    assert 'perenne_sender_last_seen_timestamp_seconds{ae="MR1"} 0.0' in text
    assert 'perenne_sender_last_seen_timestamp_seconds{ae="CT1"} 0.0' not in text
    assert "EVIL" not in text
