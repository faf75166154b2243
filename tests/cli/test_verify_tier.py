"""Goal: `perenne verify --tier` that is interrupted, wherever, goes on where it was: nothing is left out, nothing that
was found is lost.

Method: a real directory tier with a dead branch and doubled records in it, and a real SIGINT while an object is read.
"""

import asyncio
import itertools
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perenne.cli.verify_tier import verify_tier
from perenne.config import TierConfig
from perenne.config_tier import blocking_store, patient_store
from replication.tier.bodies import body_facts
from replication.tier.directory import DirectoryStore
from replication.tier.keys import Run, parse_run, run_name
from replication.tier.port import NotThere, TierError, Unreachable
from storage.log import Log
from tests.integration.rig import perenne
from tests.storage.log_helpers import IDENTITY, append
from tests.storage.memory_disk import MemoryDisk

CUTS = [(1, 4), (5, 7), (8, 14), *((number, number) for number in range(15, 22))]
DOUBLED = [(6, 7), (9, 11)]
DEAD = [(15, 16), (17, 17)]
OBJECTS = len(CUTS) + len(DOUBLED) + len(DEAD)


pytestmark = pytest.mark.usefixtures("ctrl_c")


@pytest.fixture
def san(tmp_path: Path) -> TierConfig:
    mount = tmp_path / "san"
    mount.mkdir()
    settings = TierConfig(kind="directory", directory=mount)
    blocking_store(settings, {}).prepare()
    log, dead = (Log.open(MemoryDisk(), IDENTITY, host_rebooted=False, spares=0)[0] for _ in range(2))
    for sequence in range(1, 22):
        append(log, 3000, 1 if sequence < 8 else 2 if sequence < 15 else 3)
    for sequence in range(1, 18):
        append(dead, 3000, 1 if sequence < 8 else 2, salt=int(sequence > 14))
    objects = [(log, *cut) for cut in CUTS + DOUBLED] + [(dead, *cut) for cut in DEAD]

    async def put() -> None:
        store = patient_store(settings, blocking_store(settings, {}))
        for source, first, last in objects:
            end = source.point_at(last)
            assert end is not None
            body = b"".join(map(source.read_raw, range(first, last + 1)))
            await store.put(run_name(first, end).key, body)
        await store.close()

    asyncio.run(put())
    return settings


class Key:
    """Presses Ctrl-C while the n-th object is asked for; 0: never. asked: whatever was answered."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
        self.asked: set[str] = set()
        self.press_at = 0
        calls = itertools.count(1)
        real = getattr(DirectoryStore, method)

        def spied(store: DirectoryStore, key: str) -> Any:
            if next(calls) == self.press_at:
                os.kill(os.getpid(), signal.SIGINT)
                raise TierError("interrupted")
            found = real(store, key)
            self.asked.add(key)
            return found

        monkeypatch.setattr(DirectoryStore, method, spied)


def pack(san: TierConfig, epoch: int) -> None:
    """One object in the place of all those of an epoch."""
    store = blocking_store(san, {})
    held = objects(san, epoch)
    end, body = max(held, key=lambda run: run.last), b""
    upto = held[0].first - 1
    for run in held:
        if run.first == upto + 1:
            body, upto = body + store.get(run.key), run.last
    whole = Run(epoch, held[0].first, end.last, end.chain_prefix)
    store.put(whole.key, body, body_facts(body), only_if_absent=True, lock=False)
    for run in held:
        store.delete(run.key)


def lose(san: TierConfig, sequence: int) -> None:
    (run,) = (run for run in objects(san, 3) if run.first == sequence)
    blocking_store(san, {}).delete(run.key)


def objects(san: TierConfig, epoch: int) -> list[Run]:
    assert san.directory is not None
    names = sorted(path.name for path in (san.directory / "log" / f"{epoch:012d}").iterdir())
    return [run for name in names if (run := parse_run(f"log/{epoch:012d}/{name}")) is not None]


def damage(san: TierConfig, number: int) -> Path:
    assert san.directory is not None
    path = sorted((san.directory / "log").glob("*/*.tar"))[number]
    sound = path.read_bytes()
    path.with_name(f"{path.name}.sound").write_bytes(sound)
    path.unlink()
    path.write_bytes(sound[:5000] + b"rot" + sound[5003:])
    return path


def mend(san: TierConfig) -> None:
    assert san.directory is not None
    for path in (san.directory / "log").glob("*/*.sound"):
        path.rename(path.with_suffix(""))


class Meanwhile:
    """Does something while the n-th object is asked for, before it is answered."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, method: str, at: int, deed: Callable[[], None]) -> None:
        real = getattr(DirectoryStore, method)
        calls = itertools.count(1)

        def spied(store: DirectoryStore, key: str) -> Any:
            if next(calls) == at:
                deed()
            return real(store, key)

        monkeypatch.setattr(DirectoryStore, method, spied)


