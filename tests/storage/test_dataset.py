"""The header scanner against pydicom: on every sample file, on built data sets, and on hostile bytes."""

import io
import struct
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any, cast

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.dataset import NeedMore, Undecided, UnreadableDataSet, read_meta, scan
from storage.digest import part10_meta_length

EXPLICIT_LE, IMPLICIT_LE = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
EXPLICIT_BE, DEFLATED = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
FIELDS = {
    "sop_class_uid": 0x00080016,
    "sop_instance_uid": 0x00080018,
    "study_instance_uid": 0x0020000D,
    "series_instance_uid": 0x0020000E,
    "modality": 0x00080060,
    "patient_id": 0x00100020,
    "study_date": 0x00080020,
}


def sample_files() -> list[Path]:
    import data_store  # type: ignore[import-untyped]  # pydicom-data has no types

    roots = [Path(pydicom.__file__).parent / "data", Path(data_store.__file__).parent]
    return sorted(
        path for root in roots for path in root.rglob("*") if path.is_file() and path.stat().st_size < 4 << 20
    )


def part10(path: Path) -> bytes | None:
    data = path.read_bytes()
    return data if part10_meta_length(data[:144]) else None


def test_the_samples_are_there() -> None:
    assert sum(1 for path in sample_files() if part10(path)) > 100


def test_every_sample_file_reads_as_pydicom_reads_it() -> None:
    compared = 0
    for path in sample_files():
        data = part10(path)
        if data is None:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                dataset: Any = cast(Any, pydicom).dcmread(io.BytesIO(data), stop_before_pixels=True)
                wanted = {name: str(dataset[tag].value or "") for name, tag in FIELDS.items() if tag in dataset}
            except Exception:  # noqa: BLE001 - a sample that pydicom cannot read says nothing about ours
                continue
        meta = read_meta(data)
        try:
            found = scan(data[meta.meta_length :], meta.transfer_syntax_uid, complete=True)
        except UnreadableDataSet:
            assert "SOPInstanceUID" not in dataset, path.name
            continue
        for name, value in wanted.items():
            ours = cast(str, getattr(found, name))
            assert ours == value or not value.isascii() or "\\" in ours or "[" in value, f"{path.name}: {name}"
        compared += 1
    assert compared > 100


def element(tag: int, vr: bytes, value: bytes, syntax: str) -> bytes:
    order = ">" if syntax == EXPLICIT_BE else "<"
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
    if syntax == IMPLICIT_LE:
        return head + struct.pack("<I", len(value)) + value
    if vr in (b"SQ", b"UN", b"OB"):
        return head + vr + b"\0\0" + struct.pack(order + "I", len(value)) + value
    return head + vr + struct.pack(order + "H", len(value)) + value


def open_sequence(tag: int, inside: bytes, syntax: str) -> bytes:
    """A sequence of undefined length with one item of undefined length."""
    order = ">" if syntax == EXPLICIT_BE else "<"
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
    head += struct.pack("<I", 0xFFFFFFFF) if syntax == IMPLICIT_LE else b"SQ\0\0" + struct.pack(order + "I", 0xFFFFFFFF)
    marks = [struct.pack(order + "HHI", 0xFFFE, *rest) for rest in ((0xE000, 0xFFFFFFFF), (0xE00D, 0), (0xE0DD, 0))]
    return head + marks[0] + inside + marks[1] + marks[2]


@given(
    syntax=st.sampled_from([EXPLICIT_LE, IMPLICIT_LE, EXPLICIT_BE]),
    uid=st.from_regex(r"\A1(\.[1-9][0-9]{0,5}){1,8}\Z"),
    depth=st.integers(0, 8),
    deflate=st.booleans(),
)
def test_sequences_are_skipped_and_the_attributes_behind_them_found(
    syntax: str, uid: str, depth: int, deflate: bool
) -> None:
    inner = element(0x00080018, b"UI", b"9.9.9\0", syntax)
    for _ in range(depth):
        inner = open_sequence(0x00081140, inner, syntax)
    value = uid.encode() + b"\0" * (len(uid) % 2)
    data = element(0x00080018, b"UI", value, syntax)
    data += open_sequence(0x00081140, inner, syntax)
    data += element(0x0020000D, b"UI", value, syntax) + element(0x00280010, b"US", b"\0\0", syntax)
    if deflate and syntax == EXPLICIT_LE:
        squeezer = zlib.compressobj(wbits=-15)
        data, syntax = squeezer.compress(data) + squeezer.flush(), DEFLATED
    found = scan(data, syntax, complete=True)
    assert (found.sop_instance_uid, found.study_instance_uid) == (uid, uid)


