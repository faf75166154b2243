"""Goal: whatever a peer says, in whatever state, ends as PS3.8 9.2 wants, and leaves nothing behind."""

import asyncio
import itertools

import pytest

from perenne.dimse import pdu as wire
from perenne.dimse import status as codes
from perenne.dimse.command import NO_DATA_SET, Command, decode_command, encode_command
from perenne.dimse.pdu import PDV_COMMAND, PDV_LAST, AbortReason
from perenne.dimse.uids import VERIFICATION
from tests.dimse.helpers import (
    MemoryArchive,
    RawPeer,
    association_request,
    dataset,
    echo_command,
    pdvs,
    run,
    serving,
    settings,
    store_command,
    until,
)

ABORT = wire.abort_pdu(0, 0)
STORE = pdvs(3, PDV_COMMAND, store_command())
BODY = dataset()


def test_a_release_is_answered_and_the_connection_ends() -> None:
    async def main() -> None:
        async with serving() as rig:
            peer = await RawPeer.associated(rig.port)
            peer.send(wire.RELEASE_RQ_PDU)
            assert await peer.pdu() == (wire.RELEASE_RP, bytes(4))
            await peer.close()
            await rig.all_gone()
            assert rig.ledger.closed == ["released"]

    run(main)


def test_a_release_waits_for_the_stores_before_it() -> None:
    async def main() -> None:
        gate = asyncio.Event()
        async with serving(archive=MemoryArchive(gate=gate)) as rig:
            peer = await RawPeer.associated(rig.port)
            peer.send(STORE, pdvs(3, 0, BODY), wire.RELEASE_RQ_PDU)
            await until(lambda: rig.archive.waiting == 1)
            gate.set()
            kind, answer = await peer.pdu()
            assert kind == wire.P_DATA and decode_command(answer[6:]).status == 0
            assert (await peer.pdu())[0] == wire.RELEASE_RP
            await peer.close()
            await rig.all_gone()
            assert rig.ledger.closed == ["released"]

    run(main)


@pytest.mark.parametrize(
    "before",
    [
        b"",
        pdvs(1, PDV_COMMAND, echo_command())[:9],
        STORE,
        STORE[:-3],
        STORE + pdvs(3, 0, BODY)[:20],
        STORE + pdvs(3, 0, BODY),
    ],
    ids=["idle", "in a header", "after a command", "in a command", "in a data set", "while committing"],
)
@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_connection_lost_at_any_point_leaves_nothing(before: bytes, how: str) -> None:
    async def main() -> None:
        gate = asyncio.Event()
        async with serving(archive=MemoryArchive(gate=gate)) as rig:
            peer = await RawPeer.associated(rig.port)
            peer.send(before)
            await peer.writer.drain()
            if how == "reset":
                peer.writer.transport.abort()
            await peer.close()
            await rig.all_gone()
            assert rig.ledger.closed == ["connection-lost"]
            gate.set()

    run(main)


@pytest.mark.parametrize(
    "before",
    [
        b"",
        STORE,
        STORE + pdvs(3, 0, BODY[:40]).replace(b"\x03\x02", b"\x03\x00", 1),
        STORE + pdvs(3, 0, BODY),
    ],
    ids=["idle", "after a command", "in a data set", "while committing"],
)
def test_an_abort_ends_the_association_in_every_state(before: bytes) -> None:
    async def main() -> None:
        gate = asyncio.Event()
        async with serving(archive=MemoryArchive(gate=gate)) as rig:
            peer = await RawPeer.associated(rig.port)
            peer.send(before, ABORT)
            await peer.expect_end()
            await rig.all_gone()
            assert rig.ledger.closed == ["peer-aborted"]
            gate.set()

    run(main)


def test_an_abort_before_any_association_closes() -> None:
    async def main() -> None:
        async with serving() as rig:
            peer = await RawPeer.connect(rig.port)
            peer.send(ABORT)
            await peer.expect_end()
            await rig.all_gone()
            assert rig.ledger.closed == []

    run(main)


@pytest.mark.parametrize(
    ("said", "reason"),
    ids=itertools.count(1),
    argvalues=[
        (b"GET / HTTP/1.1\r\n\r\n", AbortReason.UNRECOGNIZED_PDU),
        (b"\x00\x00\x00\x00\x00\x04\x00\x00\x00\x00", AbortReason.UNRECOGNIZED_PDU),
        (wire.RELEASE_RQ_PDU, AbortReason.UNEXPECTED_PDU),
        (wire.RELEASE_RP_PDU, AbortReason.UNEXPECTED_PDU),
        (pdvs(1, PDV_COMMAND, echo_command()), AbortReason.UNEXPECTED_PDU),
        (b"\x01\x00\x00\x00\x00\x04abcd", AbortReason.INVALID_PARAMETER),
        (b"\x01\x00\x7f\xff\xff\xff", AbortReason.INVALID_PARAMETER),
        (b"\x01\x00\x00\x00\x00\x00", AbortReason.INVALID_PARAMETER),
        (wire.reject_pdu(1, 1, 1), AbortReason.UNEXPECTED_PDU),
    ],
)
def test_nonsense_instead_of_an_association_request_is_aborted(said: bytes, reason: AbortReason) -> None:
    async def main() -> None:
        async with serving() as rig:
            peer = await RawPeer.connect(rig.port)
            peer.send(said)
            assert await peer.expect_abort() == reason
            await rig.all_gone()

    run(main)


