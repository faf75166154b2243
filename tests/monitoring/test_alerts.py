"""Goal: every alert fires when it must, keeps quiet when it must, rests on series that exist, and says what to do.

Method: Prometheus' own judge, promtool, over the rules and over a node's exposition.
"""

import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

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
    assert len(names) == len(alerts()) > 15
    assert (set(fires), set(quiet)) == (names, names)


@promtool
def test_promtool_agrees_with_rules_and_cases() -> None:
    run("check", "rules", "--lint=all", "--lint-fatal", str(RULES))
    run("test", "rules", *map(str, TESTS))


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
