"""The operator of `perenne coordination rebuild` and `perenne failover --accept-loss`: looks, plans, agrees and writes.

What looks, decides and writes is the production code; here is only what carries an answer from a simulated node, and
what a person does with a refusal: waits, starts what does not run, gives up a disk that does not open any more, and
accepts a loss when there is no other way.
"""

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from perenne.rescue import Seen, plan_failover, plan_rebuild, same
from perenne.survey import Answer, bucket
from replication.coordination.surgery import Interfered
from replication.core.rescue import Bucket, Plan, Refused
from replication.core.values import TIER, TIER_MEMBER, TierMode
from replication.standing import read
from replication.tier.port import BlockingStore, Page
from storage.position import GENESIS, LogPoint, LogPosition
from tests.simulation.process import Process
from tests.simulation.tree import Hand, Tree

if TYPE_CHECKING:
    from tests.simulation.cluster import Cluster

LOOK_US = (500_000, 3_000_000)
MENDED_US = 12_000_000
"""What nodes and tier have of each other's damaged records is back by then: a round of the mender takes 5 s."""
AGREE_US = 2_000_000
"""A person reads the plan before saying yes, for up to so long."""


@dataclass(frozen=True)
class Names:
    """What lies in the bucket, as far as its names say: that is all that the verbs ask of it."""

    keys: tuple[str, ...]

    def list_page(self, prefix: str, after: str) -> Page:
        return Page(tuple(key for key in self.keys if key.startswith(prefix) and key > after), more=False)


