"""Goal: no peer, and no number of peers, makes a node hold more than it allows; and nobody is starved."""

import asyncio
import socket
import threading
from collections.abc import Callable
from functools import partial

import pytest

from perenne.dimse import pdu as wire
from perenne.dimse.budget import Account, Budget
from perenne.dimse.command import decode_command
from perenne.dimse.operations import MAX_OUTSTANDING
from perenne.dimse.pdu import PDV_COMMAND
from perenne.dimse.sender import AssociationAborted, AssociationRejected, Sender
from perenne.dimse.uids import EXPLICIT_LE
from tests.dimse.helpers import (
    CT,
    MemoryArchive,
    RawPeer,
    dataset,
    echo_command,
    pdvs,
    run,
    serving,
    settings,
    store_command,
    until,
)
from tests.storage.memory_disk import MemoryDisk

CONTEXTS = [(CT, [EXPLICIT_LE])]


def test_associations_beyond_the_limit_are_refused_for_now() -> None:
    async def main() -> None:
        async with serving(settings(max_associations=2)) as rig:
            first = await Sender.associate("127.0.0.1", rig.port)
            second = await Sender.associate("127.0.0.1", rig.port)
            with pytest.raises(AssociationRejected, match="2/3/2"):
                await Sender.associate("127.0.0.1", rig.port)
            assert rig.ledger.rejected == ["limit"]
            await first.release()
            third = await Sender.associate("127.0.0.1", rig.port)
            assert await third.echo() == 0
            for sender in (second, third):
                await sender.release()

    run(main)


def test_connections_that_never_become_associations_are_limited_too() -> None:
    async def main() -> None:
        async with serving(settings(max_associations=1)) as rig:
            peers = [await RawPeer.connect(rig.port) for _ in range(70)]
            await until(lambda: rig.server.statistics().connections == 65)
            ended = [asyncio.ensure_future(peer.reader.read()) for peer in peers]
            await until(lambda: sum(task.done() for task in ended) == 5)
            assert all(task.done() for task in ended[:5]), "those that said nothing for the longest time"
            async with await Sender.associate("127.0.0.1", rig.port) as modality:
                assert await modality.echo() == 0
            for task in ended:
                task.cancel()
            await asyncio.gather(*ended, return_exceptions=True)
            for peer in peers:
                await peer.close()

    run(main)


def test_a_large_instance_passes_in_bounded_memory_through_a_file() -> None:
    async def main() -> None:
        options = settings(background_bytes=100_000)
        archive = MemoryArchive(keep_bytes=False)
        async with serving(options, archive, memory_instance_bytes=1 << 20, pool_bytes=4 << 20) as rig:
            body = dataset(extra=bytes(range(256)) * 200_000)
            async with await Sender.associate("127.0.0.1", rig.port, CONTEXTS) as sender:
                answer = await sender.store(CT, "1.2.3.4.5.6", EXPLICIT_LE, [body])
            assert answer.status == 0
            assert rig.area.statistics().spilled == 1
            (kept,) = rig.archive.kept["1.2.3.4.5.6"]
            assert kept.draft.staged.size == len(body) + kept.meta_length
            assert rig.ledger.stores == [(len(body), 0)]

    run(main)


def test_a_disk_that_hangs_stops_the_reading_and_not_the_loop() -> None:
    async def main() -> None:
        disk = MemoryDisk()
        hanging = threading.Event()

        def hang(kind: str, name: str) -> None:
            if kind == "write":
                hanging.wait(20)

        disk.before = hang
        options = settings(background_bytes=100_000)
        async with serving(options, disk=disk, memory_instance_bytes=200_000) as rig:
            storing = await Sender.associate("127.0.0.1", rig.port, CONTEXTS)
            body = dataset(extra=bytes(30_000_000))
            answer = asyncio.ensure_future(storing.store(CT, "1.2.3.4.5.6", EXPLICIT_LE, [body]))
            await until(lambda: rig.server.statistics().paused == 1)
            other = await Sender.associate("127.0.0.1", rig.port)
            assert await other.echo() == 0 and not answer.done()
            hanging.set()
            assert (await answer).status == 0
            await other.release()
            await storing.release()

    run(main)


