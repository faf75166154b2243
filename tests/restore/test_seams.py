"""The chain at one record, found by headers alone, in whatever pieces an object comes, whatever else is damaged."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replication.restore.seams import HeaderSearch
from replication.tier.keys import Run, run_name
from storage.position import LogPoint
from storage.record import HEADER_LIMIT, RECORD_ALIGNMENT
from tests.restore.archive import Archive, body


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, bytes, dict[int, LogPoint]]:
    """Twelve records of many lengths as one object, and where each is."""
    made = Archive.begin(tmp_path_factory.mktemp("held") / "data")
    made.epoch(3)
    for size in (600, 70_000, 9_000, 600, 200_000, 4_096, 600, 30_000, 30_000, 600, 50_000):
        made.instances(1, size=size)
    points = {n: point for n in range(1, 13) if (point := made.log.point_at(n)) is not None}
    held = run_name(1, made.end), body(made.log, 1, 12), points
    made.sealed()
    return held


def found(run: Run, data: bytes, sequence: int, cuts: list[int]) -> bytes | None:
    looking = HeaderSearch(run, sequence)
    starts = [0, *sorted(cuts)]
    for start, end in zip(starts, [*starts[1:], len(data)], strict=True):
        if (chain := looking.feed(data[start:end], last=end == len(data))) is not None:
            return chain
    return None


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_it_is_found_in_any_pieces_and_behind_any_damage(
    held: tuple[Run, bytes, dict[int, LogPoint]], seed: int
) -> None:
    run, data, points = held
    chance = random.Random(seed)
    cuts = [chance.randrange(len(data)) for _ in range(chance.randrange(8))]
    sequence, damaged = chance.randrange(1, 13), chance.randrange(1, 13)
    altered = bytearray(data)
    altered[data.index(b"comment=seq=%d " % damaged) + 9] ^= 1
    expected = None if sequence == damaged else points[sequence].chain
    assert found(run, bytes(altered), sequence, cuts) == expected
    assert found(run, data, sequence, cuts) == points[sequence].chain


def test_a_header_within_an_image_is_nobodys(held: tuple[Run, bytes, dict[int, LogPoint]], tmp_path: Path) -> None:
    """Where headers lead from one to the next, what lies within a payload is not looked at."""
    run, data, points = held
    forged = bytearray(data)
    payload = data.index(b"DATA", data.index(b"comment=seq=6 "))
    within = payload - payload % RECORD_ALIGNMENT + RECORD_ALIGNMENT
    other = Archive.begin(tmp_path / "other")
    other.epoch(3)
    other.instances(8)
    forged[within : within + HEADER_LIMIT] = other.log.read_raw(9).ljust(HEADER_LIMIT, b"\0")
    other.sealed()
    assert found(run, bytes(forged), 9, []) == points[9].chain
    assert other.log.end.chain != points[9].chain
