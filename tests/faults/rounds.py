"""Rounds: senders store without pause, one fault strikes, everything heals, the judge compares.

A cluster lives for some rounds, then a new one begins, so that logs stay short enough to extract again and again.
"""

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from perenne.journal import Journal, digest_of
from perenne.local.cluster import LocalNode
from perenne.local.processes import DidNotStart
from replication.tier.port import TierError
from storage.digest import part10_meta_length
from tests.faults.arena import Arena, FaultFailed, Unavailable, wipe
from tests.faults.fault import Fault
from tests.faults.judge import BucketHoldings, copies, debts_of, holdings, missing, served
from tests.faults.namespaces import NamespacedArena
from tests.faults.operator import Operator
from tests.faults.senders import PAUSE_S, Senders
from tests.faults.tiered import TieredArena

SENDERS: Final = 3
CALM_S: Final = 1.5


@dataclass(slots=True)
class Outcome:
    """One round. acknowledged: since this cluster began. copies: acknowledged data sets by the replicas that hold them.

    violations: sentences; none may ever be written. skipped: why the fault could not be produced here. tier: its mode,
    empty without one. struck: requests to the bucket that met a fault. late_puts: that were held, and then done.
    done: what an operator did meanwhile, counted.
    """

    number: int
    fault: str
    seed: int
    ensemble: bool
    acknowledged: int = 0
    acknowledged_in_round: int = 0
    refused: int = 0
    broken: int = 0
    pause_s: float = 0.0
    seconds: float = 0.0
    copies: dict[str, int] = field(default_factory=dict[str, int])
    lost: int = 0
    altered: int = 0
    reads: int = 0
    violations: list[str] = field(default_factory=list[str])
    skipped: str = ""
    tier: str = ""
    nodes: int = 3
    struck: int = 0
    late_puts: int = 0
    done: dict[str, int] = field(default_factory=dict[str, int])


