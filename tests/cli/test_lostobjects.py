"""Goal: an object of the tier that a restore kept aside is shown as what it is: many records, committed, perhaps the
only copy; each whole instance in it reaches the cluster, and what was deleted since does not.

Method: the records of a real log as one file, one of them altered, one deleted by a tombstone behind it; a real node.
"""

from pathlib import Path

from perenne.local.processes import wait_until
from storage.deletion import Covered, Tombstone, encode_tombstone
from storage.digest import digests_of
from storage.position import LogPosition, RecordHeader, RecordKind
from storage.record import decode_header, encode_header, trailing_padding
from tests.cli.test_lostfound import cut_log, lines, run
from tests.integration.rig import SOLO, made, signalled, standalone


def tombstone(sequence: int, uid: str, dataset: bytes) -> bytes:
    """A whole record that covers one instance."""
    payload = encode_tombstone(Tombstone((Covered("1.2", "1.2.3", uid, dataset),), "wrong", "me", "", 1, "d1"))
    digests = digests_of(RecordKind.TOMBSTONE, [payload])
    position = LogPosition(3, sequence)
    path = f"perenne/{sequence:012d}-tombstone.json"
    header = RecordHeader(
        position, RecordKind.TOMBSTONE, digests.dataset, digests.digest, 1_700_000_000_000_000, path, len(payload)
    )
    return encode_header(header, bytes(32)) + payload + bytes(trailing_padding(len(payload)))


def test_each_instance_of_an_object_is_shown_and_sent_unless_damaged_or_deleted(tmp_path: Path) -> None:
    sent = [made(number, filler=bytes(9000)) for number in range(5)]
    data_dir = tmp_path / "data"
    cut_log(data_dir, *sent)
    lost = data_dir / "lost+found"
    parts = [path.read_bytes() for path in sorted(lost.glob("*.tar"))]
    for path in lost.glob("*.tar"):
        path.unlink()
    grave = tombstone(6, sent[4][0], decode_header(parts[4]).header.dataset)
    whole = "beyond-000000000003-000000000001-000000000002-00112233445566ff.tar"
    damaged = "beyond-000000000003-000000000003-000000000006-00112233445566ff-damaged.bin"
    (lost / whole).write_bytes(b"".join(parts[:2]))
    altered = bytearray(parts[2])
    altered[-600] ^= 1
    (lost / damaged).write_bytes(bytes(altered) + parts[3] + parts[4] + grave)

    code, listed = lines("list", str(data_dir))
    assert [(one["sequence"], one["sendable"], one["deleted"]) for one in listed] == [
        (1, True, 0),
        (2, True, 0),
        (3, True, 0),
        (4, True, 0),
        (5, False, 6),
        (6, False, 0),
    ]
    assert "2 files, 4 instances" in run("list", str(data_dir)).stdout
    good, bad = run("inspect", str(data_dir), whole), run("inspect", str(data_dir), damaged)
    assert (good.exit_code, bad.exit_code) == (0, 1), good.stdout + bad.stdout
    assert "only copy" in good.stdout and "not committed" not in good.stdout
    assert "every byte" in good.stdout and "every byte" not in bad.stdout

    with standalone(tmp_path / "n", SOLO) as node:
        wait_until(node.ready, [signalled(node.running)], "the node takes stores")
        to = ("--to", f"127.0.0.1:{node.dicom_port}", "--ask", f"http://127.0.0.1:{node.http_port}")
        code, said = lines("resubmit", str(data_dir), *to, "--dry-run")
        assert (code, said[-1]["files"], said[-1]["instances"], said[-1]["taken"]) == (0, 2, 3, 0)
        code, said = lines("resubmit", str(data_dir), *to)
        assert (code, said[-1]["taken"]) == (0, 3), said
        assert [node.get(f"/instances/{uid}")[0] for uid, _ in sent] == [200, 200, 404, 200, 404]
    assert [path.name for path in (lost / "resubmitted").iterdir()] == [whole]
    assert (lost / damaged).exists(), "an instance in it is damaged: somebody may still mend it"


def test_what_is_missing_within_an_object_is_said(tmp_path: Path) -> None:
    """Zeros in the place of a record, and an object that is cut short."""
    data_dir = tmp_path / "data"
    cut_log(data_dir, *(made(number, filler=bytes(9000)) for number in range(3)))
    lost = data_dir / "lost+found"
    parts = [path.read_bytes() for path in sorted(lost.glob("*.tar"))]
    for path in lost.glob("*.tar"):
        path.unlink()
    name = "beyond-000000000003-000000000001-000000000003-00112233445566ff-damaged.bin"
    for content in (parts[0] + bytes(len(parts[1])) + parts[2], parts[0] + parts[1], b"garbage " * 512):
        (lost / name).write_bytes(content)
        code, found = lines("inspect", str(data_dir), name)
        assert code == 1
        assert sum(one["sequence"] is None and "no record" in one["damage"] for one in found) == 1
