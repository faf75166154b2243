"""Goal: a store that breaks a promise is found out before an acknowledgement rests on it.

Method: the probe over real stores, and over SeaweedFS behind a proxy that lies in one way at a time; the command as an
operator runs it.
"""

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from perenne.cli.commands import app
from perenne.local.seaweedfs import ACCESS_KEY, SECRET_KEY, Store
from replication.tier.probe import BASE, MEANING, Probe, ProbeResult, Verdict, probe, synchronous_refusal
from tests.tier.proxy import Action, Alter, Answer, Proxy, Request
from tests.tier.rig import QUICK, Reached, run, s3_reached

EMPTY_LIST = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"


def failed(result: ProbeResult) -> set[Probe]:
    return {line.probe for line in result.lines if line.verdict is Verdict.FAILED}


def probed(reached: Reached) -> ProbeResult:
    result = run(probe(reached.store, reached.blocking.description))
    assert [line.probe for line in result.lines] == list(Probe)
    return result


def test_seaweedfs_and_a_directory_keep_every_promise(reached: Reached) -> None:
    result = probed(reached)
    assert failed(result) == set()
    assert result.passed
    assert result.conditional_writes
    assert synchronous_refusal(result) is None

    async def left() -> list[str]:
        return [key async for key in reached.store.list("")]

    assert run(left()) == [], "the probe tidies up"


def confirms_without_doing(request: Request) -> Action:
    return Answer(200) if request.method == "PUT" and request.key else None


def stale_listing(request: Request) -> Action:
    return Answer(200, EMPTY_LIST) if request.method == "GET" and "list-type" in request.path else None


def takes_damaged_bytes(request: Request) -> Action:
    return Answer(200, forward=True) if request.method == "PUT" and request.key.endswith("damaged") else None


def ignores_the_condition(request: Request) -> Action:
    return Alter(lambda status, body: (200, b"") if status == 412 else (status, body)) if request.key else None


class IgnoresRanges:
    """Gives the first object's bytes whatever was asked for."""

    def __init__(self) -> None:
        self.numbers = itertools.count()

    def __call__(self, request: Request) -> Action:
        wanted = request.method == "GET" and request.key.endswith("plain") and next(self.numbers) > 0
        return Answer(200, b"everything") if wanted else None


def keeps_what_was_deleted(request: Request) -> Action:
    return Answer(204) if request.method == "DELETE" else None


@pytest.mark.parametrize(
    ("lie", "found_out", "synchronous"),
    [
        (confirms_without_doing, {Probe.WRITE_READ}, False),
        (stale_listing, {Probe.LIST}, False),
        (takes_damaged_bytes, {Probe.CHECKSUM}, False),
        (IgnoresRanges(), {Probe.RANGE}, False),
        (ignores_the_condition, {Probe.CONDITION, Probe.RACE}, True),
        (keeps_what_was_deleted, {Probe.DELETE}, True),
    ],
)
def test_each_lie_is_found_out_by_its_own_probe(
    seaweedfs: Store, lie: Any, found_out: set[Probe], synchronous: bool
) -> None:
    with Proxy(seaweedfs.port, lie) as proxy:
        reached = s3_reached(proxy.endpoint)
        result = probed(reached)
        reached.end()
    assert failed(result) == found_out
    assert not result.passed
    assert (synchronous_refusal(result) is None) is synchronous
    assert result.conditional_writes is (lie is not ignores_the_condition and lie is not confirms_without_doing)
    for line in result.lines:
        if line.probe in found_out:
            assert line.next_step
            assert line.document()["means"] == MEANING[line.probe]


def test_a_store_that_does_not_answer_fails_the_first_probe_and_the_rest_is_not_tried(seaweedfs: Store) -> None:
    with Proxy(seaweedfs.port, lambda request: Answer(503) if request.key else None) as proxy:
        reached = s3_reached(proxy.endpoint, patience=QUICK)
        result = probed(reached)
        reached.end()
    assert [line.verdict for line in result.lines] == [Verdict.FAILED] + [Verdict.NOT_TRIED] * (len(Probe) - 1)
    refusal = synchronous_refusal(result)
    assert refusal is not None
    assert all(base.value in refusal for base in BASE)
    assert not result.conditional_writes


def command(*words: str, **environment: str) -> Result:
    unset: dict[str, str | None] = {name: None for name in os.environ if name.startswith(("AWS_", "PERENNE_"))}
    return CliRunner().invoke(app, ["tier", *words], env={**unset, **environment})


def plain(text: str) -> str:
    """Without the lines of the table, and where they broke its words."""
    return " ".join(text.replace("│", " ").split())


def test_the_command_prints_a_table_and_says_by_its_exit_code_what_it_found(seaweedfs: Store, tmp_path: Path) -> None:
    keys = tmp_path / "credentials"
    keys.write_text(f"[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n")
    file = tmp_path / "node.toml"
    text = f'[tier]\nendpoint = "{seaweedfs.endpoint}"\nbucket = "made-here"\ncredentials_file = "credentials"\n'
    file.write_text(text)
    away = command("probe", "--config", str(file))
    assert away.exit_code == 1
    assert "perenne tier prepare" in plain(away.stdout), "it names the next step"
    made = command("prepare", "--config", str(file))
    assert (made.exit_code, made.stdout) == (0, "made the bucket made-here\n")
    good = command("probe", "--config", str(file))
    assert (good.exit_code, good.stderr) == (0, "")
    assert "synchronous use: allowed" in good.stdout
    assert all(probe.value in good.stdout for probe in Probe)
    document = json.loads(command("probe", "--config", str(file), "--json").stdout)
    assert document["synchronous_allowed"] is True
    assert [line["verdict"] for line in document["probes"]] == ["passed"] * len(Probe)
    keys.write_text(f"[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = not-the-secret\n")
    wrong = command("probe", "--config", str(file), "--json")
    assert wrong.exit_code == 1
    assert "secret key" in json.loads(wrong.stdout)["probes"][0]["next_step"]
    assert "not-the-secret" not in wrong.stdout + wrong.stderr


def test_the_command_marks_a_directory_once_and_refuses_an_unmarked_one(tmp_path: Path) -> None:
    (tmp_path / "san").mkdir()
    file = tmp_path / "node.toml"
    file.write_text('[tier]\nkind = "directory"\ndirectory = "san"\n')
    unmounted = command("probe", "--config", str(file), PERENNE_TIER__GIVE_UP_MS="3000")
    assert unmounted.exit_code == 1
    assert "not mounted" in plain(unmounted.stdout)
    assert list((tmp_path / "san").iterdir()) == []
    assert command("prepare", "--config", str(file)).exit_code == 0
    assert command("probe", "--config", str(file)).exit_code == 0
    assert "already" in command("prepare", "--config", str(file)).stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[tier]\nbucket = "abc"\n', "tier.endpoint: is missing"),
        ('[tier]\nendpoint = "http://s"\n', "tier.bucket: is missing"),
        ('[tier]\nkind = "directory"\n', "tier.directory is missing"),
        ('[tier]\nendpoint = "http://s"\nbucket = "abc"\n', "no access key and secret key in the environment"),
        ('[tier]\nkind = "tape"\n', "no kind of tier"),
    ],
)
def test_the_command_says_what_is_missing_in_the_configuration(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "node.toml").write_text(text)
    refused = command("probe", "--config", str(tmp_path / "node.toml"))
    assert refused.exit_code == 2
    assert said in refused.stderr
    assert "Traceback" not in refused.stderr
