"""Goal: what real tools send, and every sample file there is, is stored unchanged."""

import asyncio
import contextlib
import shutil
import socket
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any, cast

import pydicom
import pytest
from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined] # made by its module's __getattr__

from perenne.dimse import status as codes
from perenne.dimse.sender import Sender
from perenne.dimse.uids import is_storage
from storage.digest import part10_meta_length
from tests.dimse.helpers import Rig, run, scan, serving
from tests.dimse.samples import Sample, samples

SAMPLES = samples()
SENDABLE = [sample for sample in SAMPLES if is_storage(sample.sop_class_uid)]


async def tool(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env={"TCP_NODELAY": "1"}
    )
    output, _ = await process.communicate()
    text = output.decode(errors="replace")
    assert process.returncode == 0, text
    return text


def readable(sample: Sample) -> bool:
    """Whether the data set names itself as its File Meta does, for a reader that is not ours."""
    try:
        uids = scan(sample.dataset, sample.transfer_syntax, complete=True)
    except Exception:  # hostile samples fail in many ways; each of them means "not readable"
        return False
    return (uids.sop_class_uid, uids.sop_instance_uid) == (sample.sop_class_uid, sample.sop_instance_uid)


def test_every_sample_file_comes_back_byte_for_byte() -> None:
    assert len(SENDABLE) > 100 and len({sample.transfer_syntax for sample in SENDABLE}) >= 10

    async def main() -> None:
        async with serving() as rig:
            stored = 0
            contexts = sorted({(sample.sop_class_uid, sample.transfer_syntax) for sample in SENDABLE})
            assert len(contexts) <= 128
            async with await Sender.associate(
                "127.0.0.1", rig.port, [(abstract, [syntax]) for abstract, syntax in contexts]
            ) as sender:
                assert len(sender.accepted) == len(contexts)
                for sample in SENDABLE:
                    answer = await sender.store(
                        sample.sop_class_uid,
                        sample.sop_instance_uid,
                        sample.transfer_syntax,
                        [sample.dataset],
                    )
                    if readable(sample):
                        assert answer.status == 0, (sample.path.name, answer)
                        (kept,) = rig.archive.kept[sample.sop_instance_uid]
                        assert kept.dataset == sample.dataset
                        assert kept.draft.transfer_syntax_uid == sample.transfer_syntax
                        stored += 1
                    else:
                        assert answer.status in (codes.DATA_SET_MISMATCH, codes.CANNOT_UNDERSTAND)
            assert stored > 100

    run(main, twice=False)


@pytest.mark.needs("echoscu")
def test_dcmtk_echoscu_is_answered() -> None:
    async def main() -> None:
        async with serving() as rig:
            await tool("echoscu", "--repeat", "5", "-aec", "PERENNE", "127.0.0.1", str(rig.port))
            assert rig.ledger.answers == [("c-echo", 0)] * 5 and rig.ledger.closed == ["released"]

    run(main, twice=False)


@contextlib.asynccontextmanager
async def storescp(folder: Path, port: int) -> AsyncGenerator[None, None]:
    """DCMTK's receiver in bit preserving mode: an independent witness of what a sender sends."""
    process = await asyncio.create_subprocess_exec(
        "storescp", "+B", "+xa", "-od", str(folder), "+uf", str(port), stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionError:
                await asyncio.sleep(0.01)
            else:
                writer.close()
                await writer.wait_closed()
                break
        yield
    finally:
        process.terminate()
        await process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def folder_of_samples(folder: Path) -> list[Sample]:
    """Copy those that DCMTK reads without complaint: whole data sets, of a class DCMTK proposes by itself."""
    folder.mkdir()
    # A SOP Instance UID with VR UN confuses dcmsend: it names another instance in the command. That is A900.
    chosen = [
        sample
        for sample in SENDABLE
        if readable(sample) and len(sample.dataset) < 1_000_000 and b"\x08\0\x18\0UN" not in sample.dataset
    ]
    for number, sample in enumerate(chosen):
        shutil.copy(sample.path, folder / f"{number:03d}.dcm")
    return chosen


def datasets_in(folder: Path) -> list[bytes]:
    contents = [path.read_bytes() for path in sorted(folder.iterdir())]
    return sorted(content[part10_meta_length(content) :] for content in contents)


@pytest.mark.needs("dcmsend", "storescp")
def test_dcmsend_stores_what_it_sends_to_a_bit_preserving_storescp(tmp_path: Path) -> None:
    async def main() -> None:
        chosen = folder_of_samples(tmp_path / "in")
        (tmp_path / "out").mkdir()
        options = ("--no-halt", "+sd", "--decompress-never", "127.0.0.1")
        port = free_port()
        async with storescp(tmp_path / "out", port):
            await tool("dcmsend", *options, str(port), str(tmp_path / "in"))
        async with serving() as rig:
            await tool("dcmsend", *options, str(rig.port), str(tmp_path / "in"))
            kept = sorted(version.dataset for versions in rig.archive.kept.values() for version in versions)
        assert kept == datasets_in(tmp_path / "out")
        assert len(kept) > 0.9 * len(chosen)

    run(main, twice=False)


@pytest.mark.needs("storescu")
def test_storescu_stores_a_file(tmp_path: Path) -> None:
    async def main() -> None:
        sample = next(sample for sample in SENDABLE if sample.path.name == "CT_small.dcm")
        async with serving() as rig:
            await tool("storescu", "-R", "--max-send-pdu", "4096", "127.0.0.1", str(rig.port), str(sample.path))
            (kept,) = rig.archive.kept[sample.sop_instance_uid]
            assert kept.draft.study_instance_uid == cast(Any, pydicom).dcmread(sample.path).StudyInstanceUID

    run(main, twice=False)


def test_a_pynetdicom_scu_echoes_and_stores_on_interleaved_associations() -> None:
    files = [sample for sample in SENDABLE if readable(sample) and len(sample.dataset) < 200_000][:12]

    def send(rig: Rig, part: Sequence[Sample]) -> None:
        """What pynetdicom has no answer to is sent again: its own thread takes one for a request at times, and
        throws it away (pynetdicom issues 435, 875).
        """
        unanswered = part
        while unanswered:
            unanswered = associated(rig, unanswered)

    def associated(rig: Rig, part: Sequence[Sample]) -> Sequence[Sample]:
        entity = cast(Any, AE(ae_title="PYNETDICOM"))
        entity.dimse_timeout = 10
        entity.add_requested_context(Verification)
        for abstract, syntax in {(sample.sop_class_uid, sample.transfer_syntax) for sample in part}:
            entity.add_requested_context(abstract, syntax)
        association = entity.associate("127.0.0.1", rig.port, ae_title="PERENNE")
        assert association.is_established
        assert association.send_c_echo().Status == 0
        for number, sample in enumerate(part):
            answer = association.send_c_store(str(sample.path))
            if "Status" not in answer:
                return part[number:]
            assert answer.Status == 0, sample.path.name
        association.release()
        return ()

    async def main() -> None:
        async with serving() as rig:
            await asyncio.gather(*(asyncio.to_thread(send, rig, files[start::3]) for start in range(3)))
            assert sorted(rig.archive.kept) == sorted(sample.sop_instance_uid for sample in files)
            await rig.all_gone()
            assert rig.ledger.closed.count("released") == 3
            assert set(rig.ledger.closed) <= {"released", "peer-aborted"}, "pynetdicom aborts where it lost an answer"

    run(main, twice=False)
