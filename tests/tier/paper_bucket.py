"""Logs and a bucket on paper: real records under real names, branches that died, objects that cover each other."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from replication.tier.contents import read_run
from replication.tier.keys import Run, run_name
from replication.tier.tip import Outcome, TipSearch
from storage.errors import StorageError
from storage.position import GENESIS, LogPoint, LogPosition, RecordKind, chain_after
from storage.record import encode_header, small_member, trailing_padding


@dataclass(frozen=True, slots=True)
class PaperRecord:
    point: LogPoint
    data: bytes


Log = tuple[PaperRecord, ...]


def end_of(log: Log) -> LogPoint:
    return log[-1].point if log else GENESIS


def appended(log: Log, epoch: int, salts: Sequence[int]) -> Log:
    """The log with an EPOCH record and one note for each salt, under a new leader."""
    for number, salt in enumerate((0, *salts)):
        before = end_of(log)
        kind = RecordKind.NOTE if number else RecordKind.EPOCH
        position = LogPosition(epoch, before.sequence + 1)
        header, payload = small_member(position, kind, {"salt": salt, "epoch": epoch}, 0)
        chain = chain_after(before.chain, header)
        data = encode_header(header, chain) + payload + bytes(trailing_padding(len(payload)))
        log = (*log, PaperRecord(LogPoint(position, chain), data))
    return log


def grouped(log: Log, cuts: Sequence[int]) -> list[Log]:
    """Whole records in groups that end where `cuts` (sequences) and epochs do."""
    groups: list[Log] = []
    begin = 0
    for index, record in enumerate(log):
        last = index + 1 == len(log) or log[index + 1].point.epoch != record.point.epoch
        if last or record.point.sequence in cuts:
            groups.append(log[begin : index + 1])
            begin = index + 1
    return groups


@dataclass
class PaperBucket:
    """Objects by name. damaged: those that are listed, and cannot be read."""

    objects: dict[Run, bytes] = field(default_factory=dict[Run, bytes])
    damaged: set[Run] = field(default_factory=set[Run])

    def put(self, records: Log) -> Run:
        run = run_name(records[0].point.sequence, records[-1].point)
        self.objects[run] = b"".join(record.data for record in records)
        return run

    def search(self, base: LogPoint = GENESIS, own: Log = ()) -> tuple[Outcome, list[Run]]:
        """The outcome, and which objects were read for it."""
        points = {0: GENESIS, **{record.point.sequence: record.point for record in own}}
        search = TipSearch(self.objects, base, points.get)
        read: list[Run] = []
        unreadable: set[Run] = set()
        while (run := search.wanted) is not None:
            assert run not in unreadable, "what cannot be read is asked for once"
            read.append(run)
            if run in self.damaged:
                unreadable.add(run)
                search.unreadable("damaged")
                continue
            try:
                search.found(read_run(run, self.objects[run]))
            except StorageError as error:
                unreadable.add(run)
                search.unreadable(str(error))
        assert search.outcome is not None
        return search.outcome, read
