"""Compaction on a simulated node: the production `Compactor`, its daily word and its passes, at another pace.

Its thread is a job that takes as long as its disk operations do; what it writes and renames lies on the simulated disk,
where faults are aimed at it (`faults.py`).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from replication.compacting import Compaction, Compactor, Pace, Plan
from storage.relearning import Relearned, Seen
from storage.rewriting import Compacted

if TYPE_CHECKING:
    from tests.simulation.process import Process

PERMIT_S = (0.3, 2.0)
PACE = Pace(look=0.25, left=1.0, quiet=0.03, patience=0.3)


class SimCompactor(Compactor):
    """Says what it permits, and when it begins and ends to write a segment anew."""

    def __init__(self, process: "Process", undo_us: int) -> None:
        chance = process.world.random
        pace = Pace(
            look=PACE.look,
            left=PACE.left,
            quiet=PACE.quiet,
            patience=PACE.patience,
            first=chance.uniform(*PERMIT_S),
            daily=chance.uniform(*PERMIT_S),
        )
        settings = Compaction(undo_us=undo_us, daily=True, bytes_per_s=0)
        super().__init__(process.replicator, settings, pace=pace, step_back=lambda: None)
        self._process = process
        self.began_at = 0
        """What was durable when the newest rewriting began."""
        prepare, adopt = process.log.prepare_compaction, process.log.adopt_compaction

        def prepared(first: int, covered: dict[int, int], *, bring_back: bool = False) -> Compacted:
            self.began_at = process.log.durable.sequence
            process.observer.rewriting(process)
            return prepare(first, covered, bring_back=bring_back)

        def adopted(compacted: Compacted) -> int:
            freed = adopt(compacted)
            process.observer.compacted(process, compacted)
            return freed

        learn, adopt_relearning = process.log.prepare_relearning, process.log.adopt_relearning

        def learning(first: int, records: Sequence[Seen]) -> Relearned:
            process.observer.rewriting(process)
            return learn(first, records)

        def learned(what: Relearned) -> None:
            adopt_relearning(what)
            process.observer.relearned(process, what)

        setattr(process.log, "prepare_relearning", learning)  # noqa: B010 - a method is replaced on purpose
        setattr(process.log, "adopt_relearning", learned)  # noqa: B010 - as above
        setattr(process.log, "prepare_compaction", prepared)  # noqa: B010 - a method is replaced on purpose
        setattr(process.log, "adopt_compaction", adopted)  # noqa: B010 - as above

    async def plan(self) -> Plan:
        found = await super().plan()
        self._process.observer.may_go(self._process, found.permission.upto)
        return found
