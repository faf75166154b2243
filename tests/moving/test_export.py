"""Goal: everything comes out as it went in, or is named; DCMTK and pydicom can read the media; nothing is overwritten.

Method: the cluster that the imports fill, its data directories damaged in copies, and the readers of others.
"""

import gc
import io
import json
import os
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from pydicom.fileset import FileSet

from perenne.local.cluster import LocalCluster
from perenne.moving.exporting import export
from perenne.moving.holdings import Holding
from perenne.moving.remote import OLDER_OVER_HTTP
from perenne.moving.selection import Wanted
from perenne.moving.targets import Zip
from storage.digest import digests_of, part10_meta_length
from storage.position import RecordKind
from tests.integration.rig import made, sendable
from tests.moving.console import perenne
from tests.moving.sources import image, part10, slices, tree

STUDY = "1.2.826.0.1.3680043.10.1337.77"


def stored(cluster: LocalCluster, folder: Path, files: dict[str, bytes]) -> dict[str, bytes]:
    """Bring files into the cluster; return their data sets."""
    tree(folder / "in", files.values())
    options = ["--cluster", str(cluster.directory / "cluster.json"), "--journal", str(folder / "in.jsonl")]
    done = perenne("import", str(folder / "in"), *options)
    assert done.exit_code == 0, done.stdout + done.stderr
    return {uid: content[part10_meta_length(content) :] for uid, content in files.items()}


def exported(*arguments: str, code: int = 0) -> dict[str, Any]:
    done = perenne("export", "--json", *arguments)
    assert done.exit_code == code, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def datasets(contents: list[bytes]) -> set[bytes]:
    return {content[part10_meta_length(content) :] for content in contents}


def below(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "DICOMDIR"]


def of_other_study(number: int, study: str, patient: bytes, date: str = "20240229") -> tuple[str, bytes]:
    """An image of a study, series and patient of its own, with a date and an accession number."""
    uid, data = image(number)
    at = data.index(b"\x10\0\x10\0PN")
    head = b"\x08\0\x20\0DA\x08\0" + date.encode() + b"\x08\0\x50\0SH\x04\0A-17" + b"\x08\0\x60\0CS\x02\0CT"
    data = data[:at] + head + data[at:]
    data = data.replace(b"LO\x08\0PID-4711", b"LO\x08\0" + patient.ljust(8))
    data = data.replace(_value(f"{STUDY}.0"), _value(f"{study}.0"))
    return uid, data.replace(_value(STUDY), _value(study))


def _value(uid: str) -> bytes:
    """What stands behind the tag of an element that holds this UID."""
    padded = uid.encode() + b"\0" * (len(uid) % 2)
    return b"UI" + len(padded).to_bytes(2, "little") + padded


def test_a_study_comes_out_of_a_node_that_runs_and_out_of_the_cluster(cluster: LocalCluster, tmp_path: Path) -> None:
    study = "1.2.826.0.1.3680043.10.1337.78.1"
    files = {uid: part10(data, uid) for uid, data in (of_other_study(10_000 + n, study, b"P-1") for n in range(20))}
    others = {uid: part10(data, uid) for uid, data in (of_other_study(10_100 + n, "1.2.3", b"P-2") for n in range(3))}
    expected = stored(cluster, tmp_path, files | others)
    wanted = {expected[uid] for uid in files}
    one = next(iter(files))
    directory, described = str(cluster.nodes[0].data_dir), str(cluster.directory / "cluster.json")
    choices = (
        (["--study", study], wanted),
        (["--patient-id", "P-1", "--study-date", "20240201-", "--modality", "CT", "--accession", "A-17"], wanted),
        (["--patient-id", "P-1", "--instance", one], {expected[one]}),
        (["--patient-id", "P-1", "--study-date", "-20240228"], set[bytes]()),
    )
    for number, (choice, there) in enumerate(choices):
        code = 0 if there else 1
        here, far = tmp_path / f"here-{number}", tmp_path / f"far-{number}"
        assert exported(str(here), "--from", directory, *choice, code=code)["written"] == len(there)
        assert exported(str(far), "--cluster", described, *choice, code=code)["written"] == len(there)
        assert datasets(below(here)) == datasets(below(far)) == there
        assert below(here) == below(far)
    for source in (["--from", directory], ["--cluster", described]):
        half = ["--study", study, "--study", "1.2.3.4.5", *source]
        assert exported(str(tmp_path / f"half{source[0]}"), *half, code=1)["absent"] == ["1.2.3.4.5"]
        assert exported(str(tmp_path / f"both{source[0]}"), *half[:2], "--study", "1.2.3", *source)["absent"] == []
    assert exported(str(tmp_path / "x"), "--from", directory, "--patient-id", "P-1", "--dry-run")["found"] == 20
    assert not (tmp_path / "x").exists()
    assert (tmp_path / "here-0" / study / f"{study}.0" / f"{one}.dcm").exists()


