"""What a journal owes, with deletes in it: what may have come before or after is neither owed nor gone."""

from pathlib import Path

import pytest

from perenne.cli.journal import show
from perenne.journal import Event, JournalUnreadable, events, owed
from perenne.nodeaccess import NodeAccess


@pytest.mark.parametrize(
    ("story", "is_owed", "is_gone"),
    [
        ("offered acknowledged", True, False),
        ("offered acknowledged deleting deleted", False, True),
        ("offered acknowledged deleted", False, True),
        ("offered acknowledged deleting", False, False),
        ("offered acknowledged deleting kept", True, False),
        ("offered acknowledged deleting deleted offered", False, False),
        ("offered acknowledged deleting deleted offered acknowledged", True, False),
        ("offered acknowledged offered deleting deleted acknowledged", False, False),
        ("offered acknowledged deleting offered deleted acknowledged", False, False),
        ("offered acknowledged deleting offered acknowledged deleted", False, False),
        ("offered acknowledged offered broken deleting deleted", False, False),
        ("offered acknowledged offered refused deleting deleted", False, True),
        ("offered acknowledged deleting offered acknowledged kept", True, False),
    ],
)
def test_what_is_owed(story: str, is_owed: bool, is_gone: bool) -> None:
    history = [Event(event, "1.1", float(at), "aa" if "e" in event else "") for at, event in enumerate(story.split())]
    debt = owed(history)["1.1"]
    assert (bool(debt.datasets), debt.gone) == (is_owed, is_gone)


def test_what_was_deleted_must_not_come_back_under_a_uid_that_was_stored_again() -> None:
    story = (("offered", "aa"), ("acknowledged", "aa"), ("deleting", ""), ("deleted", ""), ("offered", "bb"))
    history = [Event(event, "1.1", float(at), dataset) for at, (event, dataset) in enumerate(story)]
    assert owed(history)["1.1"].buried == {"aa"}
    assert owed([*history, Event("offered", "1.1", 9, "aa")])["1.1"].buried == set()


def test_a_word_that_is_no_event_is_not_passed_over(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    journal.write_text('{"event":"acknowleged","uid":"1.1","at":1.0,"dataset":"aa"}\n')
    with pytest.raises(JournalUnreadable, match="line 1: there is no event 'acknowleged'"):
        list(events(journal))


def test_a_journal_of_nothing_proves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = tmp_path / "journal.jsonl"
    journal.touch()
    assert show(journal, ["127.0.0.1:1"], NodeAccess(), as_json=False) == 3
    assert "nothing is proved" in capsys.readouterr().out
