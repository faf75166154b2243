"""Goal: storage of every kind is accepted, other services are not, and only those allowed may call."""

import contextlib
import io
import sys
from typing import Any, cast

import pydicom
import pytest
from pynetdicom import sop_class as known

from perenne.dimse import pdu as wire
from perenne.dimse.negotiation import (
    CallingPolicy,
    ProposedContext,
    decide,
    decode_acceptance,
    decode_request,
    encode_acceptance,
    encode_request,
)
from perenne.dimse.pdu import PduError
from perenne.dimse.sender import Sender
from perenne.dimse.settings import AllowedAe
from perenne.dimse.uids import (
    EXPLICIT_BE,
    EXPLICIT_LE,
    IMPLICIT_LE,
    VERIFICATION,
    choose_transfer_syntax,
    is_storage,
)
from tests.dimse.helpers import CT, RawPeer, association_request, dataset, pdvs, run, serving, settings, store_command

JPEG = "1.2.840.10008.1.2.4.50"
J2K = "1.2.840.10008.1.2.4.90"
READ: Any = cast(Any, pydicom).dcmread
PRIVATE_SYNTAX = "1.2.840.113619.5.2"


@pytest.mark.parametrize(
    "uid",
    [
        CT,
        *known._STORAGE_CLASSES.values(),  # pyright: ignore[reportPrivateUsage] # no public list
        "1.3.12.2.1107.5.9.1",
        "1.2.840.10008.5.1.4.1.1.999.77",
        "1.2.840.10008.5.1.4.1.1.3",
        "1.2.840.10008.5.1.4.38.1",
        "1.2.840.10008.5.1.4.39.1",
    ],
)
def test_every_storage_class_private_and_unknown_ones_included_is_stored(uid: str) -> None:
    assert is_storage(uid)


@pytest.mark.parametrize(
    "uid",
    [
        "",
        VERIFICATION,
        "1.2.840.10008.1.3.10",
        "1.2.840.10008.1.20.1",
        "1.2.840.10008.5.1.4.1.2.1.1",
        "1.2.840.10008.5.1.4.1.2.2.2",
        "1.2.840.10008.5.1.4.31",
        "1.2.840.10008.3.1.2.3.3",
        "1.2.840.10008.5.1.1.9",
        EXPLICIT_LE,
    ],
)
def test_what_is_known_to_be_something_else_is_not(uid: str) -> None:
    assert not is_storage(uid)


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ([J2K, EXPLICIT_LE], J2K),
        ([EXPLICIT_LE, J2K], EXPLICIT_LE),
        ([IMPLICIT_LE, EXPLICIT_LE], EXPLICIT_LE),
        ([IMPLICIT_LE, JPEG], IMPLICIT_LE),
        ([EXPLICIT_BE, IMPLICIT_LE], EXPLICIT_BE),
        ([EXPLICIT_BE, IMPLICIT_LE, EXPLICIT_LE], EXPLICIT_LE),
        ([PRIVATE_SYNTAX, IMPLICIT_LE], IMPLICIT_LE),
        ([PRIVATE_SYNTAX], PRIVATE_SYNTAX),
        (["", JPEG], JPEG),
        ([], None),
    ],
)
def test_the_transfer_syntax_is_the_first_that_loses_nothing(offered: list[str], chosen: str | None) -> None:
    assert choose_transfer_syntax(offered) == chosen


def test_each_context_gets_its_own_result() -> None:
    async def main() -> None:
        async with (
            serving() as rig,
            await Sender.associate(
                "127.0.0.1",
                rig.port,
                [
                    (VERIFICATION, [IMPLICIT_LE]),
                    ("1.2.840.10008.5.1.4.1.2.2.1", [IMPLICIT_LE]),
                    (CT, [IMPLICIT_LE, EXPLICIT_LE]),
                    (CT, [J2K]),
                    ("1.3.12.2.1107.5.9.1", [PRIVATE_SYNTAX]),
                ],
            ) as sender,
        ):
            assert sender.accepted == {1: IMPLICIT_LE, 5: EXPLICIT_LE, 7: J2K, 9: PRIVATE_SYNTAX}

    run(main)


