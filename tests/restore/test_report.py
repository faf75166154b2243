"""What a restore says at its end: a person reads it, also when a bucket lost a thousand objects."""

from replication.restore.beyond import Kept
from replication.restore.plan import Hole
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


def test_many_gaps_are_named_up_to_a_limit() -> None:
    report = Report("cluster", "tier", "data", "c", 4096, GENESIS, LogPosition(1, 900))
    why = tuple(f"object {number} is gone" for number in range(NAMED + 3))
    report.holes = tuple(Hole(number, number, why) for number in range(1, 3 * NAMED, 2))
    text = report.text().splitlines()
    assert sum(line.startswith("MISSING: record ") for line in text) == NAMED
    assert f"MISSING: and {len(report.holes) - NAMED} more such places; --json names all" in text
    assert sum("is gone" in line for line in text) == NAMED * NAMED
    assert len(report.document()["missing"]) == len(report.holes)
