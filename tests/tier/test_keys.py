"""Goal: a name says exactly one content, and LIST gives the log in its order. Method: Hypothesis over pure names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication.tier.keys import (
    CLUSTER_KEY,
    WHOLE,
    Claim,
    Form,
    Marker,
    Run,
    form_of,
    manifest_key,
    parse_claim,
    parse_manifest,
    parse_marker,
    parse_run,
    run_name,
)
from replication.tier.port import check_key
from storage.position import LogPoint, LogPosition

NUMBER = st.integers(1, 10**12 - 1)
CHAIN = st.binary(min_size=32, max_size=32)
STUBS = st.sets(NUMBER, max_size=4)
WORD = st.text("0123456789abcdefABCDEFxyz", min_size=1, max_size=64)
PARSERS = (parse_run, parse_manifest, parse_marker, parse_claim)


@st.composite
def runs(draw: st.DrawFn) -> Run:
    first, last = sorted((draw(NUMBER), draw(NUMBER)))
    return run_name(first, LogPoint(LogPosition(draw(NUMBER), last), draw(CHAIN)), form_of(sorted(draw(STUBS))))


@given(runs())
def test_a_run_is_read_back_from_its_name(run: Run) -> None:
    assert parse_run(check_key(run.key)) == run


@given(runs(), runs())
def test_names_sort_as_the_log_does(one: Run, other: Run) -> None:
    assert (one.key < other.key) == (one < other)


@given(STUBS, STUBS)
def test_two_forms_of_the_same_records_have_two_names_in_the_order_of_their_stubs(
    some: set[int], others: set[int]
) -> None:
    end = LogPoint(LogPosition(3, 10**6), bytes(32))
    one, other = (run_name(1, end, form_of(sorted(stubs))) for stubs in (some, others))
    assert (one == other) == (one.key == other.key) == (some == others)
    assert (one.key < other.key) == (one < other)
    assert one.form.stubs == len(some)
    assert not one.covers(other)


@given(NUMBER, WORD, CHAIN, NUMBER)
def test_every_kind_of_name_is_read_by_its_own_parser_alone(number: int, word: str, chain: bytes, epoch: int) -> None:
    point = LogPoint(LogPosition(epoch, number), chain)
    names = (run_name(number, point).key, manifest_key(point), Marker(number, word).key, Claim(number, word).key)
    for name, own in zip(names, PARSERS, strict=True):
        check_key(name)
        assert [parser for parser in PARSERS if parser(name) is not None] == [own]
    assert parse_manifest(names[1]) == point.position
    assert parse_marker(names[2]) == Marker(number, word)
    assert parse_claim(names[3]) == Claim(number, word)


@given(runs(), st.data())
def test_a_name_with_one_character_changed_is_another_run_or_none(run: Run, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(run.key) - 1))
    changed = run.key[:place] + data.draw(st.characters()) + run.key[place + 1 :]
    found = parse_run(changed)
    assert found is None or found.key == changed


@pytest.mark.parametrize(
    "name",
    [
        CLUSTER_KEY,
        "log/000000000001/000000000002-000000000001-0011223344556677.tar",
        "log/000000000001/000000000000-000000000001-0011223344556677.tar",
        "log/000000000001/000000000001-000000000001-0011223344556677.tar\n",
        "log/000000000001/000000000001-000000000001-001122334455667A.tar",
        "log/00000000000１/000000000001-000000000001-0011223344556677.tar",
        "log/000000000001/000000000001-000000000001-0011223344556677_000000-0011223344556677.tar",
        "log/000000000001/000000000001-000000000001-0011223344556677_000001-00112233445566.tar",
        "log/000000000001/000000000001-000000000001-0011223344556677_1-0011223344556677.tar",
    ],
)
def test_what_is_not_exactly_a_run_is_left_alone(name: str) -> None:
    assert parse_run(name) is None


@pytest.mark.parametrize(("epoch", "first", "last"), [(1, 0, 1), (1, 2, 1), (-1, 1, 1), (10**12, 1, 1), (1, 1, 10**12)])
def test_numbers_that_a_name_cannot_hold_are_refused(epoch: int, first: int, last: int) -> None:
    with pytest.raises(ValueError, match="no object holds"):
        Run(epoch, first, last, bytes(8))


@pytest.mark.parametrize(
    ("stubs", "digest"), [(1, b""), (0, bytes(8)), (10**6, bytes(8)), (-1, bytes(8)), (2, bytes(7))]
)
def test_forms_that_a_name_cannot_hold_are_refused(stubs: int, digest: bytes) -> None:
    with pytest.raises(ValueError, match="stubs with the digest"):
        Run(1, 1, 1, bytes(8), Form(stubs, digest))
    assert Run(1, 1, 1, bytes(8), WHOLE).key.endswith("-0000000000000000.tar")


def test_a_run_covers_what_lies_within_it_in_its_epoch() -> None:
    wide = Run(2, 5, 9, bytes(8))
    assert wide.covers(Run(2, 5, 6, bytes(8)))
    assert wide.covers(Run(2, 9, 9, bytes(8)))
    assert not wide.covers(wide)
    assert not wide.covers(Run(2, 9, 10, bytes(8)))
    assert not wide.covers(Run(3, 6, 7, bytes(8)))


@pytest.mark.parametrize("word", ["", "a/b", "a-b", "a" * 65, "ä"])
def test_words_that_could_not_be_read_back_are_refused(word: str) -> None:
    with pytest.raises(ValueError, match="recognised"):
        _ = Claim(1, word).key
    with pytest.raises(ValueError, match="recognised"):
        _ = Marker(1, word).key
