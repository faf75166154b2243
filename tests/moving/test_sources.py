"""Goal: nothing that holds an image is passed over without a word, and nothing hostile costs more than an error.

Method: trees, Orthanc's storage, tar and zip as other systems leave them, whole, damaged, and made to do harm.
"""

import bz2
import gzip
import io
import os
import tarfile
import zipfile
import zlib
from collections import Counter
from pathlib import Path

import pytest

from perenne.bench.load import EXPLICIT_LE
from perenne.moving.content import IN_MEMORY, InFile
from perenne.moving.examine import Examiner, Instance
from perenne.moving.findings import LeftOut
from perenne.moving.trees import Progress, finds
from storage.digest import part10_meta_length
from tests.dimse.samples import sample_files
from tests.integration.rig import made
from tests.moving.sources import FILLER, orthanc, orthanc_form, part10, slices, tar, tree, zipped

LARGEST = 64 * 1024 * 1024


def examined(*paths: Path, largest: int = LARGEST, spool: Path | None = None) -> tuple[list[Instance], list[LeftOut]]:
    """Everything found below some paths; the spool is beside the first of them."""
    folder = spool or paths[0].parent / "spool"
    folder.mkdir(exist_ok=True)
    examiner = Examiner(folder, largest)
    found = [one if isinstance(one, LeftOut) else examiner.examine(one) for one in finds(paths, never, Progress())]
    return [one for one in found if isinstance(one, Instance)], [one for one in found if isinstance(one, LeftOut)]


def never(name: str, stamp: str) -> bool:
    return False


def whats(left: list[LeftOut]) -> Counter[str]:
    return Counter(one.what for one in left)


def dataset(one: Instance) -> bytes:
    return b"".join(one.content.pieces())[one.offset :]


def assert_all(found: list[Instance], files: dict[str, bytes]) -> None:
    """Each of the files was found once, with the bytes of its data set."""
    assert {one.sop_instance_uid: dataset(one) for one in found} == {
        uid: content[part10_meta_length(content) :] for uid, content in files.items()
    }
    assert len(found) == len(files)


@pytest.mark.parametrize("suffix", ["", ".dcm"])
def test_a_tree_is_read_whatever_its_files_are_called(tmp_path: Path, suffix: str) -> None:
    files = slices(0, 9)
    tree(tmp_path / "t", files.values(), suffix)
    (tmp_path / "t/README").write_text("hello")
    (tmp_path / "t/empty.dcm").write_bytes(b"")
    (tmp_path / "t/2024/report.json").write_text("{}")
    os.mkfifo(tmp_path / "t/pipe")
    found, left = examined(tmp_path / "t")
    assert_all(found, files)
    assert Counter(one.why for one in left) == {"other": 1, "empty": 1, "JSON": 1, "no file": 1}


def test_the_storage_of_orthanc_gives_its_images_and_their_headers_apart(tmp_path: Path) -> None:
    files = slices(0, 8)
    found, left = examined(orthanc(tmp_path / "o", files.values()))
    assert_all([one for one in found if not one.header_only], files)
    assert sum(one.header_only for one in found) == 8, "header-only attachments are told from images"
    assert Counter(one.why for one in left) == {"JSON": 8, "database": 1}


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tar_archives_are_read_from_front_to_back(tmp_path: Path, mode: str) -> None:
    files = slices(0, 7)
    found, left = examined(tar(tmp_path / "t.bin", files.values(), mode))
    assert_all(found, files)
    assert not left


def test_zip_archives_and_single_compressed_files_are_read(tmp_path: Path) -> None:
    files = slices(0, 7)
    (one, *others) = files.values()
    (tmp_path / "d").mkdir()
    zipped(tmp_path / "d/a.zip", others)
    (tmp_path / "d/one.dcm.gz").write_bytes(gzip.compress(one))
    found, left = examined(tmp_path / "d")
    assert_all(found, files)
    assert not left