class Rounds:
    """Plays rounds on one cluster. alive: whether it can play another.

    namespaces: whether every party has a network namespace; raises Unavailable where that cannot be. tier: whether
    there is a bucket. made: an arena to use instead of one that is drawn. pause_s: between two stores of one sender.
    """

    def __init__(
        self,
        directory: Path,
        *,
        seed: int,
        ensemble: bool,
        namespaces: bool = False,
        tier: bool = False,
        made: Arena | None = None,
        pause_s: float = PAUSE_S,
    ) -> None:
        self.directory = directory
        self.seed = seed
        self.ensemble = ensemble
        self.alive = True
        self._pause_s = pause_s
        kind = NamespacedArena if namespaces else TieredArena if tier else Arena
        self._arena = made or kind(directory, seed=seed, ensemble=ensemble)
        self._bucket: BucketHoldings | None = None
        self._journal_path = directory / "journal.jsonl"
        directory.mkdir(parents=True, exist_ok=True)
        self._journal = Journal(self._journal_path)
        self._next = 0
        self.played = 0
        try:
            self._arena.begin()
        except BaseException:  # Ctrl-C as well: no server may outlive it; it is raised again
            self.end()
            raise

    def end(self) -> None:
        self._arena.end()
        self._journal.close()

    def play(self, number: int, fault: Fault) -> Outcome:
        """One round, from calm to judgement. What goes wrong is in the outcome, never raised."""
        arena = self._arena
        outcome = Outcome(number, fault.name, self.seed, self.ensemble, nodes=arena.size)
        tiered = arena if isinstance(arena, TieredArena) else None
        before = (tiered.struck(), tiered.store_lines.late) if tiered is not None else (0, 0)
        began = time.monotonic()
        senders = Senders(
            self._arena.nodes,
            self._journal,
            first=self._next,
            count=SENDERS,
            seed=self.seed * 1000 + number,
            pause_s=self._pause_s,
        )
        operator = arena.at_hand = Operator(arena, self._journal, self._journal_path, senders)
        try:
            time.sleep(CALM_S)
            new_disks = self._strike(fault, outcome, senders)
            if not fault.fatal and not outcome.skipped:
                self._heal(outcome, new_disks, senders)
        finally:
            outcome.pause_s = round(senders.longest_pause(began + CALM_S), 3)
            senders.stop()
            self._next = senders.next_number
        outcome.acknowledged_in_round, outcome.refused, outcome.broken = (
            senders.acknowledged,
            senders.refused,
            senders.broken,
        )
        if senders.acknowledged == 0:
            outcome.violations.append("nothing was acknowledged: the round proves nothing")
        self._judge(outcome, fault)
        if tiered is not None:
            outcome.tier = tiered.mode
            outcome.struck, outcome.late_puts = tiered.struck() - before[0], tiered.store_lines.late - before[1]
            if not fault.fatal:
                self._judge_bucket(tiered, outcome)
        outcome.done = dict(operator.done)
        outcome.seconds = round(time.monotonic() - began, 1)
        self.alive = self.alive and not fault.fatal and not outcome.violations
        self.played += 1
        return outcome

    def _strike(self, fault: Fault, outcome: Outcome, senders: Senders) -> list[LocalNode]:
        reader = Reader(self._arena, senders, outcome)
        try:
            with reader:
                return fault.act(self._arena) or []
        except Unavailable as why:
            outcome.skipped = str(why)
            return []
        except (DidNotStart, FaultFailed) as error:
            outcome.violations.append(f"while it lasted: {error}")
            return []

    def _heal(self, outcome: Outcome, new_disks: list[LocalNode], senders: Senders) -> None:
        arena = self._arena
        try:
            arena.heal()
            for node in new_disks:
                arena.process(node).kill()
                wipe(node)
                arena.start_node(node)
            arena.wait_whole()
            before = senders.acknowledged
            arena.wait_for(lambda: senders.acknowledged > before + 5, "stores are acknowledged again", 30)
            arena.operator.finish()
        except (DidNotStart, FaultFailed) as error:
            outcome.violations.append(f"it did not heal: {error}")
            self.alive = False

    def _judge(self, outcome: Outcome, fault: Fault) -> None:
        arena = self._arena
        debts = debts_of(self._journal_path)
        outcome.acknowledged = sum(len(debt.datasets) for debt in debts.values())
        answering = [node for node in arena.nodes if node.alive]
        findings = served(answering, debts)
        outcome.altered += len(findings.altered)
        if findings.lost or findings.altered:
            outcome.violations.append(f"served: {findings.lost[:3]} lost, {findings.altered[:3]} altered")
        if findings.returned:
            outcome.violations.append(f"served although it was deleted: {findings.returned[:3]}")
        if findings.unavailable and not fault.fatal:
            reasons = findings.reasons.most_common(3)
            outcome.violations.append(f"healed, and yet {len(findings.unavailable)} had no answer: {reasons}")
        least = 1 if fault.fatal else 2
        found = copies(debts, [holdings(node) for node in arena.nodes])
        outcome.copies = {str(on): count for on, count in sorted(found.items())}
        outcome.lost = sum(count for on, count in found.items() if on < least)
        if outcome.lost:
            outcome.violations.append(f"{outcome.lost} acknowledged data sets lie on fewer than {least} disks")

    def _judge_bucket(self, arena: TieredArena, outcome: Outcome) -> None:
        """What the tier claims to hold, it holds: every acknowledged data set, as plain tar extracts it."""
        self._bucket = self._bucket or BucketHoldings(arena.direct)
        try:
            arena.wait_followed()
            absent = missing(debts_of(self._journal_path), self._bucket.look(arena.runs))
        except (DidNotStart, TierError) as error:
            outcome.violations.append(f"the bucket cannot be judged: {error}")
            return
        if absent:
            outcome.violations.append(f"{len(absent)} acknowledged instances are not in the bucket: {absent[:3]}")


class Reader:
    """Asks for acknowledged instances while a fault lasts: 404 or other bytes are lies, silence is none."""

    def __init__(self, arena: Arena, senders: Senders, outcome: Outcome) -> None:
        self._arena = arena
        self._senders = senders
        self._outcome = outcome
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._read()
        except Exception as error:  # noqa: BLE001 - a thread that ends unnoticed would judge nothing any more
            self._outcome.violations.append(f"the reader ended: {error!r}")

    def _read(self) -> None:
        while not self._stopping.wait(0.01):
            kept = self._senders.some_acknowledged()
            if kept is None or self._senders.paused:
                continue
            node = self._arena.chance.choice(self._arena.nodes)
            status, content = node.get(f"/instances/{kept.uid}", timeout=3)
            self._outcome.reads += 1
            if status in (404, 410) and self._senders.keeps(kept):
                said = "does not exist" if status == 404 else "was deleted"
                self._outcome.violations.append(f"{node.id} said that the acknowledged {kept.uid} {said}")
            elif status == 200 and digest_of(memoryview(content)[part10_meta_length(content) :]) != kept.digest:
                self._outcome.altered += 1
                self._outcome.violations.append(f"{node.id} served {kept.uid} altered")
