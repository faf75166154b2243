"""How the verbs of a rescue look, ask for agreement, write, and wait; and how a plan is shown."""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import typer

from perenne import rescue
from perenne.cli import INTERRUPTED
from perenne.cli.status import NoCluster
from perenne.cli.switchover import zookeeper_of
from perenne.cli.usage import asked, fail, read_config
from perenne.config import Config
from perenne.config_tls import zookeeper_access
from perenne.nodeaccess import NodeAccess
from perenne.rescue import Seen, plan_failover, plan_rebuild
from perenne.survey import Reach
from replication.coordination.port import CoordinationCorrupt, CoordinationUnavailable
from replication.coordination.surgery import Interfered, Surgery
from replication.core.rescue import Bucket, Plan, Refused
from replication.core.values import ClusterState

__all__ = ["bucket", "configured", "fail", "plan_failover", "plan_rebuild", "reach", "reached", "run"]
LET_GO_S: Final = 120.0
"""Who waits in vain for the tier holds the lead for about half a minute at a time."""
NAMED: Final = 20
"""Instances named one by one in the text; `--json` names all."""


def configured(config: Path | None) -> Config | None:
    return read_config(config) if config is not None else None


def reach(config: Path | None, zookeeper: str, cluster: Path | None) -> Reach:
    """Where the cluster is; with a configuration also what its ZooKeeper and its nodes want to be shown."""
    settings = read_config(config)
    try:
        given = zookeeper or (zookeeper_of(cluster) if cluster else settings.coordination.zookeeper)
    except NoCluster as error:
        raise fail(str(error), 2) from error
    if not given and config is not None:
        cause = f"{config} is that of a standalone node: no other replica could lead, so there is nothing to decide"
        raise fail(f"{cause}; docs/recovery.md says what there is for one", 2)
    if not given:
        raise fail("no ZooKeeper to ask: give --config, --zookeeper or --cluster FILE", 2)
    return reached(settings, given)


def reached(settings: Config, hosts: str) -> Reach:
    scheme = "https" if settings.http.tls else "http"
    return Reach(hosts=hosts, zookeeper=zookeeper_access(settings), nodes=NodeAccess.of(settings), scheme=scheme)


def bucket(settings: Config | None) -> tuple[Bucket | None, str | None]:
    """What the tier shows, and whose it says it is; None, None where there is none."""
    if settings is None or not settings.tier.on:
        return None, None
    from perenne.config_tier import blocking_store
    from perenne.survey import bucket as seen_in
    from perenne.survey import cluster_of
    from replication.tier.port import TierError

    try:
        store = blocking_store(settings.tier, os.environ)
        try:
            return seen_in(store), cluster_of(store)
        finally:
            store.close()
    except TierError as error:
        raise fail(f"the tier: {error}; if its contents are gone for good, say so with --without tier") from error


def run(
    reach: Reach,
    urls: Sequence[str],
    plan_from: Callable[[Seen], Plan | Refused],
    *,
    dry_run: bool,
    yes: str,
    seconds: float,
    as_json: bool,
) -> None:
    try:
        with reach.surgery() as surgery:
            seen, plan = _decided(reach, surgery, urls, plan_from, time.monotonic() + LET_GO_S)
            facts = document(seen, plan)
            if not as_json:
                typer.echo("\n".join(lines(seen, plan)))
            if isinstance(plan, Refused):
                raise _end(facts | {"result": "refused"}, as_json=as_json, code=1)
            if dry_run:
                raise _end(facts | {"result": "nothing was changed"}, as_json=as_json, code=0)
            _agreed(seen, yes)
            _carried_out(reach, surgery, urls, plan_from, plan)
            try:
                after = surgery.wait_for(rescue.leads, seconds)
            except KeyboardInterrupt as error:
                text = "interrupted; the state is written, and a node leads by itself: see `perenne status`"
                raise fail(text, INTERRUPTED) from error
    except (CoordinationUnavailable, CoordinationCorrupt, Interfered) as error:
        raise fail(str(error)) from error
    if after is None or after.leader is None:
        text = f"written, but nobody led within {seconds:.0f} s: `perenne status` says why"
        raise _end(facts | {"result": text}, as_json=as_json, code=1)
    raise _end(facts | {"result": f"{after.leader.id} leads", "leader": after.leader.id}, as_json=as_json, code=0)


def _decided(
    reach: Reach, surgery: Surgery, urls: Sequence[str], plan_from: Callable[[Seen], Plan | Refused], deadline: float
) -> tuple[Seen, Plan | Refused]:
    """Look and plan; wait while somebody holds the lead who was elected and cannot begin to lead."""
    waited = False
    while True:
        seen = rescue.look(reach, surgery, urls)
        plan = plan_from(seen)
        holder, left = seen.found.leader, deadline - time.monotonic()
        if not isinstance(plan, Refused) or holder is None or not rescue.unfinished(seen.found) or left <= 0:
            return seen, plan
        if not waited:
            waited = True
            typer.echo(
                f"{holder.id} was elected and has not begun to lead: waiting until it does or lets go, a minute or so",
                err=True,
            )
        surgery.wait_for(lambda found: not rescue.unfinished(found), left)


