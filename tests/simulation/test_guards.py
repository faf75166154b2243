"""The list of guards names code that is there: a guard that moved unnoticed would be one that nobody takes away."""

from pathlib import Path

import pytest

from tests.simulation.guards import GUARDS, Guard

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_the_guard_is_there_once(guard: Guard) -> None:
    assert (ROOT / guard.file).read_text().count(guard.old) == 1
    assert guard.new != guard.old
