"""What many runs came to: counted, kept in a file so that a long campaign resumes, and printed as tables."""

import json
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path

import msgspec

from tests.simulation.hunt import Quarry
from tests.simulation.kinds import BEYOND, KINDS
from tests.simulation.phases import PHASES, can_occur
from tests.simulation.run import Result

WANTED = 100
"""How often each pair of kind and phase is to occur in a long run."""
SHOWN = 20
"""So many pairs that never occurred are named: more are those of a short run."""
PATIENCE = 4
"""So many hunts in vain count as much as one success when it is decided what is hunted next."""


HARMLESS = ("mend", "snapshot")
"""Drawn like faults, and none: what an operator mends, and a backup, to which a later fault goes back."""


@dataclass
class Summary:
    """Sums over seeds. next_seed: where a campaign goes on. proved: runs in which something was acknowledged
    before everything healed: the others prove nothing of the promise.

    hunted: how often each pair, written kind@phase, was hunted on purpose. commits: what the source was, in turn.
    asked: the options of the runs.
    """

    next_seed: int = 0
    clusters: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    steps: int = 0
    simulated_ms: int = 0
    elections: int = 0
    takeovers: int = 0
    acknowledgements: int = 0
    reads: int = 0
    truncations: int = 0
    segments: int = 0
    packed: int = 0
    replaced: int = 0
    deletes: int = 0
    scrubs: int = 0
    mended: int = 0
    evicted: int = 0
    rewritten: int = 0
    stubs: int = 0
    relearned: int = 0
    brought_back: int = 0
    undone: int = 0
    ranges: int = 0
    rebuilt: int = 0
    failovers: int = 0
    forgotten: int = 0
    unsure: int = 0
    proved: int = 0
    struck: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    hunted: dict[str, int] = field(default_factory=dict[str, int])
    violations: dict[int, str] = field(default_factory=dict[int, str])
    commits: list[str] = field(default_factory=list[str])
    asked: list[str] = field(default_factory=list[str])

    def add(self, result: Result) -> None:
        self.clusters += 1
        self.cpu_seconds += result.cpu_seconds
        if result.order.quarry is not None:
            hunted = "@".join(result.order.quarry)
            self.hunted[hunted] = self.hunted.get(hunted, 0) + 1
        self.steps += result.steps
        self.simulated_ms += result.simulated_ms
        self.elections += result.elections
        self.takeovers += result.takeovers
        self.acknowledgements += result.acknowledgements
        self.reads += result.reads
        self.truncations += result.truncations
        self.segments += result.segments
        self.packed += result.packed
        self.replaced += result.replaced
        self.deletes += result.deletes
        self.scrubs += result.scrubs
        self.mended += result.mended
        self.evicted += result.evicted
        self.rewritten += result.rewritten
        self.stubs += result.stubs
        self.relearned += result.relearned
        self.brought_back += result.brought_back
        self.undone += result.undone
        self.ranges += result.ranges
        self.rebuilt += result.rebuilt
        self.failovers += result.failovers
        self.forgotten += result.forgotten
        self.unsure += result.unsure
        self.proved += result.before_healing > 0
        asked = result.order.asked.strip() or "no options"
        if asked not in self.asked:
            self.asked.append(asked)
        for (kind, phase), times in result.struck.items():
            assert can_occur(kind, phase), f"{kind} is counted at {phase}: phases.can_occur says that it never is"
            of_kind = self.struck.setdefault(kind, {})
            of_kind[phase] = of_kind.get(phase, 0) + times
        if result.violation:
            self.violations[result.order.seed] = f"{result.violation}  # script/simulate {result.order.arguments}"

    @property
    def faults(self) -> int:
        return sum(sum(phases.values()) for kind, phases in self.struck.items() if kind not in HARMLESS)

    def possible(self) -> list[Quarry]:
        """Pairs that can occur, of the kinds that struck at all: others are not drawn with these options."""
        return [(kind, phase) for kind in self.struck for phase in PHASES if can_occur(kind, phase)]

    def times(self, pair: Quarry) -> int:
        return self.struck.get(pair[0], {}).get(pair[1], 0)

    def rare(self) -> list[Quarry]:
        """Pairs that occurred less often than wanted, or never: the one to be hunted next comes first."""

        def urgency(pair: Quarry) -> float:
            return self.times(pair) + self.hunted.get("@".join(pair), 0) / PATIENCE

        return sorted((pair for pair in self.possible() if self.times(pair) < WANTED), key=urgency)

    def save(self, path: Path) -> None:
        temporary = path.with_name(f"{path.name}.new")
        temporary.write_text(json.dumps(asdict(self)))
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Summary":
        """Raises OSError, and ValueError when it is something else."""
        try:
            facts = json.loads(path.read_text())
            if "violations" not in facts:
                raise KeyError("violations")
            return msgspec.convert(facts, cls, str_keys=True)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} holds no counts of this simulator ({type(error).__name__}: {error})") from error

    def lines(self) -> list[str]:
        """For people."""
        rate = f"{self.clusters / self.seconds:.1f} a second" if self.seconds else "-"
        each = f"{self.clusters / self.cpu_seconds:.1f} a core-second" if self.cpu_seconds else "-"
        pairs = sum(len(phases) for phases in self.struck.values())
        found = [
            f"{self.clusters} clusters ({rate}, {each}), {self.simulated_ms // 1000} simulated seconds,"
            f" {self.steps} events",
            f"{self.elections} elections, {self.takeovers} of them through the tier, {self.truncations} truncations,"
            f" {self.segments} segments taken over whole",
            f"{self.packed} segments put into the bucket as one object, {self.replaced} small objects replaced",
            f"{self.scrubs} passes of a scrub, {self.mended} harmed disks mended",
            f"{self.evicted} segments evicted, {self.ranges} ranges of them read back",
            f"{self.rewritten} segments compacted, {self.stubs} payloads taken away in them;"
            f" {self.undone} instances stored anew before that",
            f"{self.relearned} times an evicted segment got the places of a new object, {self.brought_back} came back",
            f"{self.acknowledgements} stores and {self.deletes} deletes acknowledged, {self.reads} reads;"
            f" {self.proved} clusters acknowledged something before they healed",
            f"{self.rebuilt} cluster states rebuilt, {self.failovers} losses accepted, {self.forgotten} committed"
            f" records lost by them as the plans said; {self.unsure} of the plans could not tell all that is lost",
            f"{self.faults} faults; {' and '.join(HARMLESS)}, which are none, are listed among them:",
        ]
        for kind in sorted(self.struck):
            phases = self.struck[kind]
            total = sum(phases.values())
            where = ", ".join(f"{phase} {phases[phase]}" for phase in PHASES if phase in phases)
            found.append(f"  {kind.replace('_', ' '):<34} {total:>8}  {where}")
        never = sorted("@".join(pair) for pair in self.possible() if not self.times(pair))
        found.append(
            f"{pairs} pairs of fault and phase occurred, of {len(self.possible())} that can;"
            f" {len(self.rare())} less than {WANTED} times"
        )
        if 0 < len(never) <= SHOWN:
            found.append(f"never: {', '.join(never)}")
        if unseen := sorted({*KINDS} - {*BEYOND, *self.struck}):
            found.append(f"not struck at all: {', '.join(unseen)}")
        if self.commits:
            found.append(f"at commit {', '.join(self.commits)}; with {', '.join(self.asked)}")
        found.append(f"{len(self.violations)} violations")
        found += [f"  seed {seed}: {text}" for seed, text in sorted(self.violations.items())]
        return found


def source_of(directory: Path) -> str:
    """Which commit runs, and whether anything differs from it: a count says nothing of another source."""
    asked = ["git", "describe", "--always", "--exclude=*", "--dirty=, changed since"]
    done = subprocess.run(asked, cwd=directory, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown: no git repository here"
