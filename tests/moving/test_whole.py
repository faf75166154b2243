"""Goal: what was cut short is not imported as if it were whole, and what is whole is never taken for cut.

Method: every file that pydicom ships, in all transfer syntaxes, whole and cut; and files of our own.
"""

import os
import random
import struct
import zlib
from pathlib import Path

import pytest

from perenne.bench.load import CT, EXPLICIT_LE
from perenne.moving.content import IN_MEMORY
from perenne.moving.part10 import META_LIMIT, encoding_of, is_part10
from perenne.moving.whole import where_cut
from storage.dataset import DEFLATED, EXPLICIT_BE, IMPLICIT_LE
from tests.dimse.samples import Sample, sample_files, samples
from tests.integration.rig import made
from tests.moving.sources import FILLER, PIXELS, image, orthanc, part10, slices, tar, tree, zipped
from tests.moving.test_sources import assert_all, examined

CUT_AT_PYDICOM = {
    "MR_truncated.dcm": "its pixel data (7FE0,0010)",
    "emri_small_jpeg_2k_lossless_too_short.dcm": "its pixel data (7FE0,0010)",
    "rtplan_truncated.dcm": "(300A,00B0)",
}
DEFLATED_LE = "1.2.840.10008.1.2.1.99"


def cut_in(content: bytes, piece: int = 1 << 20) -> str:
    encoding = encoding_of(content[:META_LIMIT])
    pieces = (content[at : at + piece] for at in range(0, len(content), piece))
    return where_cut(pieces, encoding.offset, encoding.transfer_syntax)


def test_of_what_pydicom_ships_exactly_what_is_cut_is_named() -> None:
    files = {path: path.read_bytes() for path in sample_files()}
    found = {path.name: cut_in(content) for path, content in files.items() if is_part10(content[:132])}
    assert len(found) > 100
    assert {name: where for name, where in found.items() if where} == CUT_AT_PYDICOM


def with_pixels_last() -> list[tuple[Sample, int]]:
    """Samples whose last element is the pixel data, little endian and not deflated, and where its value begins."""
    found: list[tuple[Sample, int]] = []
    for sample in samples():
        data = sample.dataset
        at = data.rfind(PIXELS)
        if at < 0 or sample.path.name in CUT_AT_PYDICOM or sample.transfer_syntax in (EXPLICIT_BE, *DEFLATED):
            continue
        start = at + (12 if data[at + 4 : at + 6] in (b"OB", b"OW") else 8)
        (size,) = struct.unpack_from("<I", data, start - 4)
        if data[-8:] == b"\xfe\xff\xdd\xe0\0\0\0\0" if size == 0xFFFFFFFF else start + size == len(data):
            found.append((sample, start))
    return found


def test_wherever_pixel_data_break_off_it_is_seen() -> None:
    chance, tried = random.Random(7), 0
    for sample, start in with_pixels_last():
        content = sample.path.read_bytes()
        meta = len(content) - len(sample.dataset)
        for end in (meta + start, len(content) - 1, chance.randrange(meta + start, len(content))):
            assert cut_in(content[:end], piece=chance.randrange(1, 100_000)) == "its pixel data (7FE0,0010)", (
                sample.path
            )
            tried += 1
    assert tried > 150


def test_what_has_no_pixels_and_ends_between_two_elements_is_whole() -> None:
    for sample, start in with_pixels_last():
        content = sample.path.read_bytes()
        element = content.rfind(PIXELS, 0, len(content) - len(sample.dataset) + start)
        assert cut_in(content[:element]) == "", sample.path
        assert cut_in(content[: element + 5]) == "the head of an element", sample.path


@pytest.mark.parametrize(
    "behind", [b"\0", bytes(512), b"\n", b"\xff" * 20, b"\xfc\xff\xfc\xffOB\0\0\x04\0\0\0" + bytes(4)]
)
def test_padding_behind_the_image_is_no_cut(behind: bytes) -> None:
    uid, data = image(1)
    assert cut_in(part10(data + behind, uid)) == ""


def implicit(*elements: tuple[int, bytes]) -> bytes:
    return b"".join(struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value)) + value for tag, value in elements)


