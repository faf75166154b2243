"""Goal: what is asked of coordination is neither lost by a bug nor done after whoever asked has gone.

Method: the real worker over a coordination made up for it, or the standalone one.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from perenne.cli.switchover import carried_out, why_not
from replication.coordination.port import ClusterRecord, LiveNode, NodeRegistration, Operation, SessionEvent
from replication.coordination.standalone import FileCoordination
from replication.coordinator import Coordinator
from replication.core import events as ev
from replication.core.values import CasOutcome, Change, ClusterState, Identity, Member, Phase, ReplicaId, VersionedState
from storage.disk import RealDisk
from storage.errors import StorageFull
from storage.position import GENESIS

CLUSTER = ClusterRecord("c", 1, 65536)
ME = Identity(ReplicaId("n1"), "i", "b")
NOW_US = 1_000_000


class Heard:
    """What the driver would be told."""

    def __init__(self) -> None:
        self.events: list[ev.Event] = []
        self.operations: list[Operation] = []

    def feed(self, event: ev.Event) -> None:
        self.events.append(event)

    def read_since(self, count: int) -> bool:
        return any(isinstance(event, ev.StateSeen) for event in self.events[count:])

    def nodes(self, live: Mapping[ReplicaId, LiveNode]) -> None: ...

    def operation(self, operation: Operation) -> None:
        self.operations.append(operation)


class Failing(FileCoordination):
    """Has a bug the first time."""

    failures = 1

    async def read_state(self) -> VersionedState | None:
        if self.failures:
            self.failures -= 1
            raise RuntimeError("a bug")
        return await super().read_state()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def described() -> tuple[NodeRegistration, LiveNode]:
    live = LiveNode(ME, "h", 1, 2, 3, "AE", "1", GENESIS)
    return NodeRegistration(ME.id, ME.incarnation, GENESIS), live


def state(*names: str, leader: str = "n1") -> ClusterState:
    return ClusterState(
        change=Change(1, "x"),
        epoch=1,
        leader=Identity(ReplicaId(leader), "i", "b"),
        phase=Phase.ACTIVE,
        in_sync=frozenset(Member(ReplicaId(name), "i") for name in names),
    )


def test_a_bug_in_one_request_does_not_end_the_worker(tmp_path: Path) -> None:
    async def run() -> None:
        heard = Heard()
        worker = Coordinator(Failing(RealDisk(tmp_path)), CLUSTER, ME, described, heard, lambda: NOW_US)
        await worker.start()
        worker.state_changed()
        await until(lambda: ev.ReadFailed() in heard.events)  # the core is told, and asks again
        worker.state_changed()
        await until(lambda: any(isinstance(event, ev.StateSeen) for event in heard.events))
        await worker.close()

    asyncio.run(run())


class FullDisk(RealDisk):
    """Has no room for a file while `full`."""

    full = False

    def write_atomically(self, name: str, data: bytes) -> None:
        if self.full:
            raise StorageFull(f"no room to write {name}")
        super().write_atomically(name, data)


def test_a_standalone_node_on_a_full_disk_leaves_the_loop_alone_and_leads_once_there_is_room(tmp_path: Path) -> None:
    """A candidate asks again at the version that it read, at once: it must get on, and not without a pause."""

    async def main() -> None:
        disk = FullDisk(tmp_path)
        coordination = FileCoordination(disk)
        assert await coordination.create_state(state("n1")) == (CasOutcome.APPLIED, 0)
        disk.full = True
        others = asyncio.create_task(asyncio.sleep(0.05))
        assert await coordination.take_lead(state("n1"), 0, ME) == (CasOutcome.UNKNOWN, -1)
        assert others.done(), "whatever else runs on the loop had its turn"
        seen = await coordination.read_state()
        assert seen is not None
        assert seen.version == 0, "nothing was written"
        disk.full = False
        assert await coordination.take_lead(state("n1"), 0, ME) == (CasOutcome.APPLIED, 1)
        assert await coordination.leader() == ME

    asyncio.run(main())


def test_a_switchover_is_not_carried_out_after_its_deadline(tmp_path: Path) -> None:
    async def run() -> None:
        heard = Heard()
        coordination = FileCoordination(RealDisk(tmp_path))
        worker = Coordinator(coordination, CLUSTER, ME, described, heard, lambda: NOW_US)
        await worker.start()
        for deadline_us, taken in ((NOW_US - 1, 0), (NOW_US + 1, 1)):
            await coordination.request_operation(Operation("switchover", "a", {"until_us": str(deadline_us)}))
            worker.session_changed(SessionEvent.CONNECTED)
            before = len(heard.events)
            worker.state_changed()  # one request at a time: once this one is answered, the operations were looked at
            await until(partial(heard.read_since, before))
            assert bool(heard.operations) == bool(taken)
        await worker.close()

    asyncio.run(run())


def test_a_switchover_that_timed_out_is_withdrawn(tmp_path: Path) -> None:
    async def run() -> None:
        coordination = FileCoordination(RealDisk(tmp_path))
        await coordination.create_state(state("n1", "n2"))
        for name in ("n1", "n2"):
            await coordination.announce(LiveNode(Identity(ReplicaId(name), "i", "b"), "h", 1, 2, 3, "AE", "1", GENESIS))
        assert "withdrawn" in await carried_out(coordination, "n2", 0.3)
        (operation,) = await coordination.operations()
        assert operation.result == "failed: withdrawn"
        assert operation.overdue(int((time.time() + 1) * 1_000_000))

    asyncio.run(run())


def test_who_cannot_take_over_is_named_with_the_reason() -> None:
    live = {"n1", "n2", "n3"}
    assert why_not(state("n1", "n2"), live, "n2") is None
    assert why_not(state("n1", "n2"), live, "") is None
    assert why_not(state("n1", "n2"), live, "n1") == "n1 already leads"
    assert why_not(state("n1", "n2"), live, "n9") == "failed: n9 is unknown: running are n1, n2, n3"
    assert why_not(state("n1", "n2"), live, "n3") == "failed: n3 is not in sync: in sync are n1, n2"
    assert why_not(state("n1", "n2"), {"n1"}, "n2") == "failed: n2 does not run"
    assert "no other node" in (why_not(state("n1"), live, "") or "")
    assert "nobody leads" in (why_not(None, live, "") or "")