def _carried_out(
    reach: Reach, surgery: Surgery, urls: Sequence[str], plan_from: Callable[[Seen], Plan | Refused], agreed: Plan
) -> None:
    """Write what was agreed to. While a person reads and types, minutes pass: an election may have come in between, and
    without any trace in ZooKeeper a leader that was cut off may have gone on with a follower that it reaches again. So
    everybody is asked once more, and the same is written. Raises Interfered, CoordinationUnavailable; typer.Exit where
    it is the same no longer.
    """
    deadline = time.monotonic() + LET_GO_S
    while True:
        seen, plan = _decided(reach, surgery, urls, plan_from, deadline)
        if isinstance(plan, Refused):
            raise fail(f"nothing was written: {'; '.join(plan.reasons)}")
        if not rescue.same(agreed, plan):
            raise fail("nothing was written: what would be done is no longer what was shown; look again")
        try:
            return rescue.carry_out(surgery, seen, plan)
        except Interfered:
            if time.monotonic() > deadline:
                raise


def _end(facts: dict[str, Any], *, as_json: bool, code: int) -> typer.Exit:
    typer.echo(json.dumps(facts, indent=2) if as_json else str(facts["result"]))
    return typer.Exit(code)


def _agreed(seen: Seen, yes: str) -> None:
    """Raises typer.Exit unless a person named this very cluster."""
    assert seen.cluster is not None, "a plan rests on a node's answer"
    wanted = seen.cluster.cluster_id
    if not yes and sys.stdin.isatty():
        yes = asked(lambda: str(typer.prompt(f"Type the cluster id ({wanted}) to do this")))
    if yes != wanted:
        raise fail(f"nothing was changed: to do this, say --yes {wanted}", 2)


# What is shown


def document(seen: Seen, plan: Plan | Refused) -> dict[str, Any]:
    nodes = [
        {
            "node": node.member.id,
            "incarnation": node.member.incarnation,
            "end": node.end.sequence,
            "epoch": node.end.epoch,
            "committed": node.told.sequence,
            "promise": node.promise,
            "counter": node.counter,
            "unfit": node.unfit,
        }
        for node in seen.nodes
    ]
    unreachable = [{"address": a.address, "problem": a.problem} for a in seen.answers if a.standing is None]
    facts: dict[str, Any] = {"nodes": nodes, "unreachable": unreachable}
    facts["cluster"] = seen.cluster.cluster_id if seen.cluster is not None else None
    if isinstance(plan, Refused):
        return facts | {"reasons": list(plan.reasons)}
    return facts | {
        "chosen": plan.chosen.member.id if plan.chosen is not None else "tier",
        "lost": {"first": plan.loss.first, "last": plan.loss.last, "records": plan.loss.records},
        "more_may_be_lost": plan.loss.unsure,
        "left_out": [{"node": m.id, "incarnation": m.incarnation} for m in plan.left_out],
        "lost_and_found": rescue.doubtful(seen, plan),
        "change": {"counter": plan.state.change.counter, "epoch": plan.state.epoch, "in_sync": _names(plan.state)},
        "notes": list(plan.notes),
    }


def lines(seen: Seen, plan: Plan | Refused) -> list[str]:
    """The same for people."""
    text = [
        f"{node.member.id}: record {node.end.sequence} of epoch {node.end.epoch} is the end of its log, committed up to"
        f" {node.told.sequence}, promise {node.promise}, change {node.counter}"
        + (f"; it cannot go on: {node.unfit}" if node.unfit else "")
        for node in seen.nodes
    ]
    text += [f"{answer.address}: {answer.problem}" for answer in seen.answers if answer.standing is None]
    if isinstance(plan, Refused):
        return [*text, "", "refused:", *(f"  {reason}" for reason in plan.reasons)]
    return [
        *text,
        "",
        *plan.notes,
        _who(plan),
        *_lost(plan),
        *_saved(seen, plan),
        *_left_out(plan),
        *_change(seen, plan),
    ]


def _who(plan: Plan) -> str:
    if plan.chosen is None:
        return "whoever takes over from the tier goes on"
    return f"{plan.chosen.member.id} goes on, with the log that ends at record {plan.chosen.end.sequence}"


def _lost(plan: Plan) -> list[str]:
    loss = plan.loss
    if loss.records:
        known = (
            f"LOST: records {loss.first} to {loss.last} ({loss.records}) were committed; nobody who answers has them"
        )
    else:
        known = "nothing that anybody here knows to be committed is lost"
    unsure = (
        f"MAY BE LOST: whatever those who are gone acknowledged after record {loss.last}; nobody here knows how much"
    )
    return [known, unsure] if loss.unsure else [known]


def _saved(seen: Seen, plan: Plan) -> list[str]:
    found = rescue.doubtful(seen, plan)
    text = [f"lost+found of {one['node']} has {one['sop_instance_uid']} ({one['name']})" for one in found[:NAMED]]
    more = [f"… and {len(found) - NAMED} more; --json names all"] if len(found) > NAMED else []
    return [*text, *more, *(["`perenne lost-found resubmit` offers them again afterwards"] if found else [])]


def _left_out(plan: Plan) -> list[str]:
    return [
        f"{member.id} may not come back with its disk (incarnation {member.incarnation}): keep it, start with another"
        for member in plan.left_out
    ]


def _change(seen: Seen, plan: Plan) -> list[str]:
    old = seen.found.state.state if seen.found.state is not None else None
    was = f"change {old.change.counter}, epoch {old.epoch}, in sync {_names(old)}" if old else "none"
    new = plan.state
    return [
        f"the cluster state was: {was}",
        f"it becomes:            change {new.change.counter}, epoch {new.epoch}, in sync {_names(new)},"
        f" floor {new.floor.sequence}",
    ]


def _names(state: ClusterState) -> list[str]:
    return sorted(member.id for member in state.in_sync)