@pytest.mark.parametrize("size", [99_000, 100_001, 1_148_676, 3_000_000])
def test_bytes_are_the_same_on_both_sides_of_the_background_limit(size: int) -> None:
    async def main() -> None:
        async with serving(settings(background_bytes=100_000), memory_instance_bytes=2 << 20) as rig:
            body = dataset(extra=bytes(range(251)) * (size // 251))
            async with await Sender.associate("127.0.0.1", rig.port, CONTEXTS) as sender:
                assert (await sender.store(CT, "1.2.3.4.5.6", EXPLICIT_LE, [body])).status == 0
            assert rig.archive.kept["1.2.3.4.5.6"][0].dataset == body

    run(main)


def test_a_large_instance_cut_off_leaves_no_file() -> None:
    async def main() -> None:
        async with serving(settings(background_bytes=100_000), memory_instance_bytes=200_000) as rig:
            peer = await RawPeer.associated(rig.port)
            peer.send(pdvs(3, PDV_COMMAND, store_command()), pdvs(3, 0, bytes(5_000_000))[:4_000_000])
            await peer.writer.drain()
            await until(lambda: rig.area.statistics().files == 1)
            peer.writer.transport.abort()
            await peer.close()
            await rig.all_gone()
            await until(lambda: rig.area.statistics().files == 0)

    run(main)


def test_at_the_common_limit_the_oldest_receiver_goes_on_and_all_finish() -> None:
    async def main() -> None:
        async with serving(settings(total_bytes=300_000)) as rig:
            senders = [await Sender.associate("127.0.0.1", rig.port, CONTEXTS) for _ in range(6)]

            async def send(number: int) -> None:
                for turn in range(3):
                    uid = f"1.2.{number}.{turn}"
                    body = dataset(uid, extra=bytes(700_000))
                    assert (await senders[number].store(CT, uid, EXPLICIT_LE, [body])).status == 0

            held: list[int] = []
            watching = asyncio.ensure_future(watch(lambda: held.append(rig.server.statistics().bytes_in_flight)))
            await asyncio.gather(*(send(number) for number in range(6)))
            watching.cancel()
            assert len(rig.archive.kept) == 18
            # The limit, one receive buffer of each association, and the one instance that is let through.
            assert max(held) <= 300_000 + 6 * 262_144 + 700_200
            for sender in senders:
                await sender.release()

    run(main)


async def watch(look: Callable[[], None]) -> None:
    while True:
        look()
        await asyncio.sleep(0)


def test_slow_commitments_hold_all_senders_back_at_the_common_limit() -> None:
    async def main() -> None:
        gate = asyncio.Event()
        async with serving(settings(total_bytes=1_000_000), MemoryArchive(gate=gate)) as rig:
            senders = [await Sender.associate("127.0.0.1", rig.port, CONTEXTS) for _ in range(8)]
            stores = [
                asyncio.ensure_future(
                    sender.store(CT, f"1.2.{number}", EXPLICIT_LE, [dataset(f"1.2.{number}", extra=bytes(600_000))])
                )
                for number, sender in enumerate(senders)
            ]
            await until(lambda: rig.archive.waiting > 0 and rig.server.statistics().paused > 0)
            in_flight = rig.server.statistics().bytes_in_flight
            assert in_flight <= 1_000_000 + 8 * 262_144
            gate.set()
            assert [(await store).status for store in stores] == [0] * 8
            for sender in senders:
                await sender.release()

    run(main)


def test_a_peer_that_does_not_wait_for_answers_is_not_read_until_they_are_given() -> None:
    async def main() -> None:
        gate = asyncio.Event()
        async with serving(archive=MemoryArchive(gate=gate)) as rig:
            peer = await RawPeer.associated(rig.port)
            many = 3 * MAX_OUTSTANDING
            for number in range(many):
                uid = f"1.2.3.{number}"
                peer.send(pdvs(3, PDV_COMMAND, store_command(uid, message_id=number)))
                peer.send(pdvs(3, 0, dataset(uid, extra=bytes(300_000))))
            await until(lambda: rig.server.statistics().paused == 1)
            assert MAX_OUTSTANDING <= rig.server.statistics().stores < many
            gate.set()
            statuses: dict[int, int | None] = {}
            for _ in range(many):
                kind, body = await peer.pdu()
                assert kind == wire.P_DATA
                answer = decode_command(body[6:])
                statuses[answer.message_id] = answer.status
            assert statuses == dict.fromkeys(range(many), 0)
            await peer.close()

    run(main)


def test_a_peer_that_never_reads_its_answers_is_not_read_either() -> None:
    async def main() -> None:
        async with serving() as rig:
            peer = await RawPeer.associated(rig.port)
            peer.writer.transport.set_write_buffer_limits(high=1 << 16)
            peer.reader._limit = 1  # type: ignore[attr-defined] # pyright: ignore # a small window to read into
            flood = pdvs(1, PDV_COMMAND, echo_command()) * 1000
            while not rig.server.statistics().paused:
                peer.send(flood)
                await asyncio.sleep(0)
            peer.writer.transport.abort()
            await peer.close()

    run(main)


def test_a_busy_association_does_not_keep_others_waiting() -> None:
    async def main() -> None:
        async with serving(archive=MemoryArchive(keep_bytes=False)) as rig:
            heavy = await Sender.associate("127.0.0.1", rig.port, CONTEXTS)
            light = await Sender.associate("127.0.0.1", rig.port)
            storing = asyncio.ensure_future(
                heavy.store(CT, "1.2.3.4.5.6", EXPLICIT_LE, [dataset(extra=bytes(40_000_000))])
            )
            echoes = 0
            while not storing.done():
                assert await light.echo() == 0
                echoes += 1
            assert (await storing).status == 0 and echoes > 3
            await heavy.release()
            await light.release()

    run(main)


def test_draining_refuses_new_ones_lets_operations_finish_and_ends_the_rest() -> None:
    async def main() -> None:
        gate = asyncio.Event()
        async with serving(archive=MemoryArchive(gate=gate)) as rig:
            port = rig.port
            idle = await RawPeer.associated(port)
            storing = await Sender.associate("127.0.0.1", port, CONTEXTS)
            answer = asyncio.ensure_future(storing.store(CT, "1.2.3.4.5.6", EXPLICIT_LE, [dataset()]))
            await until(lambda: rig.archive.waiting == 1)
            draining = asyncio.ensure_future(rig.server.drain(20.0))
            await idle.expect_abort()
            with pytest.raises(OSError):
                await RawPeer.connect(port)
            gate.set()
            assert (await answer).status == 0
            await draining
            assert sorted(rig.ledger.closed) == ["drained", "drained"]
            with pytest.raises(AssociationAborted):
                await storing.echo()
            await storing.abort()

    run(main)


def test_draining_ends_at_its_deadline() -> None:
    async def main() -> None:
        gate = asyncio.Event()
        async with serving(archive=MemoryArchive(gate=gate)) as rig:
            storing = await Sender.associate("127.0.0.1", rig.port, CONTEXTS)
            answer = asyncio.ensure_future(storing.store(CT, "1.2.3.4.5.6", EXPLICIT_LE, [dataset()]))
            await until(lambda: rig.archive.waiting == 1)
            await rig.server.drain(0.1)
            with pytest.raises(AssociationAborted):
                await answer
            await storing.abort()

    run(main)


def test_a_budget_lets_the_first_receiver_on_and_resumes_the_others_in_order() -> None:
    resumed: list[str] = []
    budget = Budget(association_bytes=50, total_bytes=100)
    first, second, third = (Account(partial(resumed.append, name)) for name in ("1", "2", "3"))
    for account in (first, second, third):
        budget.begin(account)
        budget.charge(account, 40)
    assert budget.may_read(first) and not budget.may_read(second) and not budget.may_read(third)
    budget.charge(first, 10)
    budget.await_answer(first)
    budget.end(first)
    assert resumed == []
    budget.answered(first, 30)
    assert resumed == ["2"] and not budget.may_read(third)
    budget.refund(first, 20)
    assert resumed == ["2", "3"] and budget.held_back == 0 and budget.total == 80


def test_a_budget_holds_an_association_back_only_while_an_answer_is_due() -> None:
    resumed: list[str] = []
    budget = Budget(association_bytes=50, total_bytes=1000)
    account = Account(lambda: resumed.append("again"))
    budget.begin(account)
    budget.charge(account, 60)
    assert budget.may_read(account)
    budget.await_answer(account)
    assert not budget.may_read(account)
    budget.answered(account, 60)
    assert resumed == ["again"]


def test_a_budget_waits_for_nobody_who_is_read_and_brings_nothing() -> None:
    resumed: list[str] = []
    budget = Budget(association_bytes=50, total_bytes=100)
    silent, speaking, later = (Account(partial(resumed.append, name)) for name in ("1", "2", "3"))
    for account in (silent, speaking, later):
        budget.begin(account)
        budget.charge(account, 40)
    assert not budget.may_read(speaking) and not budget.may_read(later)
    for now in (100.0, 101.0, 102.0):
        budget.review(now)
    assert resumed == []
    budget.review(103.5)
    assert resumed == ["2"] and not budget.may_read(silent) and budget.may_read(speaking)
    speaking.brought = 1 << 20
    budget.review(104.5)
    budget.review(107.0)
    assert budget.may_read(speaking), "while it brings something nobody takes its turn"
    budget.review(107.5)
    assert resumed == ["2", "3"]
    for account in (silent, speaking, later):
        budget.refund(account, 40)
        budget.close(account)
    assert budget.held_back == 0 and budget.total == 0


def test_associations_that_fall_silent_within_a_message_starve_nobody() -> None:
    async def main() -> None:
        async with serving(settings(total_bytes=300_000, message_s=8.0)) as rig:
            silent = [await RawPeer.associated(rig.port) for _ in range(4)]
            for number, peer in enumerate(silent):
                body = dataset(f"1.2.{number}", extra=bytes(200_000))
                peer.send(pdvs(3, PDV_COMMAND, store_command(f"1.2.{number}")), pdvs(3, 0, body)[:150_000])
            await until(lambda: rig.server.statistics().bytes_in_flight > 300_000)
            async with await Sender.associate("127.0.0.1", rig.port, CONTEXTS) as sender:
                body = dataset("1.2.9", extra=bytes(2_000_000))
                assert (await sender.store(CT, "1.2.9", EXPLICIT_LE, [body])).status == 0
            assert "stalled" not in rig.ledger.closed
            for peer in silent:
                assert await peer.expect_abort() == wire.AbortReason.NOT_SPECIFIED
            await rig.all_gone()
            assert rig.ledger.closed.count("stalled") == 4 and rig.server.statistics().bytes_in_flight == 0

    run(main, twice=False)


@pytest.mark.parametrize("words", [pdvs(3, PDV_COMMAND, store_command()), b"\x04\0\0", store_command()[:9]])
def test_silence_within_a_message_is_short_and_between_messages_long(words: bytes) -> None:
    async def main() -> None:
        async with serving(settings(message_s=0.1)) as rig:
            quiet = await RawPeer.associated(rig.port)
            peer = await RawPeer.associated(rig.port)
            peer.send(words if words[0] == 4 else pdvs(3, PDV_COMMAND, words)[:-3])
            assert await peer.expect_abort() == wire.AbortReason.NOT_SPECIFIED
            await until(lambda: rig.server.statistics().connections == 1)
            assert rig.ledger.closed == ["stalled"]
            quiet.send(pdvs(1, PDV_COMMAND, echo_command()))
            assert (await quiet.pdu())[0] == wire.P_DATA
            await quiet.close()

    run(main)


def test_an_association_that_we_do_not_read_is_not_called_silent() -> None:
    async def main() -> None:
        gate = asyncio.Event()
        async with serving(settings(association_bytes=1, message_s=0.1), MemoryArchive(gate=gate)) as rig:
            peer = await RawPeer.associated(rig.port)
            peer.send(pdvs(3, PDV_COMMAND, store_command()), pdvs(3, 0, dataset()))
            second = pdvs(3, PDV_COMMAND, store_command("1.2.9")) + pdvs(3, 0, dataset("1.2.9"))
            peer.send(second[:-10])
            await until(lambda: rig.server.statistics().paused == 1)
            peer.send(second[-10:])
            silent = await RawPeer.associated(rig.port)
            silent.send(b"\x04\0\0")
            assert await silent.expect_abort() == wire.AbortReason.NOT_SPECIFIED
            await until(lambda: rig.ledger.closed == ["stalled"])  # who began to be silent later, and that one alone
            gate.set()
            for _ in range(2):
                assert (await peer.pdu())[0] == wire.P_DATA
            await peer.close()

    run(main)


def test_the_kernel_watches_over_connections() -> None:
    async def main() -> None:
        async with serving() as rig:
            peer = await RawPeer.associated(rig.port)
            # No public part shows the socket, and its options are what is to be seen.
            (association,) = rig.server._associations  # pyright: ignore[reportPrivateUsage]
            connection = association._socket  # pyright: ignore[reportPrivateUsage]
            assert connection is not None
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 120_000
            await peer.close()

    run(main)
