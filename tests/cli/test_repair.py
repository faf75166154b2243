"""Goal: `perenne repair` and `perenne reindex` mend a stopped node's directory, and put nothing in that is not proved.

Method: a real log on a real disk, a copy of it as the other node, and damage of every kind behind their backs.
"""

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from perenne.cli.commands import app
from perenne.cli.reindex import reindex
from perenne.cli.repair import repair_offline
from perenne.cli.verify import verify_directory
from perenne.cli.verify_tier import verify_tier
from perenne.config import TierConfig
from perenne.config_tier import blocking_store, patient_store
from replication.tier.keys import run_name
from replication.tier.port import BlockingStore
from storage.digest import digests_of
from storage.disk import RealDisk
from storage.index import FILE, Index
from storage.log import Log
from storage.metadata import PromiseFile
from storage.position import LogPosition, RecordHeader, RecordKind, chain_after
from storage.reader import BytesPayload
from storage.table import ENTRIES_OFFSET, ENTRY_BYTES, PAGE
from storage.walk import Fault, Found, Walk
from tests.cli.two_nodes import two_nodes
from tests.integration.rig import made
from tests.moving.sources import part10
from tests.storage.log_helpers import IDENTITY, append, lose

Tier = tuple[TierConfig, BlockingStore]
SIZES = (100, 5000, 300, 9000, 40, 2000, 700)
FIRST, SECOND, NEWEST = (f"log/{first:012d}.tar" for first in (1, 8, 15))


@pytest.fixture
def nodes(tmp_path: Path) -> tuple[Path, Path]:
    """Two nodes with the same three segments of seven records; the first is to be damaged."""
    return two_nodes(tmp_path, SIZES)


def overwrite(file: Path, offset: int, data: bytes) -> None:
    with file.open("r+b") as opened:
        opened.seek(offset)
        opened.write(data)


def place(directory: Path, sequence: int) -> int:
    log = Log.open(RealDisk(directory), IDENTITY, host_rebooted=False, spares=0)[0]
    entry = log.entry(sequence)
    log.close()
    assert entry is not None
    return entry.offset


def repaired(one: Path, other: Path, *, dry_run: bool = False) -> int:
    return repair_offline(one, other=other, tier=None, dry_run=dry_run, as_json=False)


def segments(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (directory / "log").glob("*.tar")}


def saved(directory: Path) -> list[bytes]:
    return [path.read_bytes() for path in (directory / "lost+found").iterdir()]


def damage_records(one: Path) -> None:
    overwrite(one / FIRST, place(one, 2) + 5000, b"rot")
    overwrite(one / SECOND, place(one, 11), b"rot")
    overwrite(one / SECOND, ENTRIES_OFFSET + 6 * ENTRY_BYTES + 9, b"rot")
    overwrite(one / NEWEST, place(one, 16) + 5000, b"rot")


def damage_everything_of_a_segment(one: Path) -> None:
    overwrite(one / SECOND, 0, b"rot" * 16_000)


def lose_segments(one: Path) -> None:
    (one / FIRST).unlink()
    (one / SECOND).unlink()


def damage_the_tail(one: Path) -> None:
    """Both places of the last record, which is known to be committed: no torn tail, and nothing a node could cut."""
    last = place(one, 21)
    overwrite(one / NEWEST, last, b"rot")
    overwrite(one / NEWEST, ENTRIES_OFFSET + 6 * ENTRY_BYTES + 9, b"rot")


def damage_a_header(one: Path) -> None:
    overwrite(one / SECOND, 600, b"rot")