def pdu(kind: int, body: bytes) -> bytes:
    return b"%c\0%b%b" % (kind, len(body).to_bytes(4, "big"), body)


def pdv(context_id: int, control: int, data: bytes) -> bytes:
    return (len(data) + 2).to_bytes(4, "big") + bytes([context_id, control]) + data


@pytest.mark.parametrize(
    ("said", "reason"),
    ids=itertools.count(1),
    argvalues=[
        (association_request(), AbortReason.UNEXPECTED_PDU),
        (wire.RELEASE_RP_PDU, AbortReason.UNEXPECTED_PDU),
        (pdu(0x08, bytes(4)), AbortReason.UNRECOGNIZED_PDU),
        (pdu(0x05, bytes(65)), AbortReason.INVALID_PARAMETER),
        (pdu(0x04, b""), AbortReason.INVALID_PARAMETER),
        (pdu(0x04, pdv(3, 1, b"")[:5]), AbortReason.INVALID_PARAMETER),
        (pdu(0x04, (1).to_bytes(4, "big") + b"\x03\x01"), AbortReason.INVALID_PARAMETER),
        (pdu(0x04, (99).to_bytes(4, "big") + b"\x03\x01abcd"), AbortReason.INVALID_PARAMETER),
        (pdu(0x04, pdv(3, 1, b"abc") + b"\0\0"), AbortReason.INVALID_PARAMETER),
        (b"\x04\x00" + (128 * 1024 + 1).to_bytes(4, "big"), AbortReason.INVALID_PARAMETER),
        (pdvs(7, PDV_COMMAND, echo_command()), AbortReason.INVALID_PARAMETER),
        (pdvs(3, 0, BODY), AbortReason.UNEXPECTED_PARAMETER),
        (STORE + pdvs(3, PDV_COMMAND, echo_command()), AbortReason.UNEXPECTED_PARAMETER),
        (STORE + pdvs(5, 0, BODY), AbortReason.UNEXPECTED_PARAMETER),
        (
            STORE + pdu(0x04, pdv(3, 0, BODY[:8])) + pdvs(1, PDV_COMMAND, echo_command()),
            AbortReason.UNEXPECTED_PARAMETER,
        ),
        (STORE + wire.RELEASE_RQ_PDU, AbortReason.UNEXPECTED_PDU),
        (pdvs(3, PDV_COMMAND, b"\x08\x00" * 10), AbortReason.INVALID_PARAMETER),
        (pdvs(3, PDV_COMMAND, b""), AbortReason.INVALID_PARAMETER),
        (pdvs(3, PDV_COMMAND, bytes(20_000)), AbortReason.INVALID_PARAMETER),
        (
            pdvs(3, PDV_COMMAND, encode_command(Command(field=0x8001, message_id=1, status=0))),
            AbortReason.UNEXPECTED_PARAMETER,
        ),
    ],
)
def test_what_breaks_the_protocol_on_an_association_is_aborted(said: bytes, reason: AbortReason) -> None:
    async def main() -> None:
        async with serving() as rig:
            peer = await RawPeer.associated(rig.port)
            peer.send(said)
            assert await peer.expect_abort() == reason
            await rig.all_gone()
            assert rig.ledger.closed == ["protocol-error"]
            assert not rig.archive.kept

    run(main)


def test_after_an_abort_of_ours_everything_is_ignored() -> None:
    async def main() -> None:
        async with serving() as rig:
            peer = await RawPeer.associated(rig.port)
            peer.send(pdu(0x09, b""), STORE, pdvs(3, 0, BODY), association_request(), b"\xff" * 1000)
            assert await peer.expect_abort() == AbortReason.UNRECOGNIZED_PDU
            await rig.all_gone()
            assert not rig.archive.kept

    run(main)


def test_data_after_a_release_request_is_aborted() -> None:
    async def main() -> None:
        gate = asyncio.Event()
        async with serving(archive=MemoryArchive(gate=gate)) as rig:
            peer = await RawPeer.associated(rig.port)
            peer.send(STORE, pdvs(3, 0, BODY), wire.RELEASE_RQ_PDU, pdvs(1, PDV_COMMAND, echo_command()))
            assert await peer.expect_abort() == AbortReason.UNEXPECTED_PDU
            gate.set()
            await until(lambda: len(rig.archive.kept) == 1)

    run(main)


