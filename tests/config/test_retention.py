"""Which studies may go by their age: what is in doubt stays."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from msgspec import structs

from perenne.config import Config, RetentionConfig
from perenne.retention import RuleUnfit, fitting, parse_rules, retention_findings
from storage.listing import StudyAge

NOW = datetime(2026, 11, 26, tzinfo=UTC)


def arrived(days_ago: float) -> int:
    return int((NOW - timedelta(days=days_ago)).timestamp() * 1_000_000)


STUDY = StudyAge("1.2", "20100101", arrived(400), 10, 1000, ("US",), ("US1",))


@pytest.mark.parametrize(
    ("rules", "changed", "goes"),
    [
        ("modality=US age=10y since=study", {}, True),
        ("modality=US age=20y since=study", {}, False),
        ("modality=US,OT age=10y since=study", {"modalities": ("OT", "US")}, True),
        ("modality=US age=10y since=study", {"modalities": ("SR", "US")}, False),
        ("modality=US age=10y since=study", {"modalities": ("",)}, False),
        ("age=10y since=study", {"modalities": ("CT",)}, True),
        ("age=10y since=study", {"study_date": ""}, False),
        ("age=10y since=study", {"study_date": "yesterday"}, False),
        ("age=10y since=study", {"arrived_us": arrived(29)}, False),
        ("age=1d since=study", {"study": ""}, False),
        ("age=1y since=arrival", {}, True),
        ("age=2y since=arrival", {}, False),
        ("age=1y since=arrival ae=US1,US2", {}, True),
        ("age=1y since=arrival ae=US1", {"sources": ("US1", "US9")}, False),
        ("age=9y since=arrival; modality=US age=1y since=arrival", {}, True),
        ("", {}, False),
    ],
)
def test_a_study_goes_only_when_all_of_it_fits_one_rule(rules: str, changed: dict[str, object], goes: bool) -> None:
    study = structs.replace(STUDY, **changed)
    assert (fitting(study, parse_rules(rules), 30, NOW) is not None) is goes


def test_a_year_is_not_taken_for_shorter_than_it_is() -> None:
    (rule,) = parse_rules("age=1y since=study")
    assert rule.days == 366
    assert fitting(structs.replace(STUDY, study_date="20251126"), [rule], 0, NOW) is None


@pytest.mark.parametrize(
    "rules", ["modality=US", "age=10y", "age=10 since=study", "age=0d since=study", "age=1y since=birth", "colour=red"]
)
def test_a_rule_that_means_nothing_is_named(rules: str) -> None:
    with pytest.raises(RuleUnfit):
        parse_rules(rules)
    findings = list(retention_findings(Config(retention=RetentionConfig(rules=rules))))
    assert [key for key, _, _ in findings] == ["retention.rules"]


def test_an_approval_that_is_none_is_refused() -> None:
    config = Config(retention=replace(RetentionConfig(), approval="three-person", grace_days=-1))
    assert {key for key, _, _ in retention_findings(config)} == {"retention.approval", "retention.grace_days"}
    assert not list(retention_findings(Config()))