def test_an_export_goes_on_and_overwrites_nothing(cluster: LocalCluster, tmp_path: Path) -> None:
    study = "1.2.826.0.1.3680043.10.1337.78.2"
    files = {uid: part10(data, uid) for uid, data in (of_other_study(11_000 + n, study, b"P-3") for n in range(6))}
    expected = stored(cluster, tmp_path, files)
    arguments = [str(tmp_path / "out"), "--from", str(cluster.nodes[0].data_dir), "--study", study]
    exported(*arguments)
    paths = sorted((tmp_path / "out").rglob("*.dcm"))
    paths[0].unlink()
    paths[1].write_bytes(b"notes of a radiologist")
    again = exported(*arguments, code=1)
    assert (again["written"], again["already"], len(again["left_out"])) == (1, 4, 1)
    assert "another file" in again["left_out"][0]["why"]
    assert paths[1].read_bytes() == b"notes of a radiologist"
    assert datasets([paths[0].read_bytes()]) == {expected[paths[0].name.removesuffix(".dcm")]}
    assert not list((tmp_path / "out").glob(".perenne*"))


def test_a_zip_holds_everything_and_is_whole_or_absent(cluster: LocalCluster, tmp_path: Path) -> None:
    """Also what is larger than memory; to a file, and as a stream."""
    study = "1.2.826.0.1.3680043.10.1337.78.3"
    files = {uid: part10(data, uid) for uid, data in (of_other_study(12_000 + n, study, b"P-4") for n in range(4))}
    uid, large = made(12_100, filler=os.urandom(17_000_000))
    expected = stored(cluster, tmp_path, files | {uid: part10(large, uid)})
    directory = str(cluster.nodes[0].data_dir)
    choice = ["--as", "zip", "--from", directory, *(x for one in expected for x in ("--instance", one))]
    path = tmp_path / "study.zip"
    assert exported(str(path), *choice)["written"] == 5
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert datasets([archive.read(name) for name in archive.namelist()]) == set(expected.values())
    assert perenne("export", str(path), *choice).exit_code == 2, "it is not overwritten"
    streamed = perenne("export", "-", *choice)
    with zipfile.ZipFile(io.BytesIO(streamed.stdout_bytes)) as archive:
        assert datasets([archive.read(name) for name in archive.namelist()]) == set(expected.values())
    assert [path.name for path in tmp_path.glob("*.zip*")] == ["study.zip"]


