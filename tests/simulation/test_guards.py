"""The list of guards names code that is there: a guard that moved unnoticed would be one that nobody takes away."""

from pathlib import Path

import pytest

from tests.simulation.guard import Guard
from tests.simulation.guards import GUARDS

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_the_guard_is_there_once(guard: Guard) -> None:
    source = (ROOT / guard.file).read_text()
    assert source.count(guard.old) == 1
    assert guard.new != guard.old
    # Whatever fails for a mistake in the mutant itself shows nothing.
    compile(source.replace(guard.old, guard.new), guard.file, "exec")


def test_every_guard_has_a_test_that_fails_without_it_or_is_needless() -> None:
    assert not [guard.name for guard in GUARDS if not guard.shown_by and not guard.needless]


def test_the_table_of_the_proof_names_every_guard() -> None:
    table = (ROOT / "docs/proof.md").read_text()
    assert not [guard.name for guard in GUARDS if f"| {guard.name} |" not in table]


@pytest.mark.parametrize("guard", [guard for guard in GUARDS if guard.shown_by], ids=lambda guard: guard.name)
def test_the_test_that_shows_it_is_there(guard: Guard) -> None:
    path, _, name = guard.shown_by.partition("::")
    assert f"def {name.partition('[')[0]}(" in (ROOT / path).read_text()
    assert not guard.needless
