"""One record as one tar member: a pax header whose `comment` carries the facts, a ustar header, the payload.

The header bytes are canonical: a header has exactly one encoding, and decoding refuses every other
(docs/format.md, Record). Pure functions.
"""

import json
import re
import zlib
from binascii import unhexlify
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from msgspec import Struct

from storage.digest import digests_of
from storage.errors import FormatError, RecordCorrupt
from storage.position import DIGEST_BYTES, LogPosition, RecordHeader, RecordKind

BLOCK: Final = 512
RECORD_ALIGNMENT: Final = 4096
HEADER_LIMIT: Final = 16 * 1024
"""No record header is longer: enough to read one from a known offset in one go."""
_PAX_NAME: Final = b"././@PaxHeader"
_SIZE_LIMIT: Final = 8**11
_COMMENT: Final = re.compile(
    rb"(\d+) comment=seq=(\d+) epoch=(\d+) kind=(instance|tombstone|epoch|note) dataset=([0-9a-f]{64})"
    rb" digest=([0-9a-f]{64}) chain=([0-9a-f]{64}) time=(-?\d+)(?: size=(\d+) tombstone=(\d+))?[ \n]"
)
"""What the comment says; that spaces fill it up, and nothing else, is seen when the whole header is compared."""
_PAX_PATH: Final = re.compile(rb"\d+ path=([^\n\0]+)\n")
_PAX_SIZE: Final = re.compile(rb"\d+ size=(\d+)\n")
_KINDS: Final = {kind.value.encode(): kind for kind in RecordKind}
_UID: Final = re.compile(r"[0-9.]{1,64}")
STUB_SUFFIX: Final = ".deleted.txt"
"""Behind the name of an instance whose payload was taken away: nobody takes what is left of it for an image."""
_STUB_ROOM: Final = 64
"""What a stub's comment says beside: two numbers and their names."""


class DecodedRecord(Struct, frozen=True, gc=False):
    """The header of a record as found. payload_offset and length count from the record's first byte.

    tombstone: of a stub, the sequence of the tombstone that covers it; 0 where the payload is here.
    """

    header: RecordHeader
    chain: bytes
    payload_offset: int
    length: int
    tombstone: int = 0


def trailing_padding(size: int) -> int:
    """Return the zero bytes after a payload of `size` bytes, up to a whole tar block."""
    return -size % BLOCK


def record_length(path: str, size: int) -> int:
    """Return the bytes of the whole record, always a multiple of 4096."""
    extra = len(_extra_pax(path, size, _split_path(path) is None))
    return _header_length(extra, size) + size + trailing_padding(size)


def encode_header(header: RecordHeader, chain: bytes) -> bytes:
    """Return the canonical bytes before the payload.

    Raises FormatError when the path or a size is not allowed.
    """
    if not _path_allowed(header.path) or header.size < 0 or len(chain) != DIGEST_BYTES:
        raise FormatError(f"no record can be called {header.path!r}")
    _check_numbers(header)
    return _head(header.path, header.size, 0, _facts(header, chain), header.time_us)


def encode_stub(header: RecordHeader, chain: bytes, tombstone: int) -> bytes:
    """Return the canonical bytes of a whole record whose payload was taken away: what the chain proves of it, and a
    text for whoever finds it with tar. tombstone: the sequence of the record that covers it.

    Raises FormatError when such a record can have no stub.
    """
    if header.kind is not RecordKind.INSTANCE or tombstone <= header.position.sequence:
        raise FormatError(f"record {header.position.sequence} cannot be a stub of tombstone {tombstone}")
    if not _path_allowed(header.path) or header.size < 0 or len(chain) != DIGEST_BYTES:
        raise FormatError(f"no record can be called {header.path!r}")
    _check_numbers(header)
    text = (
        f"This image was deleted, and compaction took its {header.size} bytes away.\n"
        f"Who, when and why: perenne/{tombstone:012d}-tombstone.json\n"
    ).encode()
    facts = _facts(header, chain) + f" size={header.size} tombstone={tombstone}".encode()
    head = _head(header.path + STUB_SUFFIX, len(text), _STUB_ROOM, facts, header.time_us)
    return head + text + bytes(trailing_padding(len(text)))


def _check_numbers(header: RecordHeader) -> None:
    """Raises FormatError for those that the chain has no room for (`position.chain_after`)."""
    position = header.position
    largest = max(position.sequence, position.epoch, header.size)
    if largest >= 2**64 or not -(2**63) <= header.time_us < 2**63:
        raise FormatError(f"record {position.sequence} has a number of more than 64 bits")


