"""What a journal owes, with deletes in it: what may have come before or after is neither owed nor gone."""

import pytest

from perenne.journal import Event, owed


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
