"""Goal: our command sets are those of PS3.7, as pynetdicom has them, and nonsense is an error."""

from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dsutils import decode as decode_elements
from pynetdicom.dsutils import encode as encode_elements

from perenne.dimse.command import (
    Command,
    CommandUnreadable,
    decode_command,
    encode_command,
    response_to,
)
from perenne.dimse.status import comment_text

UIDS = st.from_regex(r"[0-9]{1,10}(\.[0-9]{1,10}){0,4}", fullmatch=True)


@given(
    st.builds(
        Command,
        field=st.sampled_from([0x0001, 0x0030, 0x8001, 0x8030, 0x0020]),
        message_id=st.integers(0, 65535),
        has_data_set=st.booleans(),
        sop_class_uid=UIDS | st.just(""),
        sop_instance_uid=UIDS | st.just(""),
        status=st.none() | st.integers(0, 65535),
        comment=st.text("abc XYZ.", max_size=64).map(str.strip),
    )
)
def test_a_command_set_comes_back_as_it_was(command: Command) -> None:
    encoded = encode_command(command)
    assert len(encoded) % 2 == 0 and int.from_bytes(encoded[8:12], "little") == len(encoded) - 12
    assert decode_command(encoded) == command


@given(st.binary(max_size=200))
def test_garbage_is_unreadable_or_a_command(data: bytes) -> None:
    try:
        decode_command(data)
    except CommandUnreadable:
        return


@given(st.integers(0, 300))
def test_a_command_set_cut_short_is_unreadable_or_lacks_its_last_elements(end: int) -> None:
    whole = encode_command(Command(field=1, message_id=7, has_data_set=True, sop_class_uid="1.2"))
    try:
        assert decode_command(whole[:end]).field == 1
    except CommandUnreadable:
        assert end < len(whole)


def test_pynetdicom_reads_our_response() -> None:
    request = Command(field=1, message_id=77, sop_class_uid="1.2.3", sop_instance_uid="1.2.3.4")
    encoded = encode_command(response_to(request, 0xA700, "no leader"))
    elements = decode_elements(BytesIO(encoded), True, True)
    assert elements.CommandField == 0x8001 and elements.MessageIDBeingRespondedTo == 77
    assert elements.Status == 0xA700 and elements.ErrorComment == "no leader"
    assert elements.AffectedSOPClassUID == "1.2.3" and elements.AffectedSOPInstanceUID == "1.2.3.4"
    assert elements.CommandDataSetType == 0x0101
    assert elements.CommandGroupLength == len(encoded) - 12


def test_we_read_the_request_of_pynetdicom() -> None:
    message = C_STORE_RQ()
    elements = message.command_set
    elements.AffectedSOPClassUID, elements.AffectedSOPInstanceUID = "1.2.3", "1.2.3.45"
    elements.CommandField, elements.MessageID, elements.Priority = 1, 5, 2
    elements.CommandDataSetType, elements.CommandGroupLength = 1, 0
    for name in ("MoveOriginatorApplicationEntityTitle", "MoveOriginatorMessageID"):
        delattr(elements, name)
    encoded = encode_elements(elements, True, True)
    assert encoded is not None
    assert decode_command(encoded) == Command(
        field=1, message_id=5, has_data_set=True, sop_class_uid="1.2.3", sop_instance_uid="1.2.3.45"
    )


@pytest.mark.parametrize("text", ["é" * 100, "a\\b\n", "plain"])
def test_an_error_comment_is_short_printable_ascii(text: str) -> None:
    comment = comment_text(text)
    assert len(comment) <= 64 and comment.isascii() and comment.isprintable() and "\\" not in comment