def test_a_head_that_ends_too_early_asks_for_more_at_every_byte() -> None:
    data = element(0x00080018, b"UI", b"1.2\0", EXPLICIT_LE) + element(0x0020000D, b"UI", b"1.3\0", EXPLICIT_LE)
    data += element(0x00280010, b"US", b"\0\0", EXPLICIT_LE) + bytes(8)
    for cut in range(24):
        with pytest.raises(NeedMore):
            scan(data[:cut], EXPLICIT_LE, complete=False)
    assert scan(data, EXPLICIT_LE, complete=False).study_instance_uid == "1.3"


@given(data=st.binary(max_size=400), syntax=st.sampled_from([EXPLICIT_LE, IMPLICIT_LE, EXPLICIT_BE, DEFLATED]))
def test_any_bytes_give_attributes_or_an_error(data: bytes, syntax: str) -> None:
    try:
        scan(data, syntax, complete=True)
    except UnreadableDataSet:
        return


@given(flips=st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 255)), max_size=12), cut=st.integers(0, 4000))
def test_a_damaged_sample_gives_attributes_or_an_error(flips: list[tuple[int, int]], cut: int) -> None:
    path = Path(pydicom.__file__).parent / "data" / "test_files" / "CT_small.dcm"
    data = bytearray(path.read_bytes()[:4000])
    for at, mask in flips:
        data[336 + at % (len(data) - 336)] ^= mask
    try:
        scan(bytes(data[336:cut]), EXPLICIT_LE, complete=True)
    except UnreadableDataSet:
        return


def test_deep_nesting_and_absurd_lengths_cost_an_error_only() -> None:
    inner = b""
    for _ in range(5000):
        inner = open_sequence(0x00081140, inner, EXPLICIT_LE)[:20] + inner
    for hostile in (inner, struct.pack("<HH2sHI", 8, 0x18, b"UN", 0, 0xFFFFFFF0), b"\x08\0\x05\0" + b"\xff" * 20):
        with pytest.raises(UnreadableDataSet):
            scan(hostile, EXPLICIT_LE, complete=True)


def test_a_zip_bomb_is_inflated_no_further_than_needed() -> None:
    squeezer = zlib.compressobj(9, wbits=-15)
    bomb = squeezer.compress(element(0x00080018, b"UI", b"1.2\0", EXPLICIT_LE))
    bomb += squeezer.compress(element(0x00280010, b"US", b"\0\0", EXPLICIT_LE))
    for _ in range(64):
        bomb += squeezer.compress(bytes(1 << 20))
    bomb += squeezer.flush()
    assert scan(bomb, DEFLATED, complete=True).sop_instance_uid == "1.2"


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"])
def test_every_transfer_syntax_that_deflates_the_data_set_is_inflated(syntax: str) -> None:
    squeezer = zlib.compressobj(wbits=-15)
    data = squeezer.compress(element(0x00080018, b"UI", b"1.2\0", EXPLICIT_LE)) + squeezer.flush()
    with pytest.raises(Undecided):
        scan(data, syntax, complete=True, thorough=False)
    assert scan(data + b"\0", syntax, complete=True).sop_instance_uid == "1.2"


def test_a_quick_look_leaves_to_a_thorough_one_whatever_takes_long() -> None:
    uid = element(0x00080018, b"UI", b"1.2\0", EXPLICIT_LE)
    squeezer = zlib.compressobj(wbits=-15)
    name = element(0x00080005, b"CS", b"ISO_IR 100", EXPLICIT_LE) + uid
    name += element(0x00100010, b"PN", b"M\xfcller" * 200, EXPLICIT_LE)
    for data, syntax in (
        (squeezer.compress(uid) + squeezer.flush(), DEFLATED),
        (uid + element(0x00080016, b"UI", b"1.3\0", EXPLICIT_LE), EXPLICIT_LE),
        (name, EXPLICIT_LE),
    ):
        with pytest.raises(Undecided):
            scan(data, syntax, complete=True, thorough=False)
        assert scan(data, syntax, complete=True).sop_instance_uid == "1.2"
    with pytest.raises(Undecided):
        scan(bytes(64 << 10), EXPLICIT_LE, complete=False, thorough=False)