@pytest.mark.needs("dcmdump")
def test_a_dicomdir_is_read_by_others(cluster: LocalCluster, tmp_path: Path) -> None:
    """Every sample of pydicom that a cluster takes: many classes, character sets and syntaxes, and much is missing."""
    files = {sample.sop_instance_uid: sample.path.read_bytes() for sample in sendable()}
    stored(cluster, tmp_path, files)
    out = tmp_path / "disc"
    choice = [x for uid in files for x in ("--instance", uid)]
    done = perenne("export", "--json", str(out), "--from", str(cluster.nodes[0].data_dir), "--as", "dicomdir", *choice)
    report = json.loads(done.stdout)
    assert report["written"] + len(report["left_out"]) == len(files)
    assert report["written"] >= len(files) - 2, report["left_out"]
    assert report["invented"]["StudyDate"] > 0

    read = FileSet(str(out / "DICOMDIR"))
    ids = [Path(instance.path).relative_to(out) for instance in read]
    assert len(ids) == report["written"] == len(below(out))
    assert all(part == part.upper() and len(part) <= 8 and part.isalnum() for one in ids for part in one.parts)
    assert all(cast(Any, instance).SOPInstanceUID in files for instance in read)
    cast(Any, read)._stage["t"].cleanup()
    dumped = subprocess.run(["dcmdump", str(out / "DICOMDIR")], capture_output=True)
    assert (dumped.returncode, dumped.stderr) == (0, b"")
    shutil.copy(next(sample.path for sample in sendable() if sample.path.name == "CT_small.dcm"), out / "NEW")
    append = subprocess.run(["dcmmkdir", "+I", "-W", "-Nxc", "+A", "NEW"], capture_output=True, text=True, cwd=out)
    assert append.returncode == 0, append.stderr
    assert append.stderr == "W: file NEW: directory record for this SOP instance already exists\n", "DCMTK found it"


def test_what_is_damaged_is_never_written_and_taken_from_another_replica(cluster: LocalCluster, tmp_path: Path) -> None:
    """Without index or node, from bare directories: elsewhere one broken database, or one bad copy, is the end."""
    study = "1.2.826.0.1.3680043.10.1337.78.5"
    files = {uid: part10(data, uid) for uid, data in (of_other_study(13_000 + n, study, b"P-5") for n in range(5))}
    expected = stored(cluster, tmp_path, files)
    copies = [tmp_path / node.id for node in cluster.nodes]
    for node, copy in zip(cluster.nodes, copies, strict=True):
        shutil.copytree(node.data_dir / "log", copy / "log")
    bad = list(files)[:2]
    for uid, copy in zip(bad, copies, strict=True):
        rot(copy, expected[uid])
    choice = ["--study", study]
    alone = exported(str(tmp_path / "alone"), "--from", str(copies[0]), *choice, code=1)
    assert (alone["written"], [left["why"] for left in alone["left_out"]]) == (
        4,
        ["its bytes do not match its digest"],
    )
    assert datasets(below(tmp_path / "alone")) == set(expected.values()) - {expected[bad[0]]}
    both = exported(str(tmp_path / "both"), "--from", str(copies[0]), "--from", str(copies[1]), *choice)
    assert both["written"] == 5
    assert datasets(below(tmp_path / "both")) == set(expected.values())
    described = ["--cluster", str(cluster.directory / "cluster.json")]
    assert exported(str(tmp_path / "rest"), "--from", str(copies[0]), *described, *choice)["written"] == 5


def rot(directory: Path, data: bytes) -> None:
    for segment in (directory / "log").glob("*.tar"):
        at = segment.read_bytes().find(data)
        if at > 0:
            with segment.open("r+b") as file:
                file.seek(at + len(data) - 20)
                file.write(b"rot")
            return
    raise AssertionError("no segment has it")


def test_both_contents_of_one_uid_come_out(cluster: LocalCluster, tmp_path: Path) -> None:
    (uid, one), (_, other) = image(14_000, b"one " * 500), image(14_000, b"two " * 500)
    tree(tmp_path / "in", [part10(one, uid), part10(other, uid)])
    options = ["--cluster", str(cluster.directory / "cluster.json"), "--journal", str(tmp_path / "in.jsonl")]
    assert perenne("import", str(tmp_path / "in"), *options, "--associations", "1").exit_code == 0
    source = ["--from", str(cluster.nodes[0].data_dir), "--instance", uid]
    assert exported(str(tmp_path / "out"), *source)["written"] == 2
    assert datasets(below(tmp_path / "out")) == {one, other}
    disc = exported(str(tmp_path / "disc"), *source, "--as", "dicomdir", code=1)
    assert disc["written"] == 1 and "only once" in disc["left_out"][0]["why"]
    far = exported(str(tmp_path / "far"), *options[:2], "--instance", uid, code=1)
    assert far["written"] == 1, "over HTTP the current one alone is served, and the other is named"
    assert [left["why"] for left in far["left_out"]] == [OLDER_OVER_HTTP], "it is not called damaged"


