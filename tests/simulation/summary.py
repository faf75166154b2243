"""What many runs came to: counted, kept in a file so that a long campaign resumes, and printed as tables."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.simulation.phases import PHASES
from tests.simulation.run import Result


@dataclass
class Summary:
    """Sums over seeds. next_seed: where a campaign goes on. silent: runs in which nothing was acknowledged."""

    next_seed: int = 0
    clusters: int = 0
    seconds: float = 0.0
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
    silent: int = 0
    struck: dict[str, dict[str, int]] = field(default_factory=dict[str, dict[str, int]])
    violations: dict[int, str] = field(default_factory=dict[int, str])

    def add(self, result: Result) -> None:
        self.clusters += 1
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
        self.silent += not result.acknowledgements
        for (kind, phase), times in result.struck.items():
            of_kind = self.struck.setdefault(kind, {})
            of_kind[phase] = of_kind.get(phase, 0) + times
        if result.violation:
            self.violations[result.seed] = result.violation

    @property
    def faults(self) -> int:
        return sum(sum(phases.values()) for phases in self.struck.values())

    def save(self, path: Path) -> None:
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(self)))
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Summary":
        facts = json.loads(path.read_text())
        facts["violations"] = {int(seed): text for seed, text in facts["violations"].items()}
        return cls(**facts)

    def lines(self) -> list[str]:
        """For people."""
        rate = f"{self.clusters / self.seconds:.1f} a second" if self.seconds else "-"
        found = [
            f"{self.clusters} clusters ({rate}), {self.simulated_ms // 1000} simulated seconds, {self.steps} events",
            f"{self.elections} elections, {self.takeovers} of them through the tier, {self.truncations} truncations,"
            f" {self.segments} segments taken over whole",
            f"{self.packed} segments put into the bucket as one object, {self.replaced} small objects replaced",
            f"{self.acknowledgements} stores and {self.deletes} deletes acknowledged, {self.reads} reads;"
            f" {self.silent} clusters without any",
            f"{self.faults} faults:",
        ]
        for kind in sorted(self.struck):
            phases = self.struck[kind]
            total = sum(phases.values())
            where = ", ".join(f"{phase} {phases[phase]}" for phase in PHASES if phase in phases)
            found.append(f"  {kind.replace('_', ' '):<34} {total:>8}  {where}")
        found.append(f"{len(self.violations)} violations")
        found += [f"  seed {seed}: {text}" for seed, text in sorted(self.violations.items())]
        return found
