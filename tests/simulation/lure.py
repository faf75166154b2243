"""What brings a cluster into a phase that is hunted for, keeps it there, and makes its nodes ask something meanwhile.

For hunts on request alone: the seeds of the others stay what they were.
"""

from collections.abc import Callable

from replication.coordination.port import Watcher
from replication.core import effects as fx
from replication.core.values import TIER_MEMBER, TierMode
from tests.simulation.cluster import Cluster
from tests.simulation.kinds import HARMING
from tests.simulation.machine import Machine
from tests.simulation.phases import OF_A_FORMER_LEADER
from tests.simulation.process import Process

AT_ONCE = 0.3
BEGUN: tuple[tuple[str, tuple[type[fx.Effect], ...]], ...] = (
    ("a put", (fx.PutRun, fx.PackSegment)),
    ("a delete", (fx.DeleteRuns,)),
    ("a listing", (fx.ListTier,)),
    ("a write", (fx.WriteState, fx.CountTier, fx.RecreateLeader)),
)
"""What asks for the requests that a fault strikes."""
LEAD_US = (500_000, 1_500_000)
TELL_US = (500, 5_000, 40_000, 60_000, 100_000, 200_000)
FILLING, REBUILDING = "filling the tier", "rebuilding from the tier"
ABOUT_LEADING = ("standing for election", "promising", "taking the lead", "leader recovering")
OF_COORDINATION = ("a write", "a read", "a watch")


