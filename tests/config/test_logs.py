"""Goal: what a node logs is JSON lines, and nothing of a data set is in them."""

import json
import struct
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SECRET = "MUELLER^HANS"


def run(program: str) -> list[dict[str, object]]:
    """Run `program` in a process of its own, for what it configures is global; return its log."""
    command = [sys.executable, "-W", "default", "-c", program]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert SECRET not in process.stderr + process.stdout
    return [json.loads(line) for line in process.stderr.splitlines()]


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


def test_what_is_wrong_in_a_data_set_is_not_quoted() -> None:
    """In a thread too, at the same time as in another: there the warnings of pydicom once came through."""
    charset = element(0x00080005, b"CS", SECRET.encode()) + element(0x00080018, b"UI", b"1.2\0")
    name = element(0x00100010, b"PN", b"M\xfcller^Hans ")
    again = element(0x00080018, b"UI", SECRET.encode())
    told = run(f"""
from concurrent.futures import ThreadPoolExecutor
from perenne import logs
logs.configure("info", "json")
from storage.dataset import scan
from pynetdicom.pdu import A_ASSOCIATE_RQ

def look(number):
    data = ({charset + name!r}, {charset + again + name!r}, {charset + again!r})[number % 3]
    assert scan(data, "1.2.840.10008.1.2.1", complete=True).sop_instance_uid

with ThreadPoolExecutor(4) as threads:
    list(threads.map(look, range(300)))
import logging, warnings
logging.getLogger("pydicom.anything").error("{SECRET}")
logging.getLogger("pynetdicom.pdu").exception("{SECRET}")
""")
    assert told == []


def test_other_warnings_are_log_lines_without_their_text() -> None:
    (line,) = run(f"""
import warnings
from perenne import logs
logs.configure("info", "json")
warnings.warn("{SECRET}")
""")
    assert line["message"] == "a library warns" and line["kind"] == "UserWarning" and line["level"] == "warning"
    assert str(line["place"]).endswith(":5")
