"""Goal: every C-STORE gets the status that is true, and what was stored is byte for byte what was sent."""

import io
import threading
from typing import Any, cast

import pydicom
import pytest

from perenne.dimse import status as codes
from perenne.dimse.command import decode_command
from perenne.dimse.meta import file_meta
from perenne.dimse.pdu import P_DATA, PDV_COMMAND
from perenne.dimse.sender import Sender
from perenne.dimse.uids import EXPLICIT_LE, IMPLEMENTATION_CLASS, IMPLICIT_LE
from replication.api import NotPromised, WasDeleted
from storage.dataset import Attributes, scan
from storage.digest import part10_meta_length
from storage.errors import SegmentPoisoned, StorageFull
from tests.dimse.helpers import CT, MemoryArchive, RawPeer, dataset, pdvs, run, serving, settings, store_command
from tests.storage.memory_disk import MemoryDisk

UID = "1.2.3.4.5.6"
CONTEXTS = [(CT, [EXPLICIT_LE]), (CT, [IMPLICIT_LE])]


def test_a_stored_instance_is_a_part_10_file_with_the_data_set_as_sent() -> None:
    async def main() -> None:
        async with serving() as rig, await Sender.associate("127.0.0.1", rig.port, CONTEXTS) as sender:
            body = dataset(extra=b"pixels")
            answer = await sender.store(CT, UID, EXPLICIT_LE, [body[:7], body[7:]])
            assert (answer.status, answer.sop_class_uid, answer.sop_instance_uid) == (0, CT, UID)
            (kept,) = rig.archive.kept[UID]
            assert kept.dataset == body
            meta = cast(Any, pydicom).dcmread(io.BytesIO(kept.payload)).file_meta
            assert meta.MediaStorageSOPClassUID == CT and meta.MediaStorageSOPInstanceUID == UID
            assert meta.TransferSyntaxUID == EXPLICIT_LE and meta.SourceApplicationEntityTitle == "SENDER"
            assert meta.ImplementationClassUID == IMPLEMENTATION_CLASS
            assert rig.ledger.stores == [(len(body), 0)]

    run(main)


def test_file_meta_states_its_length_and_pads_as_each_vr_wants() -> None:
    meta = file_meta(sop_class_uid="1.2.3", sop_instance_uid="1.2", transfer_syntax_uid="1.2.8", source_ae="ABC")
    assert meta[:132] == bytes(128) + b"DICM" and part10_meta_length(meta) == len(meta)
    assert b"\x02\0\x02\0UI\x06\x001.2.3\0" in meta and b"\x02\0\x03\0UI\x04\x001.2\0" in meta
    assert meta.endswith(b"\x02\0\x16\0AE\x04\0ABC ")


def test_what_comes_from_a_returning_ae_was_stored_before() -> None:
    async def main() -> None:
        async with serving(settings(returning_aes=frozenset({"IMPORT"}))) as rig:
            for number, calling in enumerate(("IMPORT", "CT1")):
                uid = f"1.2.3.4.{number}"
                async with await Sender.associate("127.0.0.1", rig.port, CONTEXTS, calling_ae=calling) as sender:
                    assert (await sender.store(CT, uid, EXPLICIT_LE, [dataset(uid)])).status == 0
                assert rig.archive.kept[uid][0].draft.again is (calling == "IMPORT")

    run(main)


def test_each_context_keeps_its_transfer_syntax() -> None:
    async def main() -> None:
        async with serving() as rig, await Sender.associate("127.0.0.1", rig.port, CONTEXTS) as sender:
            body = dataset(implicit=True)
            assert (await sender.store(CT, UID, IMPLICIT_LE, [body])).status == 0
            assert rig.archive.kept[UID][0].draft.transfer_syntax_uid == IMPLICIT_LE

    run(main)