def test_128_contexts_are_answered() -> None:
    contexts = [ProposedContext(2 * n + 1, f"1.2.3.{n}", (IMPLICIT_LE, EXPLICIT_LE)) for n in range(128)]
    encoded = encode_request(called_ae="A", calling_ae="B", contexts=contexts, max_pdu=0)
    request = decode_request(encoded[6:])
    assert request.contexts == tuple(contexts) and request.max_length == 0
    answer = encode_acceptance(request, decide(request.contexts), 131072)
    assert decode_acceptance(answer[6:]) == (
        {context.context_id: EXPLICIT_LE for context in contexts},
        131072,
    )


@pytest.mark.parametrize("ids", [(1, 1), (2, 3)])
def test_context_identifiers_that_repeat_or_are_even_break_the_protocol(ids: tuple[int, int]) -> None:
    encoded = bytearray(
        encode_request(
            called_ae="A",
            calling_ae="B",
            contexts=[
                ProposedContext(101, "1.2", (IMPLICIT_LE,)),
                ProposedContext(103, "1.2", (IMPLICIT_LE,)),
            ],
            max_pdu=0,
        )
    )
    for was, becomes in zip((101, 103), ids, strict=True):
        at = encoded.index(bytes([was]), 74)
        encoded[at] = becomes
    with pytest.raises(PduError):
        decode_request(bytes(encoded[6:]))


@pytest.mark.parametrize(
    ("request_bytes", "expected"),
    [
        (association_request(called_ae="OTHER"), (1, 1, 7)),
        (association_request(calling_ae="STRANGER"), (1, 1, 3)),
        (association_request(calling_ae="ELSEWHERE"), (1, 1, 3)),
        (association_request().replace(b"1.2.840.10008.3.1.1.1", b"1.2.840.10008.3.1.1.9"), (1, 1, 2)),
        (association_request()[:6] + b"\x00\x02" + association_request()[8:], (1, 2, 2)),
    ],
)
def test_who_may_not_associate_is_told_why(request_bytes: bytes, expected: tuple[int, int, int]) -> None:
    options = settings(
        require_called_ae=True,
        aes=(
            AllowedAe("TEST", "127.0.0.0/8"),
            AllowedAe("ELSEWHERE", "192.0.2.1"),
            AllowedAe("NAMED", "localhost"),
        ),
    )

    async def main() -> None:
        async with serving(options) as rig:
            peer = await RawPeer.connect(rig.port)
            peer.send(request_bytes)
            kind, body = await peer.pdu()
            assert kind == wire.ASSOCIATE_RJ and tuple(body[1:]) == expected
            peer.writer.write_eof()
            await peer.expect_end()
            for allowed in ("TEST", "NAMED"):
                sender = await Sender.associate("127.0.0.1", rig.port, calling_ae=allowed)
                await sender.release()
            await rig.all_gone()
            assert len(rig.ledger.rejected) == 1 and rig.ledger.opened == ["TEST", "NAMED"]

    run(main)


def test_any_called_and_calling_title_is_fine_by_default() -> None:
    async def main() -> None:
        async with serving() as rig:
            sender = await Sender.associate("127.0.0.1", rig.port, called_ae="ANY-SCP", calling_ae="WHO")
            assert await sender.echo() == 0
            await sender.release()

    run(main)


def test_a_host_that_does_not_resolve_matches_nobody_and_the_server_starts() -> None:
    policy = CallingPolicy((AllowedAe("A", "gone.invalid"), AllowedAe("B")), {"gone.invalid": ()})
    assert not policy.allows("A", "127.0.0.1")
    assert policy.allows("B", "127.0.0.1") and policy.allows("B", "::1")
    assert CallingPolicy((AllowedAe("A", "10.1.0.0/16"),), {}).allows("A", "::ffff:10.1.2.3")


def test_a_node_behind_the_port_of_another_fails_to_start() -> None:
    async def main() -> None:
        async with serving() as rig:
            with pytest.raises(OSError):
                async with serving(settings(port=rig.port)):
                    pass

    run(main)