DAMAGES = [damage_records, damage_everything_of_a_segment, lose_segments, damage_a_header, damage_the_tail]


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_is_mended_from_the_other_node(
    nodes: tuple[Path, Path], damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = nodes
    damage(one)
    before = segments(one)
    assert verify_directory(one, deep=True, study="", as_json=False) == 1
    assert repaired(one, other, dry_run=True) == 1
    assert segments(one) == before, "a dry run changes nothing"
    assert repaired(one, other) == 0, capsys.readouterr().out
    assert segments(one) == segments(other)
    assert verify_directory(one, deep=True, study="", as_json=False) == 0
    assert damage in (lose_segments, damage_a_header) or any(b"rot" in content for content in saved(one))
    assert repaired(one, other) == 0, "again, there is nothing to do"


def foreseen(
    one: Path, capsys: pytest.CaptureFixture[str], other: Path | None, tier: Tier | None = None
) -> dict[str, Any]:
    """What a dry run says of the source."""
    capsys.readouterr()
    before = {path: path.read_bytes() for path in sorted(one.rglob("*")) if path.is_file()}
    assert repair_offline(one, other=other, tier=tier, dry_run=True, as_json=True) == 1
    assert before == {path: path.read_bytes() for path in sorted(one.rglob("*")) if path.is_file()}
    found: dict[str, Any] = json.loads(capsys.readouterr().out)["source"]
    return found


def test_a_dry_run_says_what_the_source_has(
    nodes: tuple[Path, Path], san: TierConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = nodes
    damage_records(one)
    tier = (san, blocking_store(san, {}))
    overwrite(other / NEWEST, place(other, 16) + 6000, b"rot")
    from_other = foreseen(one, capsys, other)
    assert from_other["lacking_records"] == [16] and from_other["records"][0] == 2 and len(from_other["records"]) > 1
    assert foreseen(one, capsys, None, tier)["records"] == sorted([*from_other["records"], 16])
    assert repaired(one, other, dry_run=True) == 1
    said = capsys.readouterr().out
    wrong = len(from_other["records"]) + 1
    assert f"the source has {wrong - 1} of {wrong} records sound" in said and "it lacks 16 (1)" in said

    lose_segments(one)
    assert foreseen(one, capsys, None, tier)["lacking_segments"] == [1]
    assert foreseen(one, capsys, other)["segments"] == [1]


def test_a_dry_run_reads_each_segment_of_the_source_once(
    nodes: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a segment that is damaged as a whole each record is asked for: thousands of them, of 256 MiB."""
    one, other = nodes
    damage_everything_of_a_segment(one)
    read, once = list[Path](), Walk.once

    def counted(self: Walk, path: Path, following: int | None, *, cached: bool = False) -> Iterator[Found | Fault]:
        read.append(path)
        return once(self, path, following, cached=cached)

    monkeypatch.setattr(Walk, "once", counted)
    assert len(foreseen(one, capsys, other)["records"]) >= 5
    assert [path for path in read if path.is_relative_to(other)] == [other / SECOND]


def test_nothing_is_taken_that_is_damaged_itself_or_of_another_branch(
    nodes: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = nodes
    overwrite(one / FIRST, place(one, 4) + 5000, b"rot")
    overwrite(other / FIRST, place(other, 4) + 6000, b"rot")
    (one / SECOND).unlink()
    stranger = tmp_path / "stranger"
    log = Log.open(RealDisk(stranger), IDENTITY, host_rebooted=False, spares=0)[0]
    for epoch in (1, 2, 3):
        for size in SIZES:
            append(log, size, epoch, salt=epoch == 2)
        log.sync()
    log.close()
    shutil.copy(stranger / SECOND, other / SECOND)
    before = segments(one)
    assert repaired(one, other) == 1
    assert segments(one) == before
    said = capsys.readouterr().out
    assert "segment 8: what this node has after it does not follow from it: it is of another branch" in said
    assert "record 4: the source does not have it sound" in said


def told(*arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors of a verb."""
    done = CliRunner().invoke(app, arguments)
    return done.exit_code, done.stdout, done.stderr


def test_a_node_that_runs_is_left_alone(nodes: tuple[Path, Path]) -> None:
    one, other = nodes
    overwrite(one / FIRST, place(one, 2) + 5000, b"rot")
    disk = RealDisk(one)
    disk.lock("lock")
    for verb in (["repair", str(one), "--from", str(other)], ["reindex", str(one)]):
        code, output, errors = told(*verb)
        assert (code, output) == (2, "") and "stop the node first" in errors
    assert told("verify", str(one))[0] == 1, "that may run beside it"
    disk.close()


@pytest.mark.parametrize(
    "arguments", [["repair"], ["repair", "x"], ["repair", "x", "--from", "y"], ["verify"], ["verify", "--tier"]]
)
def test_bad_usage_is_told_from_damage(arguments: list[str]) -> None:
    code, output, errors = told(*arguments)
    assert (code, output) == (2, "") and errors.startswith("perenne: ")


def test_without_a_tier_the_remedy_is_to_configure_one(nodes: tuple[Path, Path], tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text('[node]\nid = "n1"\n')
    for verb in (["verify", "--tier"], ["repair", str(nodes[0]), "--from-tier"], ["tier", "probe"]):
        code, output, errors = told(*verb, "--config", str(config))
        assert (code, output) == (2, "") and "no tier is configured. Write a [tier] section" in errors, verb


# The tier


@pytest.fixture
def san(nodes: tuple[Path, Path], tmp_path: Path) -> TierConfig:
    """The first segment as records in groups, the second as an object, the newest record by record."""
    mount = tmp_path / "san"
    mount.mkdir()
    settings = TierConfig(kind="directory", directory=mount)
    blocking_store(settings, {}).prepare()
    log = Log.open(RealDisk(nodes[1]), IDENTITY, host_rebooted=False, spares=0)[0]
    cuts = [(1, 4), (5, 7), (8, 14), *((number, number) for number in range(15, 22))]
    bodies = {cut: b"".join(map(log.read_raw, range(cut[0], cut[1] + 1))) for cut in cuts}

    async def put() -> None:
        store = patient_store(settings, blocking_store(settings, {}))
        for (first, last), body in bodies.items():
            end = log.point_at(last)
            assert end is not None
            await store.put(run_name(first, end).key, body)
        await store.close()

    asyncio.run(put())
    log.close()
    return settings


def test_damaged_records_are_mended_from_the_tier(nodes: tuple[Path, Path], san: TierConfig) -> None:
    one, other = nodes
    damage_records(one)
    tier = (san, blocking_store(san, {}))
    assert repair_offline(one, other=None, tier=tier, dry_run=False, as_json=False) == 0
    assert segments(one) == segments(other)


def test_two_records_at_the_end_of_which_nothing_is_left_are_mended_from_the_tier(
    nodes: tuple[Path, Path], san: TierConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = nodes
    lose(one, 20)
    lose(one, 21)
    tier = (san, blocking_store(san, {}))
    assert repair_offline(one, other=None, tier=tier, dry_run=False, as_json=False) == 0, capsys.readouterr().out
    assert segments(one) == segments(other)


def test_a_segment_of_which_nothing_can_be_believed_is_not_to_be_had_from_the_tier(
    nodes: tuple[Path, Path], san: TierConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    one, _ = nodes
    damage_everything_of_a_segment(one)
    before = segments(one)
    tier = (san, blocking_store(san, {}))
    assert repair_offline(one, other=None, tier=tier, dry_run=False, as_json=False) == 1
    assert "perenne restore" in capsys.readouterr().out
    assert segments(one) == before


def tier_verified(
    san: TierConfig, capsys: pytest.CaptureFixture[str], *, deep: bool, study: str = ""
) -> tuple[int, dict[str, object]]:
    capsys.readouterr()
    code = verify_tier(san, blocking_store(san, {}), deep=deep, study=study, as_json=True)
    facts: dict[str, object] = json.loads(capsys.readouterr().out)
    return code, facts


def test_verify_tells_whether_a_restore_from_the_tier_would_succeed(
    san: TierConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    for deep in (False, True):
        code, facts = tier_verified(san, capsys, deep=deep)
        assert (code, facts["complete_upto"], facts["objects"], facts["wrong"]) == (0, 21, 10, [])
    code, facts = tier_verified(san, capsys, deep=True, study="1.2")
    assert (code, facts["instances"]) == (0, 21)
    assert tier_verified(san, capsys, deep=True, study="1.9")[0] == 1
    assert san.directory is not None
    lost, altered = sorted((san.directory / "log" / f"{1:012d}").iterdir())
    altered.chmod(0o644)
    overwrite(altered, altered.stat().st_size - 2400, b"altered")
    assert tier_verified(san, capsys, deep=False)[0] == 0, "names and sizes do not show it"
    code, facts = tier_verified(san, capsys, deep=True)
    assert code == 1 and altered.name in str(facts["wrong"])
    assert f"{altered.name}: log/" not in str(facts["wrong"]), "it is named once in a line"
    lost.unlink()
    code, facts = tier_verified(san, capsys, deep=False)
    assert code == 1 and facts["wrong"] == ["no object holds records 1 to 4"]


# One study, light, and the index


def test_a_light_look_reads_no_payload_and_a_study_is_its_own_records(
    nodes: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    one, _ = nodes
    overwrite(one / FIRST, place(one, 2) + 5000, b"rot")
    assert verify_directory(one, deep=False, study="", as_json=False) == 0
    assert verify_directory(one, deep=True, study="1.2", as_json=False) == 1
    assert verify_directory(one, deep=True, study="1.20", as_json=False) == 1
    assert "no instance of this study was found" in capsys.readouterr().out
    overwrite(one / FIRST, place(one, 4), bytes(PAGE))
    assert verify_directory(one, deep=False, study="", as_json=False) == 1


def images(directory: Path, count: int) -> None:
    """Append so many that can be read, known to be committed."""
    disk = RealDisk(directory)
    log = Log.open(disk, IDENTITY, host_rebooted=False, spares=0)[0]
    for number in range(count):
        uid, data = made(number)
        payload, position = BytesPayload(part10(data, uid)), LogPosition(3, log.end.sequence + 1)
        digests = digests_of(RecordKind.INSTANCE, [payload.data])
        path = f"1.2/1.2.3/{uid}.dcm"
        header = RecordHeader(
            position, RecordKind.INSTANCE, digests.dataset, digests.digest, 1, path, len(payload.data)
        )
        log.append(header, chain_after(log.end.chain, header), payload)
    log.sync()
    promise = PromiseFile(disk)
    promise.store(floor=log.end)
    promise.close()
    log.close()


def test_reindex_makes_the_same_index_and_goes_on_where_it_was_interrupted(
    nodes: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = nodes
    for directory in nodes:
        images(directory, 3)
    assert reindex(other, dry_run=False, as_json=True) == 0
    told_first = json.loads(capsys.readouterr().out)
    (one / FILE).write_bytes(b"garbage")
    with monkeypatch.context() as patch:
        patch.setattr("perenne.cli.reindex.CHUNK", 5)
        patch.setattr("perenne.cli.reindex.swap", _interrupted)
        assert reindex(one, dry_run=False, as_json=True) == 130
    assert (one / FILE).read_bytes() == b"garbage", "the old one stays until the new one is complete"
    capsys.readouterr()
    assert reindex(one, dry_run=True, as_json=True) == 0
    assert json.loads(capsys.readouterr().out) == {"records": 24, "continues": True}
    assert reindex(one, dry_run=False, as_json=True) == 0
    told_last = json.loads(capsys.readouterr().out)
    assert (told_last["continued"], told_last["added"], told_last["records"]) == (True, 0, 24)
    assert told_last["instances"] == told_first["instances"] == told_first["added"] == 3
    indexes = [Index.open(RealDisk(directory)) for directory in nodes]
    assert indexes[0].everything() == indexes[1].everything()
    assert indexes[0].applied.sequence == 24
    for index in indexes:
        index.close()


def _interrupted(_: object) -> None:
    raise KeyboardInterrupt
