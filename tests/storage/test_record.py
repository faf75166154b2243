"""Goal: a record header has exactly one encoding, and nothing else is ever taken for one."""

import io
import tarfile

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import FormatError, RecordCorrupt
from storage.position import LogPosition, RecordHeader, RecordKind, chain_after
from storage.record import (
    decode_header,
    encode_header,
    instance_path,
    record_length,
    small_member,
    trailing_padding,
)

numbers = st.integers(0, 2**63 - 1)
digests = st.binary(min_size=32, max_size=32)
components = st.text(st.characters(codec="utf-8", exclude_characters="/\0\n"), min_size=1, max_size=120).filter(
    lambda part: part not in (".", "..")
)
paths = st.lists(components, min_size=1, max_size=4).map("/".join)
headers = st.builds(
    RecordHeader,
    st.builds(LogPosition, numbers, numbers),
    st.sampled_from(RecordKind),
    digests,
    digests,
    st.integers(-(2**62), 2**62),
    paths,
    st.one_of(st.integers(0, 20_000), st.integers(0, 2**40)),
)


@given(headers, digests)
def test_every_header_decodes_to_itself_and_fills_whole_pages(header: RecordHeader, chain: bytes) -> None:
    head = encode_header(header, chain)
    decoded = decode_header(head)
    assert (decoded.header, decoded.chain, decoded.payload_offset) == (header, chain, len(head))
    assert decoded.length == record_length(header.path, header.size)
    assert decoded.length % 4096 == 0 and len(head) % 512 == 0


@given(headers, digests)
def test_python_reads_the_same_name_and_size(header: RecordHeader, chain: bytes) -> None:
    if header.size > 20_000:
        return
    data = encode_header(header, chain) + bytes(header.size + trailing_padding(header.size)) + bytes(1024)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        (member,) = archive.getmembers()
    # Python takes trailing slashes off and nothing else.
    assert (member.name, member.size, member.isfile()) == (header.path, header.size, True)


@given(headers, digests, st.data())
def test_one_changed_bit_is_refused_or_changes_what_the_chain_covers(
    header: RecordHeader, chain: bytes, data: st.DataObject
) -> None:
    head = bytearray(encode_header(header, chain))
    head[data.draw(st.integers(0, len(head) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        decoded = decode_header(bytes(head))
    except RecordCorrupt:
        return
    assert (decoded.header, decoded.chain) != (header, chain)


@given(st.binary(max_size=3000))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(RecordCorrupt):
        decode_header(noise)


@given(st.text(max_size=80), st.text(max_size=80), st.text(max_size=80))
def test_no_uid_leaves_its_folder(study: str, series: str, sop: str) -> None:
    parts = instance_path(study, series, sop, 3).split("/")
    assert len(parts) == 3 and not {"", ".", ".."} & set(parts)


@pytest.mark.parametrize("path", ["", "/a", "a//b", "../a", "a/.", "a\nb", "a\0b"])
def test_a_path_that_would_leave_its_folder_is_refused(path: str) -> None:
    header = RecordHeader(LogPosition(1, 1), RecordKind.NOTE, bytes(32), bytes(32), 0, path, 0)
    with pytest.raises(FormatError):
        encode_header(header, bytes(32))


@pytest.mark.parametrize("field", ["seq", "epoch", "time"])
def test_a_number_that_the_chain_has_no_room_for_is_damage(field: str) -> None:
    header = RecordHeader(LogPosition(3, 7), RecordKind.NOTE, bytes(32), bytes(32), 9, "perenne/x.json", 5)
    head = encode_header(header, bytes(32))
    old = {"seq": b"seq=7 ", "epoch": b"epoch=3 ", "time": b"time=9"}[field]
    large = f"{field}={2**64}".encode() + b" " * old.endswith(b" ")
    forged = head.replace(old, large).replace(b" " * (len(large) - len(old)) + b"\n", b"\n", 1)
    assert len(forged) == len(head)
    with pytest.raises(RecordCorrupt, match="more than 64 bits"):
        decode_header(forged)


def test_a_small_member_is_json_under_perenne() -> None:
    header, payload = small_member(LogPosition(4, 17), RecordKind.EPOCH, {"leader": "n1"}, 5)
    assert (header.path, payload) == ("perenne/000000000017-epoch.json", b'{"leader":"n1"}\n')


def test_the_vector_of_the_format_page_holds() -> None:
    header = RecordHeader(
        LogPosition(3, 7), RecordKind.INSTANCE, b"a" * 32, b"b" * 32, 1_700_000_000_123_456, "1.2/3/4.dcm", 5
    )
    head = encode_header(header, b"c" * 32)
    assert len(head) == 3584
    assert blake3(head).hexdigest() == "24267076730a5d84e8b320a0804a6d26df46cf0953e27768d25a2737dfa54b3a"
    assert chain_after(bytes(32), header).hex() == "baf3721d6bddfd500d5a98c26ee3ab787cd7f51a1af12496a392e3f50c476ae7"
