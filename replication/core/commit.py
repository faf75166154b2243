"""When a record is committed: the acknowledgement rule, as one pure function (protocol, section 4)."""

from collections.abc import Mapping

from replication.core.values import Member


def committed_upto(
    *,
    own: Member,
    own_durable: int,
    confirmed: Mapping[Member, int],
    maximal: frozenset[Member],
    in_sync_size: int,
    minimum_copies: int,
    epoch_record: int,
) -> int:
    """Return the highest committed sequence that this leadership can prove, or 0.

    own_durable: the last sequence on stable storage here. confirmed: per member the highest sequence that it
    confirmed durable *in this epoch, over its present connection*, with the same chain; for the tier what is PUT
    and then checked. maximal: the confirmed in-sync set united with every set whose CAS is not known to have
    failed. in_sync_size: size of the smallest set that may be in force. epoch_record: sequence of this epoch's
    EPOCH record; before it is committed itself, nothing is (Raft's current-term rule).
    """
    if in_sync_size < minimum_copies:
        return 0
    reached = own_durable
    for member in maximal:
        if member != own:
            reached = min(reached, confirmed.get(member, 0))
    return reached if reached >= epoch_record else 0
