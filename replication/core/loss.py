"""Nobody is eligible, since those in sync are lost: a person accepts that, and the best survivor goes on."""

from collections.abc import Collection, Sequence

from replication.core.eligibility import why_not_eligible
from replication.core.rescue import (
    FROM_THE_TIER,
    NO_BUCKET,
    Approval,
    Bucket,
    Plan,
    Refused,
    Standing,
    Surroundings,
    best,
    contradicted,
    given_up,
    holds_more,
    informed,
    led,
    loss_of,
    newest,
    passed_over,
    state_for,
    unaccounted,
    why_unfit,
)
from replication.core.values import TIER, TIER_MEMBER, ClusterState, TierFloor
from storage.position import LogPoint


def after_a_loss(
    state: ClusterState,
    around: Surroundings,
    nodes: Sequence[Standing],
    *,
    bucket: Bucket | None = None,
    without: Collection[str],
    approval: Approval,
) -> Plan | Refused:
    """Nobody is eligible: choose the survivor that holds most, or the bucket, and say what is lost.

    bucket: None where it was not asked.
    """
    names = {member.id for member in state.in_sync} | around.registered.keys()
    reasons = _not_to_be_touched(state, around, nodes, without) or unaccounted(names, nodes, without)
    reasons = reasons or led(nodes) or _bucket_unasked(state, nodes, bucket, without)
    if reasons:
        return Refused(reasons)
    survivors = [node for node in nodes if node.member.id not in without]
    chosen = best(survivors)
    if chosen is None:
        return Refused(("no survivor can go on", *why_unfit(survivors)))
    if contradictions := contradicted(chosen, survivors):
        return Refused(contradictions)
    tier = NO_BUCKET if bucket is None or TIER in without else bucket
    committed = [state.floor, *around.floors, *(node.told for node in survivors), *_counted(state, around)]
    chosen, known = informed(chosen, committed), newest(committed)
    loss = loss_of(chosen, tier, known, unsure=True)
    epoch = 1 + max(state.epoch, tier.epoch, *(node.promise for node in survivors))
    left_out = given_up(state.in_sync, around, nodes, without)
    new = state_for(
        chosen,
        tier,
        state,
        counter=state.change.counter + 1,
        epoch=epoch,
        known=known,
        loss=loss,
        approval=approval,
    )
    through_tier = holds_more(tier, chosen)
    return Plan(
        chosen=None if through_tier else chosen,
        state=new,
        left_out=left_out,
        loss=loss,
        notes=(FROM_THE_TIER,) if through_tier else passed_over(tier, chosen),
    )


def _bucket_unasked(
    state: ClusterState, nodes: Sequence[Standing], bucket: Bucket | None, without: Collection[str]
) -> tuple[str, ...]:
    """Also a tier that only follows may hold what no survivor holds."""
    if TIER in without:
        return ()
    if bucket is None and any(node.tiered for node in nodes):
        return (
            "the tier may hold what no survivor holds: give --config of a node with its [tier] section, or, if its"
            " contents are gone for good, --without tier",
        )
    if bucket is not None and bucket.counter > state.change.counter:
        return ("the bucket remembers a later cluster state: use `perenne coordination rebuild`",)
    return ()


def _counted(state: ClusterState, around: Surroundings) -> list[LogPoint]:
    floor = around.tier_floor
    return [floor] if floor is not None and TIER_MEMBER in state.in_sync else []


def _not_to_be_touched(
    state: ClusterState, around: Surroundings, nodes: Sequence[Standing], without: Collection[str]
) -> tuple[str, ...]:
    """Why the cluster is to be left alone: it can go on, or would by another verb."""
    if around.leader is not None:
        return (f"{around.leader.id} leads: see `perenne status`",)
    remembers = [node.member.id for node in nodes if node.counter > state.change.counter]
    if remembers:
        return (f"{', '.join(remembers)} remembers a later cluster state: use `perenne coordination rebuild`",)
    if TIER_MEMBER in state.in_sync and TIER not in without:
        able = [node.member.id for node in nodes if node.tiered]
        who = f"{', '.join(able)} takes over from it by itself" if able else "a node with its [tier] section takes over"
        return (f"the tier is in sync: {who}; if its contents are gone for good, say so with --without tier",)
    found: list[str] = []
    for node in nodes:
        why = why_not_eligible(
            state,
            node.member,
            node,
            counter=node.counter,
            own_floor=node.floor,
            tier_floor=TierFloor(around.tier_floor, 0) if around.tier_floor is not None else None,
        )
        if why is None and node.fenced is None:
            found.append(f"{node.member.id} is in sync and holds everything: it leads by itself, wait for it")
        elif why is None and node.member.id not in without:
            found.append(f"{node.member.id} is in sync and holds everything, but {node.fenced}: mend and restart it")
    return tuple(found)
