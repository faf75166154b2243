"""`helm test`: echo, store a made-up instance, read it back from every node, and count its copies.

    try_archive.py HOST:PORT CALLED_AE NODE_URL...

TRY_AUTHORITY names the authority of the nodes' certificates, TRY_TOKEN holds the token for HTTP, and with
TRY_DICOM_TLS=only DICOM goes over TLS. The instance stays: its patient is PERENNE-TEST.
"""

import json
import os
import ssl
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any, Final

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid
from pynetdicom import AE
from pynetdicom.sop_class import Verification  # pyright: ignore[reportAttributeAccessIssue] - made at import

CALLING_AE: Final = "PERENNE-TEST"
PATIENCE_S: Final = 30.0
_AUTHORITY: Final = os.environ.get("TRY_AUTHORITY")
_TRUST: Final = ssl.create_default_context(cafile=_AUTHORITY)
_TOKEN: Final = os.environ.get("TRY_TOKEN", "").strip()
_DIRECT: Final = urllib.request.build_opener(
    urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=_TRUST)
)


class Failed(Exception):
    """The text says what is wrong, and what to look at."""


def instance() -> Dataset:
    """One pixel of nobody."""
    made = Dataset()
    made.SOPClassUID = SecondaryCaptureImageStorage
    made.SOPInstanceUID = generate_uid()
    made.StudyInstanceUID, made.SeriesInstanceUID = generate_uid(), generate_uid()
    made.PatientName = made.PatientID = "PERENNE-TEST"
    made.Modality = "OT"
    made.Rows = made.Columns = made.SamplesPerPixel = 1
    made.PhotometricInterpretation = "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 8
    made.HighBit, made.PixelRepresentation = 7, 0
    made.add_new(0x7FE00010, "OB", b"\x2a\x00")
    return made


def send(address: str, called: str, made: Dataset) -> None:
    """C-ECHO and C-STORE over one association. Raises Failed."""
    made.ensure_file_meta()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    host, _, port = address.rpartition(":")
    entity = AE(CALLING_AE)
    entity.add_requested_context(Verification)
    entity.add_requested_context(SecondaryCaptureImageStorage, ExplicitVRLittleEndian)
    tls = (_TRUST, host) if os.environ.get("TRY_DICOM_TLS") == "only" else None
    association = entity.associate(host, int(port), ae_title=called, tls_args=tls)
    if not association.is_established:
        raise Failed(f"{address} takes no association; where `aes` is set, it must hold {{title: {CALLING_AE}}}")
    try:
        for what, answer in (("C-ECHO", association.send_c_echo()), ("C-STORE", association.send_c_store(made))):
            status = getattr(answer, "Status", None)
            if status != 0:
                shown = "no answer" if status is None else f"status {status:04X}"
                raise Failed(f"{what} at {address}: {shown} {getattr(answer, 'ErrorComment', '')}")
    finally:
        association.release()


def get(url: str) -> bytes:
    """Raises Failed."""
    try:
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {_TOKEN}"} if _TOKEN else {})
        with _DIRECT.open(request, timeout=10) as answer:
            body: bytes = answer.read()
            return body
    except OSError as error:
        raise Failed(f"{url}: {error}") from error


def check_bytes(node: str, made: Dataset) -> None:
    """Raises Failed."""
    found = dcmread(BytesIO(get(f"{node}/instances/{made.SOPInstanceUID}")))
    if found != made:
        raise Failed(f"{node} serves another data set than was stored")


def check_copies(nodes: Sequence[str]) -> str:
    """Enough nodes are in sync, and each of them holds all that is committed. Raises Failed."""
    told: list[dict[str, Any]] = [json.loads(get(f"{node}/status")) for node in nodes]
    leader = next((one for one in told if one["node"] == one["leader"]), None)
    if leader is None:
        raise Failed("nobody leads")
    committed, members = leader["positions"]["committed"], set(leader["in_sync"])
    behind = [one["node"] for one in told if one["node"] in members and one["positions"]["durable"] < committed]
    if len(members) < leader["copies_required"] or behind:
        raise Failed(f"in sync: {sorted(members)}; behind: {behind}; wanted: {leader['copies_required']} copies")
    return f"{len(members)} copies ({', '.join(sorted(members))})"


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def patiently(what: str, attempt: Callable[[], object]) -> None:
    """A store that is refused during an election may be repeated, and a copy may be a moment behind. Raises Failed."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            result = attempt()
        except Failed as error:
            if time.monotonic() > deadline:
                raise
            say(f"again: {error}")
            time.sleep(1)
        else:
            say(f"ok: {what}{f': {result}' if result else ''}")
            return


def main(words: Sequence[str]) -> int:
    address, called, *nodes = words
    made = instance()
    try:
        patiently(f"C-ECHO and C-STORE at {address}", lambda: send(address, called, made))
        for node in nodes:
            patiently(f"read back from {node}", lambda node=node: check_bytes(node, made))
        patiently("copies", lambda: check_copies(nodes))
    except Failed as error:
        say(f"FAILED: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
