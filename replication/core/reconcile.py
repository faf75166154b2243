"""Finding the last common point of two logs by their tables of epochs (KIP-101, KIP-279).

An epoch has one leader, and a leader writes a sequence once; so two logs that both hold (epoch, sequence) hold the
same record there, and the last common record lies in the newest epoch that both know.
"""

from collections.abc import Sequence

from replication.core.ledger import Ledger
from replication.messages import EpochEnd
from storage.position import GENESIS, LogPoint

TABLE_LENGTH = 1000
"""Epochs that a follower shows: more than a cluster goes through while a node is away."""


class LogsContradict(Exception):
    """Two logs hold different records at one position, or share nothing where they must: never cut, never guess."""


def epoch_table(ledger: Ledger) -> list[EpochEnd]:
    """Return the newest `TABLE_LENGTH` epochs of a log with the chain at each one's last record, oldest first.

    It ends early at one whose end is damaged: without it, what lies below would seem to be all that two logs share.
    """
    table: list[EpochEnd] = []
    for span in reversed(list(ledger.epochs())[-TABLE_LENGTH:]):
        point = ledger.point_at(span.last)
        if point is None:
            break
        table.append(EpochEnd(span.epoch, span.first, span.last, point.chain))
    return table[::-1]


def last_common(ledger: Ledger, table: Sequence[EpochEnd], *, complete: bool) -> LogPoint:
    """Return the last point of `ledger` that a log with this table holds as well.

    complete: the table begins with that log's first record, so that sharing no epoch means sharing nothing.
    Raises LogsContradict.
    """
    own = {span.epoch: span for span in ledger.epochs()}
    for theirs in reversed(table):
        ours = own.get(theirs.epoch)
        if ours is None:
            continue
        if ours.first != theirs.first:
            raise LogsContradict(f"epoch {theirs.epoch} begins at {ours.first} here and at {theirs.first} there")
        point = ledger.point_at(min(ours.last, theirs.last))
        if point is None:
            raise LogsContradict(f"no record at {min(ours.last, theirs.last)} within the table of epochs")
        if theirs.last <= ours.last and point.chain != theirs.chain_at_last:
            raise LogsContradict(f"different chains at {theirs.last} of epoch {theirs.epoch}")
        return point
    if table and not complete:
        raise LogsContradict(f"no epoch in common among the newest {len(table)}")
    return GENESIS
