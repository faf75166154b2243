"""The state of a restored cluster, and what of the old one the restored log lacks. Pure.

Epoch and counter leap ahead of everything that the bucket and the coordination service show: a node that comes back
from the dead may have promised more, and its records must never share an epoch with new ones.
"""

from collections.abc import Callable
from typing import Final

from replication.coordination.restoring import Seen
from replication.core.values import Change, ClusterState, Member, Phase, Restored
from storage.position import LogPoint

EPOCHS: Final = 1_000
CHANGES: Final = 1_000_000


def restored_state(
    seen: Seen, member: Member, end: LogPoint, source: str, *, bucket_epoch: int, bucket_counter: int, new_id: str
) -> ClusterState:
    """One member, which holds the log up to `end`: it leads as soon as it runs, and takes stores once it has company.

    bucket_epoch: the highest of anything in the tier; bucket_counter: of its markers.
    """
    old = seen.state.state if seen.state is not None else None
    epoch = max(old.epoch if old is not None else 0, bucket_epoch, end.epoch)
    counter = max(old.change.counter if old is not None else 0, bucket_counter)
    return ClusterState(
        change=Change(counter + CHANGES, new_id),
        epoch=epoch + EPOCHS,
        leader=None,
        phase=Phase.RECOVERING,
        in_sync=frozenset({member}),
        floor=end,
        restored=Restored(end, source),
    )


def lacking(seen: Seen, point_at: Callable[[int], LogPoint | None], end: LogPoint) -> list[str]:
    """What the service says was committed, and this log has not: acknowledged, and lost unless a disk still has it."""
    found: list[str] = []
    known = [("the cluster state", seen.state.state.floor)] if seen.state is not None else []
    if seen.tier_floor is not None:
        known.append(("`tierfloor`", seen.tier_floor.point))
    known.extend((f"node {node}", point) for node, point in seen.floors)
    for who, point in known:
        if point.sequence > end.sequence:
            found.append(
                f"{who} says that record {point.sequence} was committed: records {end.sequence + 1} to"
                f" {point.sequence} are not in the tier"
            )
        elif point_at(point.sequence) != point:
            found.append(f"{who} says that record {point.sequence} was committed on another branch than the tier's")
    return found


def written_already(seen: Seen, member: Member, end: LogPoint | None) -> bool:
    """Whether an earlier run of this very restore got as far as the state. end: None where its log was not opened; the
    incarnation is this restore's own in any case.
    """
    state = seen.state.state if seen.state is not None else None
    if state is None or state.restored is None or member not in state.in_sync:
        return False
    return end is None or state.restored.upto == end