def _facts(header: RecordHeader, chain: bytes) -> bytes:
    position = header.position
    return (
        f"seq={position.sequence} epoch={position.epoch} kind={header.kind.value}"
        f" dataset={header.dataset.hex()} digest={header.digest.hex()} chain={chain.hex()}"
        f" time={header.time_us}"
    ).encode()


def _head(path: str, size: int, room: int, facts: bytes, time_us: int) -> bytes:
    """path, size: as tar sees them. room: for facts beyond those that every record has."""
    split = _split_path(path)
    extra = _extra_pax(path, size, split is None)
    pax_size = _header_length(len(extra) + room, size) - 2 * BLOCK
    comment_size = pax_size - len(extra)
    start = f"{comment_size} comment=".encode() + facts
    comment = start.ljust(comment_size - 1) + b"\n"
    seconds = min(max(time_us // 1_000_000, 0), _SIZE_LIMIT - 1)
    name, prefix = split or (path.encode()[-100:], b"")
    return b"".join(
        (
            _pax_header(pax_size, seconds),
            comment,
            extra,
            ustar_header(name, prefix, size if size < _SIZE_LIMIT else 0, seconds, b"0"),
        )
    )


def header_bytes(start: memoryview | bytes | bytearray) -> int:
    """Return how many bytes `decode_header` needs of a record that begins like this: 512 as long as that is not known.

    What is no header gets a number all the same: `decode_header` refuses it then.
    """
    digits = bytes(start[124:135])
    if len(start) < BLOCK or not digits.isdigit():
        return BLOCK
    try:
        return min(2 * BLOCK + int(digits, 8), HEADER_LIMIT)
    except ValueError:
        return BLOCK


def decode_header(view: memoryview | bytes) -> DecodedRecord:
    """Read the header at the start of `view`, which may be longer or end early in the payload.

    Raises RecordCorrupt on anything that `encode_header` would not have written.
    """
    try:
        pax_size = int(bytes(view[124:135]), 8)
        member = BLOCK + pax_size
        offset = member + BLOCK
        if pax_size <= 0 or pax_size % BLOCK or offset > HEADER_LIMIT or len(view) < offset:
            raise ValueError("its extended header is cut off or absurd")
        data = bytes(view[:offset])
        comment = _COMMENT.match(data, BLOCK, member)
        if comment is None:
            raise ValueError("its comment is not ours")
        said, *facts, size_before, covered_by = comment.groups()
        at = BLOCK + int(said)
        path, size = _decode_path(data, member), int(data[member + 124 : member + 135], 8)
        if found := _PAX_PATH.match(data, at, member):
            path, at = found[1], found.end()
        if found := _PAX_SIZE.match(data, at, member):
            size = int(found[1])
        sequence, epoch, kind, dataset, digest, chain, time_us = facts
        name, tombstone = path.decode(), int(covered_by or 0)
        if covered_by is not None:
            if not name.endswith(STUB_SUFFIX):
                raise ValueError("a stub without its suffix")
            name = name.removesuffix(STUB_SUFFIX)
        header = RecordHeader(
            LogPosition(int(epoch), int(sequence)),
            _KINDS[kind],
            unhexlify(dataset),
            unhexlify(digest),
            int(time_us),
            name,
            size if covered_by is None else int(size_before),
        )
        proof = unhexlify(chain)
        if covered_by is None:
            canonical = encode_header(header, proof)
            length = offset + size + trailing_padding(size)
        else:
            whole = encode_stub(header, proof, tombstone)
            canonical, length = whole[:offset], len(whole)
    except (ValueError, FormatError) as error:
        raise RecordCorrupt(0, str(error)) from error
    if data != canonical:
        raise RecordCorrupt(header.position.sequence, "its header is not canonical")
    return DecodedRecord(header, proof, offset, length, tombstone)


def instance_path(study: str, series: str, sop: str, version_sequence: int | None) -> str:
    """Return the member name of an instance; what is no UID becomes `unknown`, so no path leaves its folder.

    version_sequence: of its record, where the plain name may be another instance's. No UID has a `v` in it.

    >>> instance_path("1.2", "1.2.3", "../x", None)
    '1.2/1.2.3/unknown.dcm'
    >>> instance_path("1.2", "1.2.3", "1.2.3.4", 17)
    '1.2/1.2.3/1.2.3.4.v17.dcm'
    """
    study, series, sop = (_uid_or_unknown(uid) for uid in (study, series, sop))
    version = "" if version_sequence is None else f".v{version_sequence}"
    return f"{study}/{series}/{sop}{version}.dcm"


def small_member(
    position: LogPosition, kind: RecordKind, facts: Mapping[str, object], time_us: int
) -> tuple[RecordHeader, bytes]:
    """Return header and payload of a JSON record under `perenne/`: a tombstone, an epoch start or a note."""
    payload = json.dumps(facts, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    digests = digests_of(kind, [payload])
    path = f"perenne/{position.sequence:012d}-{kind.value}.json"
    header = RecordHeader(position, kind, digests.dataset, digests.digest, time_us, path, len(payload))
    return header, payload


def ustar_header(name: bytes, prefix: bytes, size: int, seconds: int, kind: bytes) -> bytes:
    """Return one 512-byte header block: owner 0, mode 0644, no user names."""
    start = b"%s0000644\x000000000\x000000000\x00%011o\x00%011o\x00" % (name.ljust(100, b"\0"), size, seconds)
    end = b"%sustar\x0000%s%s" % (kind.ljust(101, b"\0"), bytes(80), prefix.ljust(167, b"\0"))
    checksum = _sum(start) + _sum(end[:256]) + _sum(end[256:]) + 8 * 0x20
    return b"%s%06o\x00 %s" % (start, checksum, end)


@lru_cache(maxsize=256)
def _pax_header(size: int, seconds: int) -> bytes:
    """Records that came in the same second mostly have the same one."""
    return ustar_header(_PAX_NAME, b"", size, seconds, b"x")


def _sum(data: bytes) -> int:
    """The sum of at most 256 bytes, which is below the modulus of Adler-32: a tenth of the time of `sum`."""
    return (zlib.adler32(data) & 0xFFFF) - 1


def _header_length(extra: int, size: int) -> int:
    """Return the bytes before the payload: as many blocks of pax data as make the record a
    multiple of 4096. extra: bytes of further pax lines.
    """
    # 450 bytes hold the comment with the largest possible numbers; the spaces fill the rest.
    needed = -(-(450 + extra) // BLOCK) * BLOCK
    return 2 * BLOCK + needed + -(2 * BLOCK + needed + size + trailing_padding(size)) % RECORD_ALIGNMENT


def _extra_pax(path: str, size: int, long_path: bool) -> bytes:
    extra = _pax_line("path", path.encode()) if long_path else b""
    return extra if size < _SIZE_LIMIT else extra + _pax_line("size", str(size).encode())


def _pax_line(keyword: str, value: bytes) -> bytes:
    """Return a pax record, whose length counts its own digits."""
    bare = len(keyword) + len(value) + 3
    length = bare + len(str(bare))
    length = bare + len(str(length))
    return f"{length} {keyword}=".encode() + value + b"\n"


def _split_path(path: str) -> tuple[bytes, bytes] | None:
    """Return (name, prefix) of the ustar header, or None when the path needs the pax keyword."""
    raw = path.encode()
    if not raw.isascii():
        return None
    if len(raw) <= 100:
        return raw, b""
    cut = raw.rfind(b"/")
    if 0 < cut <= 155 and len(raw) - cut - 1 <= 100:
        return raw[cut + 1 :], raw[:cut]
    return None


def _decode_path(data: bytes, at: int) -> bytes:
    """The name in the ustar header at `at`."""
    name, prefix = data[at : at + 100].rstrip(b"\0"), data[at + 345 : at + 500].rstrip(b"\0")
    return prefix + b"/" + name if prefix else name


def _path_allowed(path: str) -> bool:
    if not 0 < len(path) <= 1024 or "\0" in path or "\n" in path:
        return False
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return all(part not in ("", ".", "..") for part in path.split("/"))


def _uid_or_unknown(uid: str) -> str:
    # A component of dots alone would be a way out of the folder.
    return uid if _UID.fullmatch(uid) and uid.strip(".") else "unknown"


def epoch_record(position: LogPosition, time_us: int) -> tuple[RecordHeader, bytes]:
    """The first record of an epoch: header and payload."""
    return small_member(position, RecordKind.EPOCH, {"epoch": position.epoch}, time_us)