def verified(
    san: TierConfig, capsys: pytest.CaptureFixture[str], *, deep: bool, first: str | None = None, study: str = ""
) -> tuple[int, dict[str, Any], str]:
    capsys.readouterr()
    run = parse_run(first) if first is not None else None
    code = verify_tier(san, blocking_store(san, {}), deep=deep, study=study, as_json=True, first=run)
    said = capsys.readouterr()
    facts: dict[str, Any] = json.loads(said.out)
    return code, facts, said.err


@pytest.mark.parametrize("press_at", range(1, OBJECTS + 1))
def test_interrupted_it_goes_on_where_it_was(
    san: TierConfig, press_at: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key = Key(monkeypatch, "get")
    key.press_at = press_at
    code, facts, error = verified(san, capsys, deep=True)
    assert (code, facts["interrupted"], facts["wrong"]) == (130, "interrupted", [])
    reached = facts["from"]
    before, key.asked = key.asked, set()
    assert len(before) == press_at - 1
    on = f"; `--from {reached}` goes on there" if reached else ""
    assert error == f"perenne: interrupted{on}\n"
    code, facts, _ = verified(san, capsys, deep=True, first=reached)
    assert (code, facts["wrong"]) == (0, [])
    assert len(before | key.asked) == OBJECTS, "together they read everything"
    again = before & key.asked
    assert len(again) <= 1 + len(DEAD), (
        "nothing is read again but where it was, and what ends between that and the next"
    )


@pytest.mark.parametrize("damaged", range(OBJECTS))
def test_what_is_damaged_is_named_by_one_of_the_two(
    san: TierConfig, damaged: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = damage(san, damaged)
    key = Key(monkeypatch, "get")
    key.press_at = OBJECTS // 2
    code, found, _ = verified(san, capsys, deep=True)
    assert code == 130
    code, more, _ = verified(san, capsys, deep=True, first=found["from"])
    named = [
        line for line in found["wrong"] + more["wrong"] if line.startswith(f"log/{path.parent.name}/{path.name}: ")
    ]
    assert named, (found, more)


def test_a_tier_that_goes_away_costs_nothing_that_was_found(
    san: TierConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(san, OBJECTS - 1)
    away = False

    def go_away() -> None:
        nonlocal away
        away = True

    real = DirectoryStore.get

    def unless_away(store: DirectoryStore, key: str) -> bytes:
        if away:
            raise Unreachable("the mount hangs")
        return real(store, key)

    monkeypatch.setattr(DirectoryStore, "get", unless_away)
    Meanwhile(monkeypatch, "get", 6, go_away)
    code, facts, error = verified(san, capsys, deep=True)
    assert code == 1 and len(facts["wrong"]) == 1 and facts["from"] is None
    assert error == "perenne: the mount hangs\n", "the newest object is damaged: nothing below it is of the branch"
    away = False
    monkeypatch.setattr(DirectoryStore, "get", unless_away)
    mend(san)
    Meanwhile(monkeypatch, "get", 6, go_away)
    code, facts, error = verified(san, capsys, deep=True)
    assert code == 1 and error == f"perenne: the mount hangs; `--from {facts['from']}` goes on there\n"


def test_of_a_study_each_record_counts_once(
    san: TierConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Meanwhile(monkeypatch, "get", 3, lambda: pack(san, 1))
    code, facts, _ = verified(san, capsys, deep=True, study="1.2")
    assert (code, facts["instances"]) == (0, 21), "neither doubles nor dead branches"
    key = Key(monkeypatch, "get")
    key.press_at = 5
    code, facts, _ = verified(san, capsys, deep=True, study="1.2")
    assert (code, facts["from"]) == (130, None), "those above would be missing"


def test_a_light_look_goes_on_as_well(
    san: TierConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key = Key(monkeypatch, "head")
    key.press_at = OBJECTS - 1
    code, facts, _ = verified(san, capsys, deep=False)
    assert code == 130 and facts["from"]
    before, key.asked = key.asked, set()
    code, facts, _ = verified(san, capsys, deep=False, first=facts["from"])
    assert (code, facts["complete_upto"]) == (0, 21)
    assert len(before | key.asked) == OBJECTS and len(key.asked) < OBJECTS


@pytest.mark.parametrize("epoch", [1, 3])
@pytest.mark.parametrize("at", range(1, OBJECTS + 1))
def test_what_is_packed_meanwhile_is_no_loss(
    san: TierConfig, at: int, epoch: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Meanwhile(monkeypatch, "get", at, lambda: pack(san, epoch))
    code, facts, _ = verified(san, capsys, deep=True)
    assert (code, facts["wrong"], facts["complete_upto"], facts["orphans"]) == (0, [], 21, len(DEAD))


@pytest.mark.parametrize("at", range(1, OBJECTS + 1))
def test_what_was_packed_between_the_two_is_no_loss(
    san: TierConfig, at: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key = Key(monkeypatch, "get")
    key.press_at = at
    code, facts, _ = verified(san, capsys, deep=True)
    assert code == 130
    pack(san, 3)
    first = facts["from"]
    code, facts, error = verified(san, capsys, deep=True, first=first)
    if first is not None and first.startswith(f"log/{3:012d}/"):
        assert code == 1 and "Verify it from the beginning." in error
    else:
        assert (code, facts["wrong"]) == (0, [])


def test_what_is_lost_meanwhile_is_a_loss(
    san: TierConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Meanwhile(monkeypatch, "get", 2, lambda: lose(san, 18))
    code, facts, _ = verified(san, capsys, deep=True)
    assert code == 1 and facts["wrong"] == ["record 18 cannot be restored: no object holds it"]


@pytest.mark.parametrize("deep", [False, True])
def test_what_is_listed_and_is_not_there_is_a_loss(
    san: TierConfig, deep: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    method = "get" if deep else "head"
    real = getattr(DirectoryStore, method)

    def without(store: DirectoryStore, key: str) -> Any:
        if "/000000000018-" in key:
            raise NotThere(f"{key}: no such object")
        return real(store, key)

    monkeypatch.setattr(DirectoryStore, method, without)
    code, facts, _ = verified(san, capsys, deep=deep)
    assert code == 1 and facts["wrong"][0].endswith(": it is listed, and is not there")
    assert len(facts["wrong"]) == 1 + deep, "and of a deep look, that a restore would end above it"


def test_a_light_look_takes_what_was_packed_meanwhile_for_no_loss(
    san: TierConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Meanwhile(monkeypatch, "head", 1, lambda: pack(san, 3))
    code, facts, _ = verified(san, capsys, deep=False)
    assert (code, facts["wrong"], facts["complete_upto"]) == (0, [], 21)


def test_where_it_cannot_go_on_it_says_so(san: TierConfig, tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text(
        f'[node]\nid = "n"\ndata_dir = "{tmp_path}/data"\n[tier]\nkind = "directory"\ndirectory = "{san.directory}"\n'
    )
    asked = "verify", "--tier", "--config", str(config), "--from"
    done = perenne(*asked, "17")
    assert done.returncode == 2 and "it wants the name of an object" in done.stderr
    done = perenne(*asked, "log/000000000009/000000000001-000000000002-0123456789abcdef.tar")
    assert done.returncode == 1 and "is not in the tier any more. Verify it from the beginning." in done.stderr
    done = perenne("verify", str(tmp_path), "--from", "log/x.tar")
    assert done.returncode == 2 and "it wants the number of a record" in done.stderr