def test_a_peer_that_never_asks_for_an_association_is_dropped() -> None:
    async def main() -> None:
        async with serving(settings(artim_s=0.02)) as rig:
            peer = await RawPeer.connect(rig.port)
            peer.send(association_request()[:50])
            await peer.expect_end()
            await rig.all_gone()

    run(main)


def test_a_peer_that_never_closes_after_its_release_is_dropped() -> None:
    async def main() -> None:
        async with serving(settings(artim_s=0.1)) as rig:
            peer = await RawPeer.associated(rig.port)
            peer.send(wire.RELEASE_RQ_PDU)
            assert (await peer.pdu())[0] == wire.RELEASE_RP
            await peer.expect_end()
            await rig.all_gone()

    run(main)


def test_an_idle_association_is_aborted_and_one_that_waits_for_us_is_not() -> None:
    async def main() -> None:
        gate = asyncio.Event()
        async with serving(settings(idle_s=0.05), MemoryArchive(gate=gate)) as rig:
            waiting = await RawPeer.associated(rig.port)
            waiting.send(STORE, pdvs(3, 0, BODY))
            await until(lambda: rig.archive.waiting == 1)
            idle = await RawPeer.associated(rig.port)
            assert await idle.expect_abort() == AbortReason.NOT_SPECIFIED
            assert rig.server.statistics().associations == 1
            gate.set()
            assert (await waiting.pdu())[0] == wire.P_DATA
            await waiting.close()
            await rig.all_gone()
            assert rig.ledger.closed[0] == "idle"

    run(main)


def test_other_operations_are_declined_and_their_data_skipped() -> None:
    async def main() -> None:
        async with serving() as rig:
            peer = await RawPeer.associated(rig.port)
            find = Command(field=0x0020, message_id=9, has_data_set=True, sop_class_uid="1.2")
            cancel = bytes.fromhex("0000000102000000ff0f0000200102000000090000000008020000000101")
            assert NO_DATA_SET.to_bytes(2, "little") == cancel[-2:]
            peer.send(pdvs(3, PDV_COMMAND, encode_command(find)), pdvs(3, 0, BODY), pdvs(3, PDV_COMMAND, cancel))
            peer.send(pdvs(1, PDV_COMMAND, echo_command(10)))
            _, declined = await peer.pdu()
            response = decode_command(declined[6:])
            assert (response.field, response.message_id, response.status) == (0x8020, 9, 0x0211)
            _, echoed = await peer.pdu()
            assert decode_command(echoed[6:]).message_id == 10
            assert rig.ledger.answers == [("c-find", codes.UNRECOGNIZED_OPERATION), ("c-echo", codes.SUCCESS)]
            await peer.close()

    run(main)


def test_a_pdu_may_hold_several_pdvs_and_a_response_fits_the_peer() -> None:
    async def main() -> None:
        async with serving() as rig:
            peer = await RawPeer.associated(rig.port, max_pdu=30)
            command = store_command()
            peer.send(
                pdu(
                    0x04,
                    pdv(3, PDV_COMMAND, command[:50])
                    + pdv(3, PDV_COMMAND, b"")
                    + pdv(3, PDV_COMMAND | PDV_LAST, command[50:])
                    + pdv(3, 0, BODY[:9]),
                ),
                pdu(0x04, pdv(3, 0, BODY[9:]) + pdv(3, PDV_LAST, b"") + pdv(1, 3, echo_command(2))),
            )
            answers: list[Command] = []
            collected = b""
            while len(answers) < 2:
                kind, body = await peer.pdu()
                assert kind == wire.P_DATA and len(body) <= 30
                collected += body[6:]
                if body[5] & PDV_LAST:
                    answers.append(decode_command(collected))
                    collected = b""
            assert sorted((answer.message_id, answer.status) for answer in answers) == [(1, 0), (2, 0)]
            assert rig.archive.kept["1.2.3.4.5.6"][0].dataset == BODY
            await peer.close()

    run(main)


def test_an_echo_on_any_context_is_answered() -> None:
    async def main() -> None:
        async with serving() as rig:
            peer = await RawPeer.associated(rig.port)
            peer.send(pdvs(1, PDV_COMMAND, echo_command(65535)))
            kind, body = await peer.pdu()
            response = decode_command(body[6:])
            assert (kind, body[4], body[5]) == (wire.P_DATA, 1, 3)
            assert (response.field, response.message_id, response.status) == (0x8030, 65535, 0)
            assert response.sop_class_uid == VERIFICATION and not response.has_data_set
            assert rig.ledger.answers == [("c-echo", 0)]
            await peer.close()

    run(main)