def test_what_pydicom_ships_is_found_or_named(tmp_path: Path) -> None:
    paths = sample_files()
    (tmp_path / "spool").mkdir()
    found, left = examined(*paths, spool=tmp_path / "spool")
    names = {Path(one.name).name for one in found}
    assert {"ExplVR_BigEndNoMeta.dcm", "ExplVR_LitEndNoMeta.dcm", "image_dfl.dcm", "CT_small.dcm"} <= names
    whole = {str(path): path.read_bytes() for path in paths}
    plain = [one for one in found if not one.name.endswith(".gz")]
    assert all(dataset(one) == whole[one.name][one.offset :] for one in plain)
    told = {one.name.split("!")[0] for one in found} | {one.name.split("!")[0] for one in left}
    assert set(whole) == told, "nothing is passed over"
    assert {one.why for one in left if one.what == "refused"} == {
        "its data set has no SOP Class UID or SOP Instance UID"
    }


def test_a_file_meta_without_its_length_or_syntax_hides_no_image(tmp_path: Path) -> None:
    uid, data = made(1, filler=FILLER)
    whole = part10(data, uid)
    (tmp_path / "d").mkdir()
    (tmp_path / "d/no-length").write_bytes(whole[:132] + whole[144:])
    at = whole.index(b"\x02\0\x10\0UI")
    (tmp_path / "d/no-syntax").write_bytes(whole[:132] + whole[144:at] + data)
    (tmp_path / "d/bare").write_bytes(data)
    found, left = examined(tmp_path / "d")
    assert not left
    assert [(dataset(one), one.transfer_syntax_uid) for one in found] == 3 * [(data, EXPLICIT_LE)]


def test_a_tar_that_is_cut_off_between_two_members_is_not_taken_for_whole(tmp_path: Path) -> None:
    """Python's tarfile says nothing here: half an archive would count as all of it."""
    files = slices(0, 6)
    whole = tar(tmp_path / "t.tar", files.values()).read_bytes()
    each = (len(next(iter(files.values()))) + 511) // 512 * 512 + 512
    (tmp_path / "t.tar").write_bytes(whole[: 4 * each])
    found, left = examined(tmp_path / "t.tar")
    assert len(found) == 4
    assert [(one.what, one.name) for one in left] == [("unreadable", str(tmp_path / "t.tar"))]
    assert "cut off" in left[0].why


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_that_is_cut_off_within_a_member_gives_what_is_whole_and_names_the_rest(
    tmp_path: Path, mode: str
) -> None:
    files = {uid: content for n in range(6) for uid, content in slices(n, 1, os.urandom(20_000)).items()}
    path = tar(tmp_path / "t.tar", files.values(), mode)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3 - 3000])
    found, left = examined(path)
    assert 2 <= len(found) <= 5
    assert all(dataset(one) in files[one.sop_instance_uid] for one in found)
    assert whats(left)["unreadable"] >= 1


def test_a_damaged_header_within_a_tar_costs_that_member_alone(tmp_path: Path) -> None:
    """Python's tarfile stops silently at it: everything behind would be lost without a word."""
    files = slices(0, 6)
    path = tar(tmp_path / "t.tar", files.values())
    each = (len(next(iter(files.values()))) + 511) // 512 * 512 + 512
    with path.open("r+b") as file:
        file.seek(2 * each)
        file.write(b"rot" * 40)
    found, left = examined(path)
    assert len(found) == 5
    assert len(left) == 1 and "damaged" in left[0].why and f"byte {2 * each}" in left[0].name


def test_bytes_that_rot_in_a_zip_or_in_compressed_files_are_noticed(tmp_path: Path) -> None:
    files = slices(0, 4, os.urandom(30_000))
    (tmp_path / "d").mkdir()
    whole = bytearray(zipped(tmp_path / "d/a.zip", files.values()).read_bytes())
    whole[5000] ^= 1
    (tmp_path / "d/a.zip").write_bytes(whole)
    content = next(iter(files.values()))
    rotten = bytearray(orthanc_form(content))
    rotten[-3] ^= 1
    (tmp_path / "d/b").write_bytes(rotten)
    (tmp_path / "d/c").write_bytes(orthanc_form(content)[:-400])
    (tmp_path / "d/d.gz").write_bytes(gzip.compress(content)[:-400])
    (tmp_path / "d/f").write_bytes((len(content) + 5).to_bytes(8, "little") + zlib.compress(content))
    (tmp_path / "d/e").write_bytes((len(content) - 5).to_bytes(8, "little") + zlib.compress(content))
    found, left = examined(tmp_path / "d")
    assert len(found) == 3
    assert whats(left) == {"unreadable": 6}


