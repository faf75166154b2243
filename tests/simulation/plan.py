"""What one run is to be: everything that is drawn from a seed before the clock starts, or asked for beside it."""

from dataclasses import dataclass, replace
from random import Random

from replication.core.situation import ConflictPolicy
from replication.core.values import TierMode
from tests.simulation.cluster import Shape
from tests.simulation.hunt import AT_THE_BUCKET, Quarry
from tests.simulation.kinds import BEYOND, HARMING, KINDS, OF_THE_BUCKET
from tests.simulation.lure import FILLING, REBUILDING
from tests.simulation.phases import OF_A_FORMER_LEADER, OF_A_NODE, PHASES
from tests.simulation.workload import Load

RARE = {"old_backup": 0.04, "lose_history": 0.02, "site_power": 0.3}
"""Chance that a seed knows such a fault at all; 0.5 for the others."""
ONCE = ("old_backup", "lose_history", *BEYOND)
"""Strike once per run at most."""
OF_THE_TIER = (REBUILDING, FILLING)
SELDOM = {
    "truncating or installing": 12,
    "rebuilding from the tier": 6,
    "taking the lead": 4,
    "filling the tier": 3,
    "promising": 2,
    "handing over": 2,
    "leader recovering": 2,
}
"""How much more often than the others a phase is hunted for."""
LEADS_TO = {
    "truncating or installing": ("wipe", "depose", "power_in_write", "isolate"),
    "rebuilding from the tier": ("isolate", "wipe", "site_power"),
    "filling the tier": ("isolate", "kill"),
    "taking the lead": ("kill", "expire"),
    "promising": ("kill", "expire"),
    "leader recovering": ("kill", "depose"),
    "handing over": ("switchover", "stop"),
}
"""Faults that bring a cluster into a phase."""


@dataclass(frozen=True)
class Order:
    """One run to be made. quarry: what is hunted, instead of what the seed draws. small: at small scope.
    scrubs: nodes may scrub, and mend what was harmed; and evict. Asked for while seeds of it are open (docs/proof.md).
    compacts: nodes compact. head_start: faults begin once something was acknowledged; where they begin at once, many a
    cluster promises nothing before it heals. Both are asked for, so that the other runs are what they were.
    """

    seed: int
    quarry: Quarry | None = None
    small: bool = False
    scrubs: bool = False
    compacts: bool = False
    head_start: bool = False

    @property
    def arguments(self) -> str:
        """For the command line."""
        hunt = f' --quarry "{"@".join(self.quarry)}"' if self.quarry is not None else ""
        return f"--seed {self.seed}{hunt}{self.asked}"

    @property
    def asked(self) -> str:
        """What was asked for beside the seed, as options; each behind a space."""
        asked = {"--small": self.small, "--scrub": self.scrubs, "--compact": self.compacts}
        asked["--head-start"] = self.head_start
        return "".join(f" {name}" for name, on in asked.items() if on)


