"""Carries out what `replication.core.rescue` and `rebuild` decide: look, plan, and write once a person agreed."""

import getpass
import secrets
import socket
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from perenne.survey import Answer, Reach, survey
from replication.coordination.port import ClusterRecord
from replication.coordination.surgery import Found, Surgery
from replication.core.loss import after_a_loss
from replication.core.rebuild import rebuilt
from replication.core.rescue import Approval, Bucket, Plan, Refused, Standing, Surroundings
from replication.core.values import Phase
from storage.position import GENESIS


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Everything that a plan is made from."""

    found: Found
    answers: Sequence[Answer]

    @property
    def nodes(self) -> list[Standing]:
        return [answer.standing for answer in self.answers if answer.standing is not None]

    @property
    def clusters(self) -> set[str]:
        """Ids of the clusters that the nodes belong to."""
        return {answer.cluster.cluster_id for answer in self.answers if answer.cluster is not None}

    @property
    def cluster(self) -> ClusterRecord | None:
        """Which cluster the nodes are of; where none answers, what ZooKeeper says."""
        said = next((answer.cluster for answer in self.answers if answer.cluster is not None), None)
        return said or self.found.cluster


def look(reach: Reach, surgery: Surgery, urls: Collection[str]) -> Seen:
    """Ask ZooKeeper, then every node. Raises CoordinationUnavailable, CoordinationCorrupt."""
    found = surgery.look()
    return Seen(found=found, answers=survey(reach.addresses(found, urls), reach.nodes))


def approval() -> Approval:
    return Approval(f"{getpass.getuser()}@{socket.gethostname()}", time.time_ns() // 1000, secrets.token_hex(8))


def surroundings(found: Found) -> Surroundings:
    active = [node for node in found.registrations.values() if not node.retired]
    return Surroundings(
        registered={node.id: node.incarnation for node in active},
        floors=[node.floor for node in active if node.floor != GENESIS],
        tier_floor=found.tier_floor.point if found.tier_floor is not None else None,
        leader=found.leader,
    )


def plan_failover(
    seen: Seen, without: Collection[str], tier: Bucket | None, *, tier_of: str | None = None
) -> Plan | Refused:
    """tier_of: the cluster that the tier says it belongs to, if it does."""
    if wrong := _mixed(seen, tier_of) or _alive(seen, without):
        return wrong
    if strange := _strange(seen):
        return Refused(
            (
                f"ZooKeeper holds cluster {strange}, and the nodes are of {min(seen.clusters)}: check [coordination];"
                " if ours was lost there, and another one begun, see `perenne coordination rebuild`",
            )
        )
    if seen.found.state is None:
        return Refused(("ZooKeeper has no cluster state at all: use `perenne coordination rebuild`",))
    state = seen.found.state.state
    return after_a_loss(state, surroundings(seen.found), seen.nodes, bucket=tier, without=without, approval=approval())


def plan_rebuild(
    seen: Seen, without: Collection[str], tier: Bucket | None, *, accept_loss: bool, tier_of: str | None = None
) -> Plan | Refused:
    """tier_of: the cluster that the tier says it belongs to, if it does."""
    if wrong := _mixed(seen, tier_of) or _alive(seen, without):
        return wrong
    state = seen.found.state.state if seen.found.state is not None else None
    plan = rebuilt(
        state,
        surroundings(seen.found),
        seen.nodes,
        bucket=tier,
        without=without,
        accept_loss=accept_loss,
        approval=approval(),
    )
    if isinstance(plan, Refused) or not (strange := _strange(seen)):
        return plan
    note = (
        f"ZooKeeper holds the state of another cluster, {strange}, which is overwritten: what its nodes took is on"
        " their disks alone. Stop them, and keep their disks"
    )
    return replace(plan, notes=(note, *plan.notes))


def _strange(seen: Seen) -> str:
    """The cluster that ZooKeeper holds, where it is none that the nodes belong to."""
    found = seen.found.cluster
    return found.cluster_id if found is not None and seen.clusters and found.cluster_id not in seen.clusters else ""


def _mixed(seen: Seen, tier_of: str | None) -> Refused | None:
    if len(seen.clusters) > 1:
        return Refused((f"the nodes belong to different clusters: {', '.join(sorted(seen.clusters))}",))
    if tier_of is not None and seen.clusters and tier_of not in seen.clusters:
        own = min(seen.clusters)
        return Refused(
            (f"the tier belongs to cluster {tier_of}, and the nodes to {own}: give --config of one of them",)
        )
    ids = [node.member.id for node in seen.nodes]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        return Refused((f"more than one node calls itself {', '.join(twice)}: stop the one that is not meant",))
    return None


def _alive(seen: Seen, without: Collection[str]) -> Refused | None:
    """Who keeps a session runs, and may hold or acknowledge what nobody else has, whether or not he can be asked."""
    answering = {node.member.id for node in seen.nodes}
    there = [node for name, node in seen.found.live.items() if name in without and name not in answering]
    if not there:
        return None
    return Refused(
        tuple(
            f"{node.identity.id} keeps its session at ZooKeeper and is not lost, though it does not answer at"
            f" {node.host}:{node.http_port}: mend the way to it, or stop it and wait until its session has expired"
            for node in there
        )
    )


def carry_out(surgery: Surgery, seen: Seen, plan: Plan) -> None:
    """Raises Interfered, CoordinationUnavailable."""
    assert seen.cluster is not None, "a plan rests on a node's answer"
    surgery.write(seen.found, cluster=seen.cluster, state=plan.state, left_out=plan.left_out)


def leads(found: Found) -> bool:
    """Whether an election has ended."""
    state = found.state.state if found.state is not None else None
    return state is not None and state.leader is not None and state.phase is Phase.ACTIVE and found.leader is not None


def unfinished(found: Found) -> bool:
    """Whether somebody was elected and has not begun to lead. Who then waits for a replica that is gone for good, such
    as a tier, holds the lead for half a minute, lets go of it, and takes it again.
    """
    if found.leader is None:
        return False
    return found.state is None or not leads(found) or found.state.state.leader != found.leader


def same(agreed: Plan, now: Plan) -> bool:
    """Whether who agreed to one has agreed to the other: who goes on, with what, and what is lost with whom."""
    return (
        (agreed.chosen.member, agreed.chosen.end) if agreed.chosen else None,
        agreed.loss,
        set(agreed.left_out),
        agreed.state.in_sync,
    ) == (
        (now.chosen.member, now.chosen.end) if now.chosen else None,
        now.loss,
        set(now.left_out),
        now.state.in_sync,
    )


def doubtful(seen: Seen, plan: Plan) -> list[dict[str, Any]]:
    """Instances in a survivor's lost+found from where something may be lost: a person can offer them again."""
    after = plan.chosen.told.sequence if plan.chosen is not None else 0
    return [
        {"node": answer.standing.member.id, **saved}
        for answer in seen.answers
        if answer.standing is not None
        for saved in answer.lost_and_found
        if saved.get("sop_instance_uid") and int(saved.get("sequence") or 0) > after
    ]