TITLES = {
    b"": "",
    b"\0" * 16: "",
    b"B\xdcRO": "B\xdcRO",
    b"A\\B": "A\\B",
    b"\xff" * 16: "\xff" * 16,
    b"A\nlevel=error": "A\ufffdlevel=error",
    b" PADDED ": "PADDED",
}


def with_titles(called: bytes, calling: bytes) -> bytes:
    request = association_request()
    return request[:10] + called.ljust(16) + calling.ljust(16) + request[42:]


def test_the_log_says_from_where_somebody_was_turned_away(caplog: pytest.LogCaptureFixture) -> None:
    """A title that is known may be turned away for its address, and who sends garbage has no other name."""

    async def main() -> None:
        async with serving(settings(aes=(AllowedAe("TEST", "10.0.0.0/8"),))) as rig:
            peer = await RawPeer.connect(rig.port)
            peer.send(association_request())
            assert (await peer.pdu())[0] == wire.ASSOCIATE_RJ
            await peer.close()
            stranger = await RawPeer.connect(rig.port)
            stranger.send(b"GET / HTTP/1.1\r\n\r\n")
            await stranger.expect_abort()

    run(main)
    for message in ("association rejected", "aborting association"):
        told = [vars(record) for record in caplog.records if record.message == message]
        assert told
        assert all(facts["address"] == "127.0.0.1" for facts in told)


