"""The preamble and File Meta group of a received instance (PS3.10 section 7.1)."""

from perenne.dimse.uids import IMPLEMENTATION_CLASS, IMPLEMENTATION_VERSION

_PREAMBLE = bytes(128) + b"DICM"


def file_meta(*, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, source_ae: str) -> bytes:
    """Return preamble, prefix and File Meta with its group length; what follows in the file is the data set.

    source_ae: the calling AE title, in (0002,0016); left out when empty. What the VR does not allow becomes "?".
    """
    group = b"".join(
        (
            b"\x02\x00\x01\x00OB\x00\x00\x02\x00\x00\x00\x00\x01",
            _element(0x02, b"UI", sop_class_uid),
            _element(0x03, b"UI", sop_instance_uid),
            _element(0x10, b"UI", transfer_syntax_uid),
            _element(0x12, b"UI", IMPLEMENTATION_CLASS),
            _element(0x13, b"SH", IMPLEMENTATION_VERSION),
            _element(0x16, b"AE", source_ae.replace("\\", "?")) if source_ae else b"",
        )
    )
    return b"".join((_PREAMBLE, b"\x02\x00\x00\x00UL\x04\x00", len(group).to_bytes(4, "little"), group))


def _element(number: int, vr: bytes, text: str) -> bytes:
    value = text.encode("ascii", "replace")
    if len(value) % 2:
        value += b"\0" if vr == b"UI" else b" "
    return b"\x02\x00%c\x00%b%b%b" % (number, vr, len(value).to_bytes(2, "little"), value)
