"""The Part 10 files that pydicom and pydicom-data ship."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import pydicom.data

from storage.digest import part10_meta_length


@dataclass(frozen=True)
class Sample:
    """What is needed to send a file as it is: the raw bytes of its data set, and what its File Meta says."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax: str
    dataset: bytes


def sample_files() -> list[Path]:
    roots = [Path(pydicom.data.__file__).parent / "test_files"]
    spec = find_spec("data_store")
    if spec is not None and spec.submodule_search_locations:
        roots.append(Path(next(iter(spec.submodule_search_locations))) / "data")
    return sorted(path for root in roots for path in root.rglob("*") if path.is_file())


def samples() -> list[Sample]:
    """Return the files with a complete File Meta group, one per SOP Instance UID."""
    found: dict[str, Sample] = {}
    for path in sample_files():
        content = path.read_bytes()
        length = part10_meta_length(content)
        if not length:
            continue
        meta = cast(Any, pydicom).filereader.read_file_meta_info(path)
        values = [
            str(meta.get(name, ""))
            for name in ("MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID", "TransferSyntaxUID")
        ]
        if all(values):
            found.setdefault(values[1], Sample(path, values[0], values[1], values[2], content[length:]))
    return list(found.values())