def test_archives_that_end_early_or_are_none_are_named(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    whole = zipped(tmp_path / "d/a.zip", slices(0, 2).values()).read_bytes()
    (tmp_path / "d/a.zip").write_bytes(whole[:-10])
    (tmp_path / "d/b.tgz").write_bytes(gzip.compress(b"no tar at all"))
    found, left = examined(tmp_path / "d")
    assert not found
    assert [(one.what, one.name) for one in left] == [
        ("unreadable", str(tmp_path / "d/a.zip")),
        ("not DICOM", str(tmp_path / "d/b.tgz")),
    ]


def test_names_that_lead_out_of_an_archive_lead_nowhere(tmp_path: Path) -> None:
    uid, data = made(1, filler=b"x" * (IN_MEMORY + 5))
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        for name in ("../../outside", "/tmp/perenne-outside", "a\x1b[2Jb"):
            member = tarfile.TarInfo(name)
            member.size = len(part10(data, uid))
            archive.addfile(member, io.BytesIO(part10(data, uid)))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as file:
        file.writestr("../../../outside", part10(data, uid))
    found, left = examined(tmp_path / "t.tar", tmp_path / "z.zip")
    assert len(found) == 4 and not left
    assert all(isinstance(one.content, InFile) and one.content.path.parent == tmp_path / "spool" for one in found)
    assert not any("\x1b" in one.name for one in found)
    assert not (tmp_path.parent / "outside").exists() and not Path("/tmp/perenne-outside").exists()
    for one in found:
        one.content.discard()
    assert not list((tmp_path / "spool").iterdir())


def test_bombs_are_given_up_at_the_largest_size_that_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    uid, data = made(1, filler=bytes(IN_MEMORY + 4096))
    bomb = part10(data, uid)
    zipped(tmp_path / "d/a.zip", [bomb])
    tar(tmp_path / "d/b.tar.gz", [bomb], "w:gz")
    (tmp_path / "d/c").write_bytes(orthanc_form(bomb))
    (tmp_path / "d/d").write_bytes((100).to_bytes(8, "little") + zlib.compress(bytes(1 << 22)))
    (tmp_path / "d/e.bz2").write_bytes(bz2.compress(bytes(1 << 22)))
    found, left = examined(tmp_path / "d", largest=IN_MEMORY + 1000)
    assert not found
    assert whats(left) == {"unreadable": 4, "not DICOM": 1}
    assert sum("--largest" in one.why for one in left) == 3
    assert not list((tmp_path / "spool").iterdir())


@pytest.mark.parametrize("size", [1 << 40, -5])
def test_a_tar_header_with_an_absurd_size_neither_fills_memory_nor_turns_in_circles(tmp_path: Path, size: int) -> None:
    files = slices(0, 2)
    whole = tar(tmp_path / "t.tar", files.values()).read_bytes()
    header = tarfile.TarInfo("././@PaxHeader")
    header.type, header.size = tarfile.XHDTYPE, 0
    block = bytearray(header.tobuf())
    block[124:136] = (b"\x80" if size > 0 else b"\xff") + (size % (1 << 88)).to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    (tmp_path / "t.tar").write_bytes(bytes(block) + whole)
    found, left = examined(tmp_path / "t.tar")
    assert_all(found, files)
    assert len(left) == 1 and "damaged" in left[0].why


def test_an_instance_larger_than_memory_stays_in_its_file(tmp_path: Path) -> None:
    uid, data = made(1, filler=os.urandom(IN_MEMORY))
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a").write_bytes(part10(data, uid))
    (tmp_path / "d/b").write_bytes(orthanc_form(part10(data, uid)))
    found, _ = examined(tmp_path / "d")
    assert [type(one.content).__name__ for one in found] == ["InFile", "Deflated"]
    assert [dataset(one) == data for one in found] == [True, True]


def test_a_link_to_a_directory_is_not_followed_and_not_passed_over(tmp_path: Path) -> None:
    files = slices(0, 3)
    tree(tmp_path / "elsewhere", files.values())
    (tmp_path / "d").mkdir()
    (tmp_path / "d/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "d/loop").symlink_to(tmp_path / "d")
    found, left = examined(tmp_path / "d")
    assert not found
    assert whats(left) == {"unreadable": 2}
    assert_all(examined(tmp_path / "d/link")[0], files)