def hostile(kind: str) -> tuple[bytes, str]:
    """Data sets that once took seconds, and how each is sent."""
    twice = element(0x00080018, b"UI", b"1.2\0", EXPLICIT_LE) * 2
    match kind.split(", "):
        case ["zeros"]:
            return bytes(4 << 20), IMPLICIT_LE
        case ["empty elements", *deflated]:
            data = b"".join(struct.pack("<HH2sH", 9 + n // 60000, n % 60000, b"LO", 0) for n in range(400_000))
            squeezer = zlib.compressobj(wbits=-15)
            return (squeezer.compress(data) + squeezer.flush(), DEFLATED) if deflated else (data, EXPLICIT_LE)
        case ["empty items", *odd]:
            items = struct.pack("<HHIHHI", 0xFFFE, 0xE000, 0xFFFFFFFF, 0xFFFE, 0xE00D, 0) * 200_000
            sequence = struct.pack("<HH2sHI", 9, 0x1140, b"SQ", 0, 0xFFFFFFFF) + items
            return (twice + sequence if odd else sequence), EXPLICIT_LE
        case _:
            head = element(0x00080016, b"UI", b"1.2\0", EXPLICIT_LE) + struct.pack("<HH2sHI", 8, 5, b"UC", 0, 1 << 20)
            return head + b"\\" * (1 << 20), EXPLICIT_LE


@pytest.mark.parametrize(
    "kind",
    ["zeros", "empty elements", "empty elements, deflated", "empty items", "empty items, odd", "character sets"],
)
def test_no_data_set_costs_more_than_a_bounded_number_of_steps(kind: str) -> None:
    data, syntax = hostile(kind)
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)  # calls are counted, since time says more about the machine
    try:
        with pytest.raises(UnreadableDataSet):
            scan(data, syntax, complete=True)
    finally:
        sys.setprofile(None)
    assert calls < 1_000_000


@pytest.mark.parametrize("syntax", [EXPLICIT_LE, IMPLICIT_LE, EXPLICIT_BE])
@pytest.mark.parametrize("odd", [False, True])
def test_a_length_beyond_the_end_of_the_whole_data_set_is_unreadable(syntax: str, odd: bool) -> None:
    order = ">" if syntax == EXPLICIT_BE else "<"
    data = element(0x00080016, b"UI", b"1.3\0", syntax) + element(0x00080018, b"UI", b"1.2\0", syntax)
    if odd:
        data += element(0x00080016, b"UI", b"1.3\0", syntax)
    for length in (0x40, 0xFFFFFFF0):
        absurd = struct.pack(order + "HH", 0x0009, 0x1001)
        absurd += b"" if syntax == IMPLICIT_LE else b"UN\0\0"
        absurd += struct.pack(order + "I", length)
        with pytest.raises(UnreadableDataSet):
            scan(data + absurd + element(0x0020000D, b"UI", b"1.4\0", syntax), syntax, complete=True)
    behind = element(0x0020000D, b"UI", b"1.4\0", syntax) + element(0x7FE00010, b"OB", bytes(64), syntax)
    assert scan(data + behind[:-40], syntax, complete=True).study_instance_uid == "1.4"


def test_explicit_in_the_place_of_implicit_is_read() -> None:
    data = element(0x00080018, b"UI", b"1.2\0", EXPLICIT_LE) + element(0x0020000D, b"UI", b"1.4\0", EXPLICIT_LE)
    found = scan(data, IMPLICIT_LE, complete=True)
    assert (found.sop_instance_uid, found.study_instance_uid) == ("1.2", "1.4")


def test_what_pydicom_reads_is_whole_or_nothing() -> None:
    """A head that ends before the Study UID must not give an instance without one."""
    data = element(0x00080018, b"UI", b"1.2\0", EXPLICIT_LE) + element(0x00080016, b"UI", b"1.3\0", EXPLICIT_LE)
    data += element(0x00090010, b"OB", bytes(1000), EXPLICIT_LE) + element(0x0020000D, b"UI", b"1.4\0", EXPLICIT_LE)
    data += element(0x00280010, b"US", b"\0\0", EXPLICIT_LE)
    for cut in (100, 500, len(data) - 20):
        with pytest.raises(NeedMore):
            scan(data[:cut], EXPLICIT_LE, complete=False)
    assert scan(data, EXPLICIT_LE, complete=False).study_instance_uid == "1.4"
