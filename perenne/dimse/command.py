"""Command sets of C-STORE and C-ECHO: Implicit VR Little Endian, group 0000 (PS3.7 6.3.1, annex E)."""

import struct
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from perenne.dimse.status import comment_text

C_STORE_RQ: Final = 0x0001
C_ECHO_RQ: Final = 0x0030
C_CANCEL_RQ: Final = 0x0FFF
SERVICES: Final[Mapping[int, str]] = {
    C_ECHO_RQ: "c-echo",
    0x0010: "c-get",
    0x0020: "c-find",
    0x0021: "c-move",
    0x0130: "n-action",
}
"""By Command Field (PS3.7 table E.1-1), what is told apart when it is counted; C-STORE is counted elsewhere."""
RESPONSE: Final = 0x8000
"""Bit of the Command Field that tells a response from its request."""
NO_DATA_SET: Final = 0x0101
COMMAND_LIMIT: Final = 16 * 1024
"""Bytes of a command set we are ready to collect; real ones take about 200."""

_SOP_CLASS: Final = 0x0002
_REQUESTED_CLASS: Final = 0x0003
_FIELD: Final = 0x0100
_MESSAGE_ID: Final = 0x0110
_RESPONDED_ID: Final = 0x0120
_PRIORITY: Final = 0x0700
_DATA_SET_TYPE: Final = 0x0800
_STATUS: Final = 0x0900
_COMMENT: Final = 0x0902
_SOP_INSTANCE: Final = 0x1000

_HEADER: Final = struct.Struct("<HHI")


class CommandUnreadable(ValueError):
    """The bytes are no command set."""


class Command(Struct, frozen=True, kw_only=True):
    """A request, or a response when `field` has the bit RESPONSE; `message_id` is then the one responded to.

    status: None in a request. UIDs and comment are empty where absent.
    """

    field: int
    message_id: int
    has_data_set: bool = False
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    status: int | None = None
    comment: str = ""


def decode_command(data: bytes | bytearray) -> Command:
    """Return what a command set says. Elements we do not use are skipped, their order does not matter.

    Raises CommandUnreadable.
    """
    elements = _elements(data)
    field = _number(elements, _FIELD)
    if field is None:
        raise CommandUnreadable("no Command Field")
    message_id = _number(elements, _RESPONDED_ID if field & RESPONSE else _MESSAGE_ID)
    if message_id is None:
        if field != C_CANCEL_RQ:
            raise CommandUnreadable("no Message ID")
        message_id = _number(elements, _RESPONDED_ID) or 0
    data_set_type = _number(elements, _DATA_SET_TYPE)
    return Command(
        field=field,
        message_id=message_id,
        has_data_set=data_set_type is not None and data_set_type != NO_DATA_SET,
        sop_class_uid=_text(elements, _SOP_CLASS) or _text(elements, _REQUESTED_CLASS),
        sop_instance_uid=_text(elements, _SOP_INSTANCE),
        status=_number(elements, _STATUS),
        comment=_text(elements, _COMMENT),
    )


def encode_command(command: Command) -> bytes:
    """Return the command set with its group length."""
    response = bool(command.field & RESPONSE)
    body = b"".join(
        (
            _uid(_SOP_CLASS, command.sop_class_uid),
            _us(_FIELD, command.field),
            _us(_RESPONDED_ID if response else _MESSAGE_ID, command.message_id),
            _us(_PRIORITY, 0) if command.field == C_STORE_RQ else b"",
            _us(_DATA_SET_TYPE, 0x0001 if command.has_data_set else NO_DATA_SET),
            b"" if command.status is None else _us(_STATUS, command.status),
            _lo(_COMMENT, command.comment),
            _uid(_SOP_INSTANCE, command.sop_instance_uid),
        )
    )
    return _HEADER.pack(0, 0, 4) + len(body).to_bytes(4, "little") + body


def service_of(field: int) -> str:
    """
    >>> service_of(0x0030), service_of(0x0150)
    ('c-echo', 'other')
    """
    return SERVICES.get(field, "other")


def response_to(request: Command, status: int, comment: str = "") -> Command:
    """Return the response that repeats the class and instance of its request (PS3.7 table 9.1-1)."""
    return Command(
        field=request.field | RESPONSE,
        message_id=request.message_id,
        sop_class_uid=request.sop_class_uid,
        sop_instance_uid=request.sop_instance_uid,
        status=status,
        comment=comment_text(comment),
    )


def _elements(data: bytes | bytearray) -> Mapping[int, bytes]:
    elements: dict[int, bytes] = {}
    offset, end = 0, len(data)
    while offset < end:
        if end - offset < 8:
            raise CommandUnreadable("an element is cut short")
        group, number, length = _HEADER.unpack_from(data, offset)
        offset += 8
        if group != 0 or length > end - offset:
            raise CommandUnreadable("not a command element, or longer than the command set")
        elements[number] = bytes(data[offset : offset + length])
        offset += length
    return elements


def _number(elements: Mapping[int, bytes], number: int) -> int | None:
    value = elements.get(number)
    if not value:
        return None
    if len(value) != 2:
        raise CommandUnreadable(f"element (0000,{number:04X}) is not one US")
    return int.from_bytes(value, "little")


def _text(elements: Mapping[int, bytes], number: int) -> str:
    return elements.get(number, b"").decode("latin-1").strip(" \0")


def _us(number: int, value: int) -> bytes:
    return _HEADER.pack(0, number, 2) + value.to_bytes(2, "little")


def _uid(number: int, text: str) -> bytes:
    return _padded(number, text, b"\0")


def _lo(number: int, text: str) -> bytes:
    return _padded(number, text, b" ")


def _padded(number: int, text: str, pad: bytes) -> bytes:
    if not text:
        return b""
    value = text.encode("latin-1", "replace")
    value += pad * (len(value) % 2)
    return _HEADER.pack(0, number, len(value)) + value