def test_what_came_out_goes_in_again(cluster: LocalCluster, tmp_path: Path) -> None:
    """Segments of a bare log are archives like any other: import takes them, and nothing is new."""
    files = slices(15_000, 4)
    stored(cluster, tmp_path, files)
    shutil.copytree(cluster.nodes[0].data_dir / "log", tmp_path / "log")
    options = ["--cluster", str(cluster.directory / "cluster.json"), "--journal", str(tmp_path / "in.jsonl")]
    before = cluster.nodes[0].status()["positions"]["end"]
    newest = sorted((tmp_path / "log").glob("*.tar"))[-1]
    with tarfile.open(newest) as archive:
        members = sum(member.name.endswith(".dcm") for member in archive)
    done = perenne("import", "--json", str(newest), *options)
    report = json.loads(done.stdout)
    assert done.exit_code == 0 and report["acknowledged"] + report["already"] == members
    assert cluster.nodes[0].status()["positions"]["end"] == before


def test_bad_usage_of_export_is_said_at_once(tmp_path: Path) -> None:
    there = str(tmp_path / "out")
    (tmp_path / "log").mkdir()
    (tmp_path / "log/000000000001.tar").write_bytes(b"")
    source = ["--from", str(tmp_path)]
    for arguments, said in (
        ([there, *source], "what is to be exported?"),
        ([there, *source, "--all", "--study", "1.2"], "contradict"),
        ([there, "--all"], "from where?"),
        ([there, "--from", str(tmp_path / "no"), "--all"], "holds no log"),
        ([there, *source, "--all", "--as", "rar"], "there are files, zip, dicomdir"),
        (["-", *source, "--all"], "standard output"),
        ([there, *source, "--study-date", "2024"], "YYYYMMDD"),
    ):
        done = perenne("export", *arguments)
        assert (done.exit_code, said in done.stderr) == (2, True), done.stderr
    unreachable = perenne("export", there, "--url", "127.0.0.1:1", "--all")
    assert (unreachable.exit_code, "answers" in unreachable.stderr) == (1, True)


@pytest.mark.parametrize("query", ["limit=9999999", "after=-1", "study=1.2;x", "from=2024", "patient=4711"])
def test_a_list_that_cannot_be_meant_is_refused(cluster: LocalCluster, query: str) -> None:
    assert cluster.nodes[0].get(f"/instances?{query}")[0] == 400


@pytest.mark.parametrize("streamed", [False, True])
def test_a_zip_that_was_interrupted_gets_no_end(
    tmp_path: Path, streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's ZipFile writes one when it is collected: a stream that lacks images would pass for whole."""
    content = b"an image"
    digest = digests_of(RecordKind.INSTANCE, [content]).digest
    stream = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(stream, write_through=True))

    def images() -> Iterator[Holding]:
        yield Holding(1, "1.2/1.2.3/1.2.3.4.dcm", len(content), digest, [lambda: iter([content])])
        raise KeyboardInterrupt

    target = Zip(None if streamed else tmp_path / "study.zip", tmp_path)
    with pytest.raises(KeyboardInterrupt):
        export([images], target, Wanted())
    del target
    gc.collect()
    assert (content in stream.getvalue()) is streamed
    assert b"PK\5\6" not in stream.getvalue()
    assert not list(tmp_path.iterdir())