class Lure:
    """Of one run. strike(kind, machine): carries a fault out."""

    def __init__(self, cluster: Cluster, kind: str, phase: str, strike: Callable[[str, Machine], bool]) -> None:
        self._cluster = cluster
        self._kind, self._phase = kind, phase
        self._strike = strike
        self._again_us = 0

    def lead(self) -> None:
        """After each step: now and then, one deed more towards the phase."""
        cluster, chance = self._cluster, self._cluster.chance
        if cluster.world.now_us >= self._again_us:
            self._again_us = cluster.world.now_us + chance.randrange(*LEAD_US)
            cluster.world.at(0, None, self._deed)

    def _deed(self) -> None:
        cluster, chance = self._cluster, self._cluster.chance
        if cluster.healing:
            return
        self._slow_down()
        machines = list(cluster.machines.values())
        if self._kind == "roll_back":
            self._strike("snapshot", chance.choice(machines))
        if self._kind == "mend":
            self._strike("cut_two_ways", chance.choice(machines))
        leader = cluster.leader()
        if leader is None:
            return
        if (self._kind, self._phase) == ("a listing is stale", "leader recovering"):
            self._strike("slow_disk", leader)
            self._alone_with_the_tier(leader, self._expire)  # it leads again before the bucket has answered
        elif self._kind == "a listing is stale" and chance.random() < 0.4:
            self._strike(chance.choice(("switchover", "depose", "expire")), leader)  # who leads anew, lists
        else:
            self._towards(leader)

    def begins(self, process: Process, effects: list[fx.Effect]) -> None:
        """A leader begins what is to be struck when it is in the phase: it may be there before that is over."""
        cluster, node = self._cluster, self._cluster.machines[process.number]
        begun = next((effects for kind, effects in BEGUN if self._kind.startswith(kind)), ())
        began = any(isinstance(effect, begun) for effect in effects) and cluster.leader() is node
        if began and (self._kind, self._phase) == ("a delete applies late", OF_A_FORMER_LEADER):
            # It goes on for longer than it takes to hand over.
            cluster.bucket.slow_us = 400_000
            other = cluster.chance.choice([m for m in cluster.machines.values() if m is not node])
            cluster.world.at(0, None, self._strike, "switchover", other)
        elif began and self._phase != FILLING and not cluster.healing and cluster.chance.random() < AT_ONCE:
            cluster.world.after(cluster.chance.randrange(1, 20_000), None, self._towards, node)

    def _expire(self, node: Machine) -> None:
        """The session ends, and the node notices at once."""
        if node.running is not None and self._strike("expire", node):
            node.running.client.drop_line()

    def _towards(self, leader: Machine) -> None:
        phase, chance = self._phase, self._cluster.chance
        if phase == REBUILDING:
            self._alone_with_the_tier(leader, self._rob)
        elif phase == FILLING:
            self._alone_with_the_tier(leader, lambda leader: self._strike("mend", leader))
        elif phase == OF_A_FORMER_LEADER:
            if chance.random() < 0.3:
                self._expire(leader)
            else:
                self._strike(chance.choice(("switchover", "depose", "cut_off", "cut_off")), leader)
            if self._kind.startswith("a write"):  # one that waits for another, of a leader that is none any more
                other = chance.choice([m for m in self._cluster.machines.values() if m is not leader])
                self._strike(chance.choice(("reset", "kill", "isolate")), other)
        elif phase in ABOUT_LEADING:
            if chance.random() < 0.5:
                self._expire(leader)
            else:
                self._strike(chance.choice(("switchover", "depose", "kill")), leader)
        elif phase == "handing over":
            self._strike(chance.choice(("switchover", "stop")), leader)
        elif phase == "changing the set":
            other = chance.choice([m for m in self._cluster.machines.values() if m is not leader])
            self._strike(chance.choice(("kill", "isolate", "mend")), other)
        elif phase == "truncating or installing":
            other = chance.choice([m for m in self._cluster.machines.values() if m is not leader])
            self._strike(
                *chance.choice((("depose", leader), ("power_in_write", leader), ("wipe", other), ("mend", other)))
            )

    def _alone_with_the_tier(self, leader: Machine, then: Callable[[Machine], object]) -> None:
        """The others leave the set, and the tier comes in."""
        state = self._cluster.state
        if state is None:
            return
        if state.in_sync == frozenset({leader.member, TIER_MEMBER}):
            then(leader)
        elif TIER_MEMBER in state.in_sync and self._cluster.shape.tier is TierMode.STANDBY:
            self._strike("mend", leader)
        else:
            self._strike("isolate", leader)

    def _rob(self, leader: Machine) -> None:
        """Of its lead, and of its disk unless that is in the way: at most one disk is harmed at a time."""
        deposed = 0.8 if self._kind in (*HARMING, "lose_object") else 0.3
        if self._cluster.chance.random() < deposed or not self._strike("wipe", leader):
            self._strike("depose", leader)
        else:
            self._strike("mend", leader)

    def _slow_down(self) -> None:
        """A phase that waits for the coordination service, or for the bucket, lasts longer."""
        cluster, chance = self._cluster, self._cluster.chance
        cluster.service.slow_us = chance.choice((0, 5_000, 20_000, 60_000))
        if self._kind == "a read is stale":
            cluster.service.slow_us //= 10
            cluster.service.weights.unanswered = 0.3  # then it is read what came of it
        if self._kind.startswith(("a put", "a delete", "a listing")):
            slow_us = (0, 60_000, 150_000) if self._kind == "a delete applies late" else (60_000, 150_000, 400_000)
            cluster.bucket.slow_us = chance.choice(slow_us)
        elif self._phase in (FILLING, REBUILDING):
            cluster.bucket.slow_us = chance.choice((0, 20_000, 60_000, 150_000))

    def provoke(self, node: Machine) -> None:
        """A node is in the phase, and what it asks next would be struck: let it ask."""
        cluster, chance = self._cluster, self._cluster.chance
        if self._kind == "a listing is stale":
            cluster.world.at(0, None, self._strike, "rot", node)
        elif self._kind.startswith(OF_COORDINATION):
            other = chance.choice([m for m in cluster.machines.values() if m is not node])
            if self._kind == "a read is stale":
                cluster.service.put(cluster.service.now)  # somebody wrote something, which a stale read does not show
            elif chance.random() < 0.7:  # a leader names itself anew
                cluster.world.at(0, None, self._expire, node if chance.random() < 0.8 else other)
            for delay_us in TELL_US:
                cluster.world.after(delay_us, None, cluster.service.tell, _look_again)


def _look_again(watcher: Watcher) -> None:
    watcher.state_changed()