@dataclass(frozen=True)
class Plan:
    """Everything that is drawn from a seed before the clock starts."""

    shape: Shape
    load: Load
    weights: dict[str, float]
    pause_ms: float
    ambush: float
    faulty_ms: int
    quarry: Quarry | None

    @classmethod
    def of(cls, order: Order) -> "Plan":
        """Draw the weights themselves, so that one seed is all partitions and another all power cuts."""
        chance = Random(f"plan {order.seed}")
        kinds = [kind for kind in KINDS if kind not in BEYOND]
        weights = {kind: chance.expovariate(1) for kind in kinds if chance.random() < RARE.get(kind, 0.5)}
        for kind in RARE.keys() & weights.keys():
            weights[kind] *= 0.1
        if "roll_back" in weights:
            weights["snapshot"] = weights["roll_back"]
        dangerous = {"roll_back", "lost_write", "misdirected_write", "flip_bit", "rot"} & weights.keys()
        nodes = chance.choice((2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 4, 4, 5))
        shape = Shape(
            nodes=nodes,
            session_ms=chance.choice((1000, 2000, 2000, 4000)),
            stall_ms=chance.choice((400, 1000, 2000)),
            copies_required=3 if nodes > 2 and chance.random() < 0.1 else 2,
            policy=chance.choice(list(ConflictPolicy)),
            strict=bool(dangerous),
            tier=chance.choice((TierMode.OFF, TierMode.OFF, TierMode.STANDBY, TierMode.STANDBY, TierMode.SYNCHRONOUS)),
        )
        load = Load(
            senders=chance.choice((1, 1, 2, 3)),
            pause_ms=chance.choice((40, 100, 250)),
            bulk=chance.choice((1, 1, 1, 6)),
        )
        plan = cls(
            shape=shape,
            load=load,
            weights=weights,
            pause_ms=chance.choice((15, 25, 40, 60, 120, 400)),
            ambush=chance.choice((0.0, 0.0, 0.01, 0.05)),
            faulty_ms=chance.choice((1500, 2500, 4000, 8000, 16_000)),
            quarry=_quarry(chance, weights, shape.tier),
        )
        if order.quarry is not None:
            plan = plan.hunting(*order.quarry)
        if plan.quarry is not None:
            # What is hunted shows itself only where not too much else goes wrong, and only if something leads to it.
            for kind in LEADS_TO.get(plan.quarry[1], ()):
                weights.setdefault(kind, 1.0)
            calmer = max(plan.pause_ms, chance.choice((120.0, 250.0, 400.0)))
            plan = replace(plan, pause_ms=calmer, faulty_ms=16_000)
        if order.scrubs:
            plan = plan.beyond(Random(f"beyond {order.seed}"))
            plan = plan.evicting(Random(f"evicting {order.seed}"))
            plan = plan.scrubbing(Random(f"scrubbing {order.seed}"))
        plan = plan.deleting(chance.choice((0.0, 0.05, 0.15, 0.4)))
        if order.compacts:
            plan = plan.compacting(Random(f"compacting {order.seed}"))
        return plan.small() if order.small else plan

    def hunting(self, kind: str, phase: str) -> "Plan":
        needs_tier = kind in OF_THE_BUCKET or kind in AT_THE_BUCKET or phase in OF_THE_TIER
        shape = self.shape
        if needs_tier and shape.tier is TierMode.OFF:
            shape = replace(shape, tier=TierMode.STANDBY)
        _make_way(kind, self.weights)
        if phase == OF_A_FORMER_LEADER and shape.tier is not TierMode.OFF:
            shape = replace(shape, tier=TierMode.SYNCHRONOUS)  # there is always a put and a write under way
        if phase == FILLING:
            shape = replace(shape, tier=TierMode.STANDBY)
        load = replace(self.load, bulk=6, senders=3, pause_ms=40) if kind == "a delete applies late" else self.load
        if kind in (*HARMING, *ONCE) and phase != "truncating or installing":
            for other in HARMING:  # at most one disk is harmed at a time, and none where the service goes back
                self.weights.pop(other, None)
        return replace(self, quarry=(kind, phase), shape=shape, load=load)

    def small(self) -> "Plan":
        """The scope in which most bugs show themselves already: few nodes, one sender, a short time of faults, and
        nothing that takes its time: no scrub, no eviction.
        """
        nodes = min(3, self.shape.nodes)
        shape = replace(self.shape, nodes=nodes, copies_required=2, scrubs=False, evicting=frozenset[int]())
        load = replace(self.load, senders=1, bulk=1)
        return replace(self, shape=shape, load=load, faulty_ms=min(2500, self.faulty_ms), quarry=None)

    def beyond(self, chance: Random) -> "Plan":
        """Few clusters with enough nodes lose more disks than the promise covers."""
        if self.shape.nodes > 2 and chance.random() < 0.06:
            for kind in ("isolate", "kill"):
                self.weights.setdefault(kind, 1.0)
            self.weights.update(dict.fromkeys(BEYOND, max(self.weights.values())))
        return self

    def evicting(self, chance: Random) -> "Plan":
        """Half of the clusters with a tier: some of their nodes, or all, let go of what the bucket holds."""
        if self.shape.tier is TierMode.OFF or chance.random() < 0.5:
            return self
        numbers = range(1, self.shape.nodes + 1)
        evicting = frozenset(chance.sample(numbers, chance.randrange(1, self.shape.nodes + 1)))
        load = replace(self.load, bulk=max(self.load.bulk, chance.choice((1, 6))))
        return replace(self, shape=replace(self.shape, evicting=evicting), load=load)

    def scrubbing(self, chance: Random) -> "Plan":
        """One cluster in three; more where bits flip."""
        flips = {"flip_bit", "rot"} & self.weights.keys()
        return replace(self, shape=replace(self.shape, scrubs=chance.random() < (0.6 if flips else 0.2)))

    def compacting(self, chance: Random) -> "Plan":
        """Every node compacts, so there is much to delete, and segments fill up while there is time. Some evict."""
        shape = replace(self.shape, undo_us=chance.choice((0, 200_000, 1_000_000)))
        load = replace(
            self.load,
            delete=max(self.load.delete, chance.choice((0.15, 0.4, 0.8))),
            bulk=max(self.load.bulk, chance.choice((1, 6))),
            pause_ms=min(self.load.pause_ms, 100),
            hold=chance.choice((0.0, 0.0, 0.0, 0.03)),
            undo=chance.choice((0.0, 0.02, 0.1)),
        )
        faulty_ms = max(self.faulty_ms, chance.choice((4000, 8000)))
        if shape.tier is not TierMode.OFF and not shape.evicting and chance.random() < 0.7:
            # Not all: where everybody would evict nobody may.
            lean = chance.sample(range(1, shape.nodes + 1), chance.randrange(1, shape.nodes))
            shape = replace(shape, evicting=frozenset(lean))
        return replace(self, shape=shape, load=load, faulty_ms=faulty_ms)

    def deleting(self, share: float) -> "Plan":
        return replace(self, load=replace(self.load, delete=share))


def _make_way(kind: str, weights: dict[str, float]) -> None:
    """Nothing else uses up what strikes once, and there is something to go back to."""
    if kind in ONCE:
        weights.pop(kind, None)
    if kind == "roll_back":
        weights.setdefault("snapshot", 1.0)


def _quarry(chance: Random, weights: dict[str, float], tier: TierMode) -> Quarry | None:
    """One seed in three hunts for a pair of kind and phase, the ones that chance seldom brings together most often."""
    if chance.random() > 1 / 3:
        return None
    kinds = [kind for kind in KINDS if kind not in BEYOND and (tier is not TierMode.OFF or kind not in OF_THE_BUCKET)]
    kind = chance.choices(kinds, [6 if kind in ONCE else 1 for kind in kinds])[0]
    phases = [phase for phase in PHASES if tier is not TierMode.OFF or phase not in OF_THE_TIER]
    phases.remove(OF_A_NODE)
    phases.remove(OF_A_FORMER_LEADER)
    phase = chance.choices(phases, [SELDOM.get(phase, 1) for phase in phases])[0]
    _make_way(kind, weights)
    return kind, phase