def test_an_implicit_image_of_whatever_length_is_whole_or_cut() -> None:
    """A length may look like the name of a type, and what names its types may be declared as implicit."""
    uid, explicit = image(1)
    pixels = b"\0" * int.from_bytes(b"DA\0\0", "little")
    head = implicit((0x00080016, CT.encode() + b"\0"), (0x00080018, uid.encode()))
    assert cut_in(part10(head + implicit((0x7FE00010, pixels)), uid, syntax=IMPLICIT_LE)) == ""
    assert cut_in(part10(head + implicit((0x7FE00010, pixels))[:-1], uid, syntax=IMPLICIT_LE)) != ""
    assert cut_in(part10(head + implicit((0x7FE00010, pixels)) + b"\xff" * 10, uid, syntax=IMPLICIT_LE)) == ""
    assert cut_in(part10(explicit, uid, syntax=IMPLICIT_LE)) == "", "explicit after all"
    nested = b"\x08\0\x00\x01SH\x04\0ABCD" + b"\xfe\xff\x0d\xe0\0\0\0\0"
    items = b"\xfe\xff\0\xe0\xff\xff\xff\xff" + nested + b"\xfe\xff\xdd\xe0\0\0\0\0"
    sequence = struct.pack("<HHI", 0x40, 0x260, 0xFFFFFFFF) + items
    assert cut_in(part10(head + sequence, uid, syntax=IMPLICIT_LE)) == "", "explicit within implicit is odd, not cut"


def test_an_element_behind_the_image_may_be_cut_too() -> None:
    uid, data = image(1)
    assert cut_in(part10(data + b"\xfc\xff\xfc\xffOB\0\0\x08\0\0\0" + bytes(4), uid)) == "(FFFC,FFFC)"


def test_deflated_bytes_that_end_early_are_cut() -> None:
    uid, data = made(1, filler=os.urandom(6_000_000))
    packed = zlib.compress(data, wbits=-zlib.MAX_WBITS)
    assert cut_in(part10(packed, uid, syntax=DEFLATED_LE)) == ""
    assert cut_in(part10(packed[:-1000], uid, syntax=DEFLATED_LE)) != ""
    endless = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    open_end = endless.compress(data) + endless.flush(zlib.Z_SYNC_FLUSH)
    assert cut_in(part10(open_end, uid, syntax=DEFLATED_LE)) == "its compressed bytes"
    again = zlib.compress(data[:-1000], wbits=-zlib.MAX_WBITS)
    assert cut_in(part10(again, uid, syntax=DEFLATED_LE)) == "its pixel data (7FE0,0010)"


def test_every_kind_of_source_names_what_is_cut_and_gives_what_is_whole(tmp_path: Path) -> None:
    files = slices(1, 24)
    whole, broken = list(files.values())[:20], [content[:-500] for content in list(files.values())[20:]]
    source = tmp_path / "old"
    source.mkdir()
    tree(source / "tree", [*whole[:5], broken[0]])
    orthanc(source / "orthanc", [whole[5], broken[1], *whole[6:10]])
    tar(source / "disc.tar", [*whole[10:15], broken[2]])
    zipped(source / "disc.zip", [*whole[15:], broken[3]])
    uid, data = image(99, filler=os.urandom(IN_MEMORY + 5_000))
    (source / "large").write_bytes(part10(data, uid)[:-1])
    found, left = examined(source)
    named = [one for one in left if one.what == "unreadable"]
    assert {one.why for one in named} == {"it is cut short within its pixel data (7FE0,0010)"}
    assert {one.uid for one in named} == {uid, *list(files)[20:]} and len(named) == 5
    assert_all([one for one in found if not one.header_only], dict(list(files.items())[:20]))


def test_a_bare_data_set_is_looked_at_too(tmp_path: Path) -> None:
    _, data = image(1)
    (tmp_path / "d").mkdir()
    (tmp_path / "d/cut").write_bytes(data[: -len(FILLER) // 2])
    (tmp_path / "d/whole").write_bytes(data)
    found, left = examined(tmp_path / "d")
    assert [(one.transfer_syntax_uid, one.offset) for one in found] == [(EXPLICIT_LE, 0)]
    assert [(one.what, one.why) for one in left] == [
        ("unreadable", "it is cut short within its pixel data (7FE0,0010)")
    ]
