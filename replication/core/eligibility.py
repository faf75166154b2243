"""Who may lead: judged against the very state that the candidate's CAS replaces (protocol, section 6)."""

from replication.core.ledger import Ledger
from replication.core.values import ClusterState, Member
from storage.position import LogPoint


def why_not_eligible(
    state: ClusterState, own: Member, ledger: Ledger, *, counter: int, own_floor: LogPoint
) -> str | None:
    """Return why the node may not lead, or None when it may.

    counter: the highest change counter that this node has ever read from `state`; a lower one in `state` means that
    the coordination service has lost history, and nobody leads until an operator rebuilds it.
    own_floor: what this node once knew to be committed; a log without it was rolled back.
    """
    if state.change.counter < counter:
        return f"the cluster state went back from change {counter} to {state.change.counter}"
    if own not in state.in_sync:
        return "not in the in-sync set"
    if not ledger.intact:
        return "the log has damaged or unsettled records"
    if not ledger.holds(state.floor):
        return f"the log lacks the floor at {state.floor.sequence}"
    if not ledger.holds(own_floor):
        return f"the log lacks its own floor at {own_floor.sequence}: its disk was rolled back"
    return None
