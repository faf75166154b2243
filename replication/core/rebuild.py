"""Rebuilding the cluster state from what nodes hold, after the coordination service lost its history (section 9)."""

from collections.abc import Collection, Sequence
from typing import Final

from replication.core.rescue import (
    FROM_THE_TIER,
    NO_BUCKET,
    Approval,
    Bucket,
    Loss,
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
from replication.core.values import TIER, TIER_MEMBER, ClusterState, Member

MARGIN: Final = 1_000
"""Added to epoch and change counter while somebody was not asked, who may have seen later ones."""


def rebuilt(
    state: ClusterState | None,
    around: Surroundings,
    nodes: Sequence[Standing],
    *,
    bucket: Bucket | None,
    without: Collection[str],
    accept_loss: bool,
    approval: Approval,
) -> Plan | Refused:
    """Choose the longest verified log along the highest epoch. Every node is asked, or given up by name."""
    last = last_remembered(nodes)
    reasons = _nothing_to_rebuild(state, around, nodes)
    if not reasons:
        names = around.registered.keys() | {m.id for m in (last.in_sync if last is not None else ())}
        reasons = unaccounted(names, nodes, without)
    if not reasons and bucket is None and TIER not in without and _tiered(last, nodes):
        reasons = (
            "the tier may hold what no node holds: give --config of a node with its [tier] section, or, if its contents"
            " are gone for good, --without tier",
        )
    if reasons := reasons or led(nodes):
        return Refused(reasons)
    survivors = [node for node in nodes if node.member.id not in without]
    chosen = best(survivors)
    if chosen is None:
        return Refused(("no node can go on", *why_unfit(survivors)))
    if contradictions := contradicted(chosen, survivors):
        return Refused(contradictions)
    return _planned(state, around, nodes, survivors, chosen, last, bucket, without, accept_loss, approval)


def last_remembered(nodes: Collection[Standing]) -> ClusterState | None:
    """The newest cluster state that any node read."""
    states = [node.remembered for node in nodes if node.remembered is not None]
    return max(states, key=lambda state: state.change.counter, default=None)


def _unsure(survivors: Sequence[Standing], left_out: Collection[Member], *, given_tier: bool) -> bool:
    """Whether those who cannot go on may have been a set of their own at the end: what is remembered may be old."""
    gone = {member.id for member in left_out} | {node.member.id for node in survivors if node.unfit is not None}
    smallest = min(node.copies for node in survivors)
    return len(gone) >= max(1, smallest - 1 if given_tier else smallest)


def _forgotten(last: ClusterState | None, nodes: Sequence[Standing]) -> tuple[str, ...]:
    """Why nobody knows who was in sync in the end, if so: what a node has read it remembers a moment later, and not if
    its disk is new.
    """
    highest = max(node.counter for node in nodes)
    if last is not None and last.change.counter >= highest:
        return ()
    remembered = f"change {last.change.counter} is" if last is not None else "none is"
    return (
        f"change {highest} of the cluster state was read, and {remembered} remembered: who was in sync then, and holds"
        " more perhaps, nobody says. Be sure that every node that ever ran was asked",
    )


def _tiered(last: ClusterState | None, nodes: Collection[Standing]) -> bool:
    return any(node.tiered for node in nodes) or (last is not None and TIER_MEMBER in last.in_sync)


def _nothing_to_rebuild(state: ClusterState | None, around: Surroundings, nodes: Sequence[Standing]) -> tuple[str, ...]:
    if not nodes:
        return ("no node answers: start the nodes first, also without a leader they can be asked",)
    highest = max(node.counter for node in nodes)
    if highest == 0 and all(node.end.sequence == 0 for node in nodes):
        return ("no node holds anything: there is nothing to rebuild from",)
    if state is not None and state.change.counter >= highest:
        return (
            f"the cluster state (change {state.change.counter}) is no older than what the nodes remember (change"
            f" {highest}): nothing is lost. `perenne status` says why nobody leads",
        )
    if around.leader is not None:
        return (f"{around.leader.id} leads a cluster that knows nothing of what these nodes hold: stop it first",)
    return ()


def _planned(
    state: ClusterState | None,
    around: Surroundings,
    nodes: Sequence[Standing],
    survivors: Sequence[Standing],
    chosen: Standing,
    last: ClusterState | None,
    bucket: Bucket | None,
    without: Collection[str],
    accept_loss: bool,
    approval: Approval,
) -> Plan | Refused:
    members = last.in_sync if last is not None else frozenset[Member]()
    left_out = given_up(members, around, nodes, without)
    committed = [*around.floors, *(node.told for node in survivors), *([last.floor] if last is not None else [])]
    chosen, known = informed(chosen, committed), newest(committed)
    tier = NO_BUCKET if bucket is None or TIER in without else bucket
    vague = (*passed_over(tier, chosen), *_forgotten(last, nodes))
    unsure = _unsure(survivors, left_out, given_tier=TIER in without)
    loss = loss_of(chosen, tier, known, unsure=unsure or bool(vague))
    if (loss.records or loss.unsure) and not accept_loss:
        lost = (*_what_is_lost(loss, unsure=unsure), *vague)
        return Refused(("; ".join(lost), "if that is accepted, say so with --accept-loss"))
    sure = not without and last is not None
    margin = 1 if sure else MARGIN
    counter = margin + max(tier.counter, state.change.counter if state else 0, *(n.counter for n in survivors))
    epoch = margin + max(tier.epoch, state.epoch if state else 0, *(n.promise for n in survivors))
    through_tier = holds_more(tier, chosen)
    new = state_for(chosen, tier, last, counter=counter, epoch=epoch, known=known, loss=loss, approval=approval)
    return Plan(
        chosen=None if through_tier else chosen,
        state=new,
        left_out=left_out,
        loss=loss,
        notes=(*_notes(last, survivors, through_tier=through_tier), *vague),
    )


def _what_is_lost(loss: Loss, *, unsure: bool) -> list[str]:
    """unsure: since so many are given up."""
    found: list[str] = []
    if loss.records:
        found.append(f"records {loss.first} to {loss.last} were committed and are on no node that answers")
    if unsure:
        found.append(
            "so many are given up that they may have been in sync without anybody who answers: more may be lost"
        )
    return found


def _notes(last: ClusterState | None, survivors: Sequence[Standing], *, through_tier: bool) -> tuple[str, ...]:
    if last is None:
        return ()
    names = ", ".join(sorted(member.id for member in last.in_sync))
    found = [f"in sync when it was last seen (change {last.change.counter}): {names}"]
    if through_tier:
        found.append(FROM_THE_TIER)
    holders = sorted(node.member.id for node in survivors if node.member in last.in_sync)
    if holders:
        found.append(f"each of them holds everything acknowledged until then; {', '.join(holders)} answers")
    return tuple(found)
