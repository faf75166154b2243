"""What a truncation put into lost+found, as instances to be offered again (protocol, section 7)."""

import logging
from collections.abc import Sequence
from typing import Final

from replication.api import Draft
from storage.dataset import UnreadableDataSet, read_meta
from storage.disk import Disk
from storage.errors import RecordCorrupt, StorageError
from storage.position import RecordKind
from storage.record import decode_header
from storage.staging import StagingArea

_LOG: Final = logging.getLogger("perenne.rejoin")
_PIECE: Final = 1024 * 1024


def saved_instances(disk: Disk, names: Sequence[str], staging: StagingArea) -> list[Draft]:
    """Read saved records back; what is no valid instance stays where it is, and is named in the log."""
    found: list[Draft] = []
    for name in names:
        try:
            draft = _instance(disk, name, staging)
        except (StorageError, UnreadableDataSet, OSError) as error:
            _LOG.warning("what was saved is not offered again", extra={"file": name, "reason": str(error)})
            continue
        if draft is not None:
            found.append(draft)
    return found


def _instance(disk: Disk, name: str, staging: StagingArea) -> Draft | None:
    file = disk.open(name)
    receiving = staging.begin_raw()
    try:
        decoded = decode_header(file.pread(64 * 1024, 0))
        if decoded.header.kind is not RecordKind.INSTANCE or decoded.tombstone:
            receiving.abandon()
            return None
        at, end = decoded.payload_offset, decoded.payload_offset + decoded.header.size
        meta = read_meta(file.pread(min(64 * 1024, end - at), at))
        while at < end:
            piece = file.pread(min(_PIECE, end - at), at)
            receiving.write(memoryview(piece))
            at += len(piece)
    except BaseException:  # whatever ends it, the half-staged copy must not stay; it is raised again
        receiving.abandon()
        raise
    finally:
        file.close()
    staged = receiving.finish()
    if (staged.digest, staged.dataset_digest) != (decoded.header.digest, decoded.header.dataset):
        staged.release()
        raise RecordCorrupt(decoded.header.position.sequence, "what was saved is damaged")
    study, series = decoded.header.path.split("/")[:2]
    return Draft(
        staged=staged,
        sop_class_uid=meta.sop_class_uid,
        sop_instance_uid=meta.sop_instance_uid,
        study_instance_uid=study,
        series_instance_uid=series,
        transfer_syntax_uid=meta.transfer_syntax_uid,
        again=True,
    )