@dataclass
class Rescuer:
    """Of one cluster. why: the last refusal. rebuilt, failed_over: plans carried out. forgotten: committed records that
    were lost by them, as they said.
    """

    cluster: "Cluster"
    why: tuple[str, ...] = ()
    rebuilt: int = 0
    failed_over: int = 0
    forgotten: int = 0
    unsure: int = 0
    given_up: set[str] = field(default_factory=set[str])
    unknown: set[str] = field(default_factory=set[str])
    """Nodes that a refusal says nobody knows."""
    damaged_since_us: int = 0

    @property
    def nobody_can(self) -> bool:
        """Whether nobody has led for a while, in which each node in the set said that its log is damaged, and nobody
        mended it: `failover --accept-loss` is for that as well.
        """
        now_us = self.cluster.world.now_us
        if not self._all_damaged():
            self.damaged_since_us = now_us
        return now_us - self.damaged_since_us > MENDED_US

    def _all_damaged(self) -> bool:
        cluster = self.cluster
        if cluster.state is None or cluster.leader() is not None or TIER_MEMBER in cluster.state.in_sync:
            return False
        members = [machine for machine in cluster.machines.values() if machine.member in cluster.state.in_sync]
        running = [machine.running for machine in members]
        return len(members) == len(cluster.state.in_sync) and all(
            process is not None and bool(process.log.damaged()) for process in running
        )

    @property
    def needed(self) -> bool:
        checks = self.cluster.checks
        if checks.bereft and self.cluster.leader() is not None:
            checks.bereft = False  # somebody held everything after all
        return checks.restored or checks.bereft

    def begin(self) -> None:
        self._later()

    def _later(self) -> None:
        self.cluster.world.after(self.cluster.chance.randrange(*LOOK_US), None, self._attempt)

    def _attempt(self) -> None:
        if not self.needed:
            return
        _, plan = self._decided()
        if isinstance(plan, Refused):
            self.why = plan.reasons
            self._heed(plan)
            self._later()
            return
        delay = self.cluster.chance.randrange(AGREE_US)
        self.cluster.world.after(delay, None, self._agreed, plan)

    def _decided(self) -> tuple[Seen, Plan | Refused]:
        hand = Hand(Tree(self.cluster.service, lambda: None))
        answers = [answer(machine.running) for machine in self.cluster.machines.values() if machine.running is not None]
        seen = Seen(found=hand.look(), answers=answers)
        return seen, self.plan(seen)

    def _agreed(self, agreed: Plan) -> None:
        """Everybody is asked once more, as by `perenne.cli.rescuing`."""
        seen, plan = self._decided()
        if isinstance(plan, Refused) or not same(agreed, plan):
            self.why = ("what would be done is no longer what was shown",)
            self._later()
            return
        self._carry_out(seen, plan)

    def plan(self, seen: Seen) -> Plan | Refused:
        """What a person would agree to, in the end."""
        without = self._without()
        tier = self._bucket() if TIER not in without else None
        if not self.cluster.checks.restored:
            return plan_failover(seen, without, tier)
        plan = plan_rebuild(seen, without, tier, accept_loss=False)
        offered = isinstance(plan, Refused) and any("--accept-loss" in reason for reason in plan.reasons)
        if offered and self._everybody_asked():
            plan = plan_rebuild(seen, without, tier, accept_loss=True)
        return plan

    def _everybody_asked(self) -> bool:
        """Whoever can run does: no loss is accepted for the sake of one that was merely not started."""
        return all(machine.running is not None or machine.stops for machine in self.cluster.machines.values())

    def _without(self) -> set[str]:
        """Disks that do not open any more, and whoever a refusal named; a bucket that lost what it had confirmed."""
        broken = {machine.name for machine in self.cluster.machines.values() if machine.stops and machine.harm}
        return (broken - self.unknown) | self.given_up | ({TIER} if self.cluster.bucket.harm else set[str]())

    def _bucket(self) -> Bucket | None:
        if self.cluster.shape.tier is TierMode.OFF:
            return None
        return bucket(cast(BlockingStore, Names(tuple(sorted(self.cluster.bucket.objects)))))

    def _heed(self, refused: Refused) -> None:
        """Stop a node that would freeze its new leader, and keep its disk, as the refusal says; name nobody of whom the
        service knows nothing any more.
        """
        for machine in self.cluster.machines.values():
            if any(f"--without {machine.name}: no such node" in why for why in refused.reasons):
                self.unknown.add(machine.name)
            if any(f"--without {machine.name}" in why and "keep its disk" in why for why in refused.reasons):
                self.cluster.world.say(machine.name, "is given up, and its disk kept")
                self.given_up.add(machine.name)
                machine.stops = "given up"
                if machine.process is not None:
                    machine.process.kill()

    def _carry_out(self, seen: Seen, plan: Plan) -> None:
        cluster = self.cluster
        loss = plan.loss
        lost = f"records {loss.first} to {loss.last} lost" if loss.records else "nothing known is lost"
        who = plan.chosen.member.id if plan.chosen is not None else TIER
        what = f"{who} is to go on, {lost}{', more may be' if loss.unsure else ''}"
        rebuilding = cluster.checks.restored

        def judge() -> None:
            cluster.world.say("op", what)
            self.forgotten += cluster.checks.rescued(plan, self._tip(plan))
            self.unsure += plan.loss.unsure

        hand = Hand(Tree(cluster.service, judge))
        assert seen.cluster is not None
        try:
            hand.write(seen.found, cluster=seen.cluster, state=plan.state, left_out=plan.left_out)
        except Interfered as interfered:
            self.why = (str(interfered),)
            self._later()
            return
        self.rebuilt += rebuilding
        self.failed_over += not rebuilding
        for machine in cluster.machines.values():
            if machine.name in self.given_up:
                cluster.replace_disk(machine)
        self.given_up.clear()

    def _tip(self, plan: Plan) -> LogPoint:
        """The end of what goes on."""
        if plan.chosen is not None:
            return plan.chosen.end
        history = self.cluster.checks.history
        tip = cast(Bucket, self._bucket()).tip
        return LogPoint(tip, history.at[tip]) if tip != LogPosition(0, 0) else GENESIS


def answer(process: Process) -> Answer:
    """What a node says at `/standing`, over the wire."""
    facts = json.loads(json.dumps(process.reported.facts()))
    cluster, standing = read(facts)
    return Answer(address=process.name, cluster=cluster, standing=standing)