@pytest.mark.parametrize(
    ("failure", "status", "comment"),
    [
        (NotPromised("no durable quorum"), codes.OUT_OF_RESOURCES, "no durable quorum"),
        (WasDeleted(), codes.NOT_AUTHORIZED, "it was deleted here, and is not taken back from this AE"),
        (StorageFull("…"), codes.OUT_OF_RESOURCES, "no room to store the instance"),
        (SegmentPoisoned("disk"), codes.PROCESSING_FAILURE, "internal error"),
        (KeyError("Doe^Jane"), codes.PROCESSING_FAILURE, "internal error"),
    ],
)
def test_a_failed_commitment_is_told(
    failure: Exception, status: int, comment: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        archive = MemoryArchive(failing=failure)
        async with (
            serving(archive=archive) as rig,
            await Sender.associate("127.0.0.1", rig.port, CONTEXTS) as sender,
        ):
            answer = await sender.store(CT, UID, EXPLICIT_LE, [dataset()])
            assert (answer.status, answer.comment) == (status, comment)
            archive.failing = None
            assert (await sender.store(CT, UID, EXPLICIT_LE, [dataset()])).status == 0

    run(main)
    assert "Doe" not in caplog.text and all("Doe" not in str(vars(record)) for record in caplog.records)


def test_other_content_under_the_same_uid_follows_the_policy() -> None:
    async def main() -> None:
        async with serving() as rig, await Sender.associate("127.0.0.1", rig.port, CONTEXTS) as sender:
            for body in (dataset(), dataset(extra=b"other")):
                assert (await sender.store(CT, UID, EXPLICIT_LE, [body])).status == 0
            assert len(rig.archive.kept[UID]) == 2
            rig.archive.refuse_conflicts = True
            answer = await sender.store(CT, UID, EXPLICIT_LE, [dataset(extra=b"third")])
            assert answer.status == codes.DUPLICATE_INSTANCE

    run(main)


def test_a_refusal_is_known_before_the_bytes_and_drops_them() -> None:
    async def main() -> None:
        async with serving(archive=MemoryArchive(refusing="no leader")) as rig:
            peer = await RawPeer.associated(rig.port)
            body = dataset(extra=bytes(50_000))
            peer.send(pdvs(3, PDV_COMMAND, store_command()), pdvs(3, 0, body)[:30_000])
            peer.send(pdvs(3, 0, body)[30_000:])
            kind, answer = await peer.pdu()
            assert kind == P_DATA
            response = decode_command(answer[6:])
            assert (response.status, response.comment) == (codes.OUT_OF_RESOURCES, "no leader")
            assert rig.area.statistics().pooled_bytes_in_use == 0
            await peer.close()

    run(main)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (dataset("1.2.3.9"), codes.DATA_SET_MISMATCH),
        (dataset(UID, sop_class_uid="1.2.840.10008.5.1.4.1.1.4"), codes.DATA_SET_MISMATCH),
        (dataset("", sop_class_uid=""), codes.CANNOT_UNDERSTAND),
        (b"", codes.CANNOT_UNDERSTAND),
        (b"\x08\x00\x16\x00UI\xff\xff", codes.CANNOT_UNDERSTAND),
        (dataset()[:50], codes.CANNOT_UNDERSTAND),
    ],
)
def test_a_data_set_that_does_not_fit_its_command_is_refused(body: bytes, status: int) -> None:
    async def main() -> None:
        async with serving() as rig, await Sender.associate("127.0.0.1", rig.port, CONTEXTS) as sender:
            assert (await sender.store(CT, UID, EXPLICIT_LE, [body])).status == status
            assert not rig.archive.kept
            assert (await sender.store(CT, UID, EXPLICIT_LE, [dataset()])).status == 0

    run(main)


@pytest.mark.parametrize(("uid", "sop_class"), [("../x", CT), ("", CT), (UID, ""), ("1" * 65, CT), (UID, "CT")])
def test_a_command_without_proper_uids_is_refused_and_its_data_drained(uid: str, sop_class: str) -> None:
    async def main() -> None:
        async with serving() as rig:
            peer = await RawPeer.associated(rig.port)
            peer.send(pdvs(3, PDV_COMMAND, store_command(uid, sop_class)), pdvs(3, 0, dataset()))
            _, answer = await peer.pdu()
            assert decode_command(answer[6:]).status == codes.CANNOT_UNDERSTAND
            await peer.close()

    run(main)


def test_a_store_on_a_verification_context_is_refused() -> None:
    async def main() -> None:
        async with serving() as rig:
            peer = await RawPeer.associated(rig.port)
            peer.send(pdvs(1, PDV_COMMAND, store_command()), pdvs(1, 0, dataset()))
            _, answer = await peer.pdu()
            assert decode_command(answer[6:]).status == codes.CLASS_NOT_SUPPORTED
            await peer.close()

    run(main)


def test_a_full_disk_in_the_middle_of_an_instance_ends_in_a_status() -> None:
    async def main() -> None:
        disk = MemoryDisk(room=300_000)
        async with serving(disk=disk, memory_instance_bytes=65_536) as rig:  # noqa: SIM117 - one line would be too long
            async with await Sender.associate("127.0.0.1", rig.port, CONTEXTS) as sender:
                answer = await sender.store(CT, UID, EXPLICIT_LE, [dataset(extra=bytes(3_000_000))])
                assert answer.status == codes.OUT_OF_RESOURCES
                assert (await sender.store(CT, UID, EXPLICIT_LE, [dataset()])).status == 0

    run(main)


@pytest.mark.parametrize(
    ("body", "status", "thorough"),
    [
        (dataset(extra=bytes(3_000_000)), codes.SUCCESS, 0),
        (bytes(3_000_000), codes.CANNOT_UNDERSTAND, 1),
        (dataset()[:34] + dataset() + bytes(3_000_000), codes.CANNOT_UNDERSTAND, 1),
    ],
)
def test_what_takes_long_to_read_is_read_once_and_not_in_the_loop(body: bytes, status: int, thorough: int) -> None:
    looks: list[tuple[str, bool, int]] = []

    def watched(head: bytes | memoryview, transfer_syntax: str, *, complete: bool, thorough: bool) -> Attributes:
        looks.append((threading.current_thread().name, thorough, len(head)))
        return scan(head, transfer_syntax, complete=complete, thorough=thorough)

    async def main() -> None:
        looks.clear()
        async with (
            serving(scanner=watched) as rig,
            await Sender.associate("127.0.0.1", rig.port, CONTEXTS) as sender,
        ):
            assert (await sender.store(CT, UID, EXPLICIT_LE, [body])).status == status
            assert sum(look[1] for look in looks) == thorough
            in_loop = [look for look in looks if look[0] == threading.main_thread().name]
            assert len(in_loop) == 1 and in_loop[0][1:] == (False, 64 * 1024)

    run(main)