@pytest.mark.parametrize("title", list(TITLES))
def test_whatever_a_peer_calls_itself_and_us_it_is_accepted(title: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serving() as rig:
            peer = await RawPeer.connect(rig.port)
            peer.send(with_titles(title, title))
            kind, body = await peer.pdu()
            assert kind == wire.ASSOCIATE_AC and body[4:36] == title.ljust(16) * 2, "sent back as they came"
            peer.send(pdvs(3, wire.PDV_COMMAND, store_command()), pdvs(3, 0, dataset()))
            assert (await peer.pdu())[0] == wire.P_DATA
            assert rig.ledger.opened == [TITLES[title]] and len(rig.archive.kept) == 1
            (kept,) = rig.archive.kept["1.2.3.4.5.6"]
            source = str(READ(io.BytesIO(kept.payload)).file_meta.get("SourceApplicationEntityTitle", ""))
            assert source.isascii() and source.isprintable() and "\\" not in source
            await peer.close()

    run(main)
    assert not [record for record in caplog.records if record.levelname == "ERROR" or record.exc_info]


@pytest.mark.parametrize("title", list(TITLES))
def test_whoever_is_not_known_is_rejected_whatever_its_title(title: bytes) -> None:
    async def main() -> None:
        for options, reason in (
            (settings(require_called_ae=True), (1, 1, 7)),
            (settings(aes=(AllowedAe("TEST"),)), (1, 1, 3)),
        ):
            async with serving(options) as rig:
                peer = await RawPeer.connect(rig.port)
                peer.send(with_titles(title, title))
                kind, body = await peer.pdu()
                assert kind == wire.ASSOCIATE_RJ and tuple(body[1:]) == reason
                await peer.close()

    run(main)


@pytest.mark.parametrize("length", [0, 3, 20, 67])
def test_a_request_that_is_too_short_breaks_the_protocol(length: int) -> None:
    with pytest.raises(PduError):
        decode_request(association_request()[6 : 6 + length])


def with_item(item: bytes, *, of_user: bool) -> bytes:
    """An association request with one item more: of the user information, which comes last, or after it."""
    request = bytearray(association_request())
    at = request.rindex(b"\x50\x00", 0, request.index(b"\x51\x00\x00\x04", 74) + 1)
    length = int.from_bytes(request[at + 2 : at + 4], "big") + (len(item) if of_user else 0)
    request[at + 2 : at + 4] = length.to_bytes(2, "big")
    request += item
    request[2:6] = (len(request) - 6).to_bytes(4, "big")
    return bytes(request)


@pytest.mark.parametrize(
    ("item", "of_user"),
    [
        (b"\x5a\x00\x00\x05later", True),
        (b"\x60\x00\x00\x05later", True),
        (b"\x60\x00\x00\x05later", False),
        (b"\x55\x00\x00\x15A_VERSION_NAME_OF_21_", True),
        (b"\x55\x00\x00\x02V\xe9", True),
    ],
)
def test_items_that_nobody_looks_at_keep_nobody_out(item: bytes, of_user: bool) -> None:
    """An acceptor is to ignore sub-items that it does not know (PS3.8 annex D.2)."""
    plain = decode_request(association_request()[6:])
    assert decode_request(with_item(item, of_user=of_user)[6:]) == plain and plain.max_length == 16384


@pytest.mark.parametrize("of_user", [False, True])
@pytest.mark.parametrize("item", [b"\x5a\x00\x00\x09later", b"\x5a\x00"])
def test_an_item_cut_short_breaks_the_protocol(item: bytes, of_user: bool) -> None:
    with pytest.raises(PduError):
        decode_request(with_item(item, of_user=of_user)[6:])


def item(kind: int, value: bytes) -> bytes:
    return b"%c\0%b%b" % (kind, len(value).to_bytes(2, "big"), value)


def request_of(items: bytes) -> bytes:
    return association_request()[6:74] + items


def context(number: int, syntaxes: int, syntax: bytes) -> bytes:
    return item(0x20, bytes([2 * number + 1, 0, 0, 0]) + item(0x30, b"1.2") + item(0x40, syntax) * syntaxes)


@pytest.mark.parametrize(
    "items",
    [
        b"".join(context(number, 250, b"1.2") for number in range(128)),
        b"".join(context(number, 1300, b"x") for number in range(128)),
        b"".join(context(number, 1800, b"") for number in range(128)),
        context(0, 0, b"") * 60_000,
        item(0x60, b"") * 250_000,
        item(0x50, item(0x5A, b"") * 16_000) * 15,
    ],
    ids=["many", "too many", "empty", "contexts", "unknown items", "unknown sub-items"],
)
def test_a_request_costs_a_bounded_number_of_steps(items: bytes) -> None:
    """It is read in the event loop, whoever sent it: one request of 1 MiB once took 20 s."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)  # calls are counted, since time says more about the machine
    try:
        with contextlib.suppress(PduError):
            decide(decode_request(request_of(items)).contexts)
    finally:
        sys.setprofile(None)
    assert calls < 1_000_000


@pytest.mark.parametrize("uid", [b"1." + b"2" * 63, b"1.2.\xe9", b"\x0b", b"1.2\n3", b"1.2\0003", b"abc", b""])
@pytest.mark.parametrize("kind", [0x30, 0x40])
def test_a_context_with_what_is_no_uid_is_refused_and_the_others_are_not(uid: bytes, kind: int) -> None:
    syntax = item(0x40, EXPLICIT_LE.encode())
    wrong = item(0x30, CT.encode()) + item(0x40, uid) if kind == 0x40 else item(0x30, uid) + syntax
    contexts = item(0x20, b"\1\0\0\0" + wrong) + item(0x20, b"\3\0\0\0" + item(0x30, CT.encode()) + syntax)
    request = decode_request(request_of(item(0x10, b"1.2.840.10008.3.1.1.1") + contexts))
    decision = decide(request.contexts)
    assert [result for _, result, _ in decision.results] == [3 if kind == 0x30 else 4, 0]
    accepted, _ = decode_acceptance(encode_acceptance(request, decision, 16384)[6:])
    assert accepted == {3: EXPLICIT_LE}


def test_padding_of_a_uid_is_none_of_it() -> None:
    proposed = item(0x20, b"\1\0\0\0" + item(0x30, CT.encode() + b"\0") + item(0x40, EXPLICIT_LE.encode() + b" "))
    assert decode_request(request_of(proposed)).contexts == (ProposedContext(1, CT, (EXPLICIT_LE,)),)


def test_a_context_cut_short_breaks_the_protocol() -> None:
    with pytest.raises(PduError):
        decode_request(request_of(item(0x20, b"\1\0\0")))
