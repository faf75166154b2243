"""What a restore says at its end: a person reads it, also when a bucket lost a thousand objects."""

from replication.restore.beyond import Kept
from replication.restore.report import NAMED, Report
from replication.tier.keys import Run
from storage.position import GENESIS, LogPosition


def _run(number: int) -> Run:
    return Run(1, number, number, bytes(8))


def test_many_objects_are_named_up_to_a_limit_and_all_of_them_in_json() -> None:
    report = Report("cluster", "tier", "data", "c", 4096, GENESIS, LogPosition(1, 900))
    report.kept = [Kept(_run(number), "", "gone", ()) for number in range(1, NAMED + 6)]
    report.damaged = {_run(number): "altered" for number in range(1, NAMED + 1)}
    text = report.text().splitlines()
    assert sum(line.startswith("beyond the gap") for line in text) == NAMED
    assert sum(line.startswith("DAMAGED") for line in text) == NAMED
    assert [line.strip() for line in text if "more like these" in line] == ["and 5 more like these; --json names all"]
    assert len(report.document()["aside"]) == NAMED + 5
