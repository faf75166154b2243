"""A bucket by hand: it answers the one real node what the test says, and nothing before the test says it."""

from dataclasses import replace
from typing import TypeVar

from replication.core import effects as fx
from replication.core import events as ev
from replication.core.values import TIER_MEMBER, CasOutcome, ClusterState, TierClaim, TierFloor
from replication.tier.contents import Link
from replication.tier.keys import WHOLE, Form, Run, run_name
from storage.position import GENESIS, LogPoint
from tests.core.paper_cluster import STEP_MS
from tests.core.paper_disk import PaperDisk, PaperLog
from tests.core.paper_node import PaperNode

E = TypeVar("E", bound=fx.Effect)


def claimed(state: ClusterState, first: int, chain_before: bytes, upto: LogPoint = GENESIS) -> ClusterState:
    """The same state, with the tier in the set."""
    return replace(state, in_sync=state.in_sync | {TIER_MEMBER}, tier=TierClaim(first, chain_before, upto))


def run_of(log: PaperLog, first: int, last: int, form: Form = WHOLE) -> Run:
    return run_name(first, log.records[last - 1].point, form)


def links_of(log: PaperLog, run: Run) -> tuple[Link, ...]:
    return tuple(Link(r.header, r.chain) for r in log.records[run.first - 1 : run.last])


class HandBucket:
    """Answers the latest request of each kind."""

    def __init__(self, node: PaperNode) -> None:
        self.node = node
        self.log = PaperLog()
        node.cluster.disks["tier"] = PaperDisk(self.log, "")

    def asked(self, kind: type[E]) -> list[E]:
        return [effect for effect in self.node.effects if isinstance(effect, kind)]

    def says(self, event: ev.Event) -> None:
        self.node.feed(event)
        self.node.cluster.run(STEP_MS)

    def lists(self, *runs: Run, counter: int = 0, deletes: bool = True) -> None:
        self.says(ev.TierListed(self.asked(fx.ListTier)[-1].request, runs, counter, deletes=deletes))

    def stores(self, number: int = -1) -> None:
        """Answer one of the puts that were asked for: the latest, unless another is meant."""
        asked = self.asked(fx.PutRun)[number]
        if asked.last > len(self.log.records):
            self.log.records = self.node.disk.log.records[: asked.last]
            self.log.durable_count = asked.last
        self.says(ev.TierStored(asked.request, asked.last))

    def refuses(self, number: int = -1) -> None:
        self.says(ev.TierStored(self.asked(fx.PutRun)[number].request, None, "no answer"))

    def packs(self, reason: str = "", *, lasting: bool = False, moved: int = 0, form: Form = WHOLE) -> None:
        request = self.asked(fx.PackSegment)[-1].request
        self.says(ev.TierPacked(request, moved, reason, lasting, form))

    def deletes(self, reason: str = "", *, lasting: bool = False) -> None:
        self.says(ev.TierDeleted(self.asked(fx.DeleteRuns)[-1].request, reason, lasting))

    def marks(self) -> None:
        self.says(ev.TierMarked(self.asked(fx.PutMarker)[-1].request))

    def counts(self, outcome: CasOutcome = CasOutcome.APPLIED) -> None:
        asked = self.asked(fx.CountTier)[-1]
        if outcome is CasOutcome.APPLIED:
            self.node.cluster.service.tier_floor = TierFloor(asked.point, 1)
        self.says(ev.TierCounted(asked.request, outcome, 1))

    def shows(self, log: PaperLog) -> None:
        """Give back the object that is asked for, as `log` has it."""
        asked = self.asked(fx.ReadRun)[-1]
        self.says(ev.TierRead(asked.request, links_of(log, asked.run)))

    def sends(self, log: PaperLog, *, chain: bytes | None = None) -> None:
        """Send every record that is asked for; with another `chain` than its own where one is given."""
        asked = self.asked(fx.FetchRun)[-1]
        for record in log.records[asked.first - 1 : asked.last]:
            handle = self.node.cluster.fresh()
            self.node.staged[handle] = record
            self.says(ev.TierRecord(asked.request, record.header, chain or record.chain, handle))
        self.says(ev.TierFetched(asked.request))


def floor(point: LogPoint) -> TierFloor:
    return TierFloor(point, 1)
