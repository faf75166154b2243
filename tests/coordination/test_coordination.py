"""One suite for every coordination service: a real ZooKeeper, and the file of a standalone node."""

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from perenne.local.processes import Running, free_ports, wait_until
from perenne.local.zookeeper import serves, start_ensemble, start_server
from replication.coordination.port import (
    ClusterRecord,
    Coordination,
    CoordinationUnavailable,
    LiveNode,
    NodeRegistration,
    NodeRetired,
    Operation,
    SessionEvent,
)
from replication.coordination.standalone import FileCoordination
from replication.coordination.zookeeper import ZooKeeperCoordination
from replication.core.compaction import Reads
from replication.core.values import CasOutcome, Change, ClusterState, Identity, Member, Phase, ReplicaId, TierFloor
from storage.position import GENESIS, LogPoint, LogPosition
from tests.storage.memory_disk import MemoryDisk

ME = Identity(ReplicaId("n1"), "disk-1", "boot-1")
OTHER = Identity(ReplicaId("n2"), "disk-2", "boot-1")
STATE = ClusterState(
    change=Change(1, "a"), epoch=0, leader=None, phase=Phase.RECOVERING, in_sync=frozenset({Member(ME.id, "disk-1")})
)


class Listener:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.session: list[SessionEvent] = []
        self.told: dict[str, int] = {"state": 0, "nodes": 0, "operation": 0}

    def session_changed(self, event: SessionEvent) -> None:
        self.session.append(event)

    def state_changed(self) -> None:
        self.told["state"] += 1

    def nodes_changed(self) -> None:
        self.told["nodes"] += 1

    def operation_requested(self) -> None:
        self.told["operation"] += 1


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, int]]:
    directory = tmp_path_factory.mktemp("zookeeper")
    (port,) = free_ports(1)
    running = start_server(directory, port)
    try:
        wait_until(lambda: serves(port), [running], "ZooKeeper serves")
        yield running, port
    finally:
        running.kill()


Make = Callable[[], Coordination]


@pytest.fixture(params=["zookeeper", "file"])
def make(request: pytest.FixtureRequest) -> Make:
    if request.param == "file":
        disk = MemoryDisk()
        return lambda: FileCoordination(disk)
    _, port = request.getfixturevalue("server")
    root = f"/t-{abs(hash(request.node.nodeid))}"
    return lambda: ZooKeeperCoordination(f"127.0.0.1:{port}", session_timeout_ms=2000, root=root)


def within(make: Make, body: Callable[[Coordination, Listener], Awaitable[None]]) -> None:
    async def main() -> None:
        coordination, listener = make(), Listener()
        await coordination.start(listener)
        try:
            await until(lambda: SessionEvent.CONNECTED in listener.session)
            await body(coordination, listener)
        finally:
            await coordination.close()

    asyncio.run(main())


def test_the_cluster_is_created_once(make: Make) -> None:
    async def body(coordination: Coordination, _: Listener) -> None:
        first = await coordination.cluster(ClusterRecord("c1", 1, 4096))
        assert await coordination.cluster(ClusterRecord("c2", 1, 8192)) == first == ClusterRecord("c1", 1, 4096)

    within(make, body)


def test_state_is_written_by_compare_and_set_only(make: Make) -> None:
    async def body(coordination: Coordination, listener: Listener) -> None:
        await coordination.register(NodeRegistration(ME.id, "disk-1", GENESIS))
        assert await coordination.read_state() is None
        assert (await coordination.create_state(STATE))[0] is CasOutcome.APPLIED
        assert (await coordination.create_state(STATE))[0] is CasOutcome.CONFLICT
        seen = await coordination.read_state()
        assert seen is not None and seen.state == STATE
        changed = replace(STATE, change=Change(2, "b"))
        outcome, version = await coordination.write_state(changed, seen.version)
        assert outcome is CasOutcome.APPLIED
        assert (await coordination.write_state(STATE, seen.version))[0] is CasOutcome.CONFLICT
        again = await coordination.read_state()
        assert again is not None and (again.state, again.version) == (changed, version)
        await until(lambda: listener.told["state"] > 0)

    within(make, body)


def test_the_lead_is_taken_with_the_state_and_given_back(make: Make) -> None:
    async def body(coordination: Coordination, listener: Listener) -> None:
        await coordination.register(NodeRegistration(ME.id, "disk-1", GENESIS))
        _, version = await coordination.create_state(STATE)
        led = replace(STATE, change=Change(2, "b"), epoch=1, leader=ME)
        assert (await coordination.take_lead(led, version + 1, ME))[0] is CasOutcome.CONFLICT
        assert await coordination.leader() is None
        outcome, version = await coordination.take_lead(led, version, ME)
        assert outcome is CasOutcome.APPLIED
        assert await coordination.leader() == ME
        assert (await coordination.take_lead(led, version, OTHER))[0] is CasOutcome.CONFLICT
        await coordination.resign(OTHER)
        assert await coordination.leader() == ME
        await coordination.resign(ME)
        assert await coordination.leader() is None
        assert await coordination.recreate_leader(version + 1, ME) is CasOutcome.CONFLICT
        assert await coordination.recreate_leader(version, ME) is CasOutcome.APPLIED
        assert await coordination.leader() == ME

    within(make, body)


def test_the_tier_is_counted_under_an_unchanged_state_and_above_the_last_count_only(make: Make) -> None:
    """A count that comes late, or of a leader that was deposed, must not be applied."""
    one, two = (LogPoint(LogPosition(1, sequence), bytes([sequence]) * 32) for sequence in (1, 2))

    async def body(coordination: Coordination, _: Listener) -> None:
        await coordination.register(NodeRegistration(ME.id, "disk-1", GENESIS))
        outcome, state = await coordination.create_state(STATE)
        assert await coordination.tier_floor() is None
        assert (await coordination.count_tier(one, state + 1, None))[0] is CasOutcome.CONFLICT
        outcome, first = await coordination.count_tier(one, state, None)
        assert outcome is CasOutcome.APPLIED
        assert await coordination.tier_floor() == TierFloor(one, first)
        assert (await coordination.count_tier(two, state, None))[0] is CasOutcome.CONFLICT
        outcome, second = await coordination.count_tier(two, state, first)
        assert outcome is CasOutcome.APPLIED
        assert (await coordination.count_tier(one, state, first))[0] is CasOutcome.CONFLICT
        await coordination.write_state(replace(STATE, change=Change(2, "b")), state)
        assert (await coordination.count_tier(two, state, second))[0] is CasOutcome.CONFLICT
        assert await coordination.tier_floor() == TierFloor(two, second)

    within(make, body)


def test_nodes_announce_themselves_and_operations_find_their_result(make: Make) -> None:
    async def body(coordination: Coordination, _: Listener) -> None:
        registration = NodeRegistration(ME.id, "disk-1", GENESIS)
        await coordination.register(registration)
        live = LiveNode(ME, "127.0.0.1", 1, 2, 3, "PERENNE", "0.1", GENESIS)
        await coordination.announce(live)
        changed = replace(live, http_port=4, evicts=True, reads=Reads(7, (1, 5), 9))
        await coordination.announce(changed)
        assert await coordination.live_nodes() == {ME.id: changed}
        assert await coordination.registrations() == {ME.id: registration}
        operation = Operation("switchover", "1", {"to": "n2"})
        await coordination.request_operation(operation)
        assert await coordination.operations() == (operation,)
        await coordination.finish_operation(operation, "done")
        assert (await coordination.operations())[0].result == "done"

    within(make, body)


def test_no_copy_of_a_node_takes_the_place_of_one_that_may_run(
    server: tuple[Running, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = LiveNode(ME, "node.example", 1, 2, 3, "PERENNE", "0.1", GENESIS, machine="boot-1")
    later = replace(first, identity=Identity(ME.id, ME.incarnation, "later"))

    def make() -> Coordination:
        return ZooKeeperCoordination(f"127.0.0.1:{server[1]}", session_timeout_ms=4000, root="/copies")

    async def body(coordination: Coordination, _: Listener) -> None:
        await coordination.announce(first)
        other, listener = make(), Listener()
        await other.start(listener)
        try:
            await until(lambda: SessionEvent.CONNECTED in listener.session)
            for copy in (replace(later, machine="boot-2"), replace(later, peer_port=7), replace(later, host="x")):
                with pytest.raises(CoordinationUnavailable, match="or its session has not ended yet"):
                    await other.announce(copy)
                assert await other.live_nodes() == {ME.id: first}
            met = time.monotonic()
            monkeypatch.setattr(time, "monotonic", lambda: met + 9)
            with pytest.raises(NodeRetired, match="another process runs as n1, at node.example:1"):
                await other.announce(replace(later, machine="boot-2"))
            assert await other.live_nodes() == {ME.id: first}
            # A start after a kill, and a session after one that was lost.
            for own in (later, replace(later, host="moved.example")):
                await other.announce(own)
                assert await other.live_nodes() == {ME.id: own}
        finally:
            await other.close()

    within(make, body)


def test_what_a_session_announced_goes_with_it(server: tuple[Running, int]) -> None:
    def make() -> Coordination:
        return ZooKeeperCoordination(f"127.0.0.1:{server[1]}", session_timeout_ms=2000, root="/goes")

    async def leads(coordination: Coordination, listener: Listener) -> None:
        await coordination.register(NodeRegistration(ME.id, "disk-1", GENESIS))
        _, version = await coordination.create_state(STATE)
        await coordination.take_lead(replace(STATE, epoch=1, leader=ME), version, ME)

    async def looks(coordination: Coordination, _: Listener) -> None:
        assert await coordination.leader() is None
        seen = await coordination.read_state()
        assert seen is not None and seen.state.leader == ME

    within(make, leads)
    within(make, looks)


def _stands_still(pid: int) -> bool:
    """Whether every thread has taken notice of a SIGSTOP."""
    states = [
        task.joinpath("stat").read_text().rpartition(")")[2].split()[0] for task in Path(f"/proc/{pid}/task").iterdir()
    ]
    return set(states) == {"T"}


def test_a_paused_server_costs_the_session_and_a_new_one_follows(tmp_path: Path) -> None:
    import signal

    (port,) = free_ports(1)
    running = start_server(tmp_path, port)

    def make() -> Coordination:
        return ZooKeeperCoordination(f"127.0.0.1:{port}", session_timeout_ms=1000)

    async def body(coordination: Coordination, listener: Listener) -> None:
        await coordination.register(NodeRegistration(ME.id, "d", GENESIS))
        _, version = await coordination.create_state(STATE)
        running.signal(signal.SIGSTOP)
        await until(lambda: _stands_still(running.pid))
        outcome, _ = await coordination.write_state(replace(STATE, change=Change(2, "b")), version)
        assert outcome is CasOutcome.UNKNOWN
        await until(lambda: SessionEvent.SUSPENDED in listener.session)
        running.signal(signal.SIGCONT)
        await until(lambda: listener.session[-1] is SessionEvent.CONNECTED)
        seen = await coordination.read_state()
        assert seen is not None and seen.state.change.counter in (1, 2)

    try:
        wait_until(lambda: serves(port), [running], "ZooKeeper serves")
        within(make, body)
    finally:
        running.kill()


def test_a_server_that_was_put_back_from_a_backup_is_found_again(tmp_path: Path) -> None:
    """ZooKeeper refuses a client that has seen more than it holds, without a word: such a client waited for ever."""
    (port,) = free_ports(1)
    server = [start_server(tmp_path, port)]
    data, backup = tmp_path / "data", tmp_path / "backup"

    def make() -> Coordination:
        return ZooKeeperCoordination(f"127.0.0.1:{port}", session_timeout_ms=1000)

    async def body(coordination: Coordination, listener: Listener) -> None:
        await coordination.register(NodeRegistration(ME.id, "d", GENESIS))
        _, version = await coordination.create_state(STATE)
        server[0].kill()
        shutil.copytree(data, backup)
        server[0] = start_server(tmp_path, port)
        await until(lambda: listener.session[-1] is SessionEvent.CONNECTED and len(listener.session) > 1)
        for number in range(2, 50):
            _, version = await coordination.write_state(replace(STATE, change=Change(number, "b")), version)
        assert version == 48
        server[0].kill()
        shutil.rmtree(data)
        shutil.copytree(backup, data)
        server[0] = start_server(tmp_path, port)
        told = len(listener.session)
        await until(lambda: SessionEvent.CONNECTED in listener.session[told:])
        seen = await coordination.read_state()
        assert seen is not None and seen.state.change.counter == 1

    try:
        wait_until(lambda: serves(port), server, "ZooKeeper serves")
        within(make, body)
    finally:
        server[0].kill()


def test_an_ensemble_goes_on_without_one_of_its_three_servers(tmp_path: Path) -> None:
    servers, ports = start_ensemble(tmp_path)
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)

    def make() -> Coordination:
        return ZooKeeperCoordination(hosts, session_timeout_ms=4000)

    async def body(coordination: Coordination, listener: Listener) -> None:
        await coordination.register(NodeRegistration(ME.id, "d", GENESIS))
        await coordination.create_state(STATE)
        servers[0].kill()

        async def writable() -> bool:
            seen = await coordination.read_state()
            assert seen is not None
            return (await coordination.write_state(seen.state, seen.version))[0] is CasOutcome.APPLIED

        async with asyncio.timeout(60):
            while True:
                try:
                    if await writable():
                        break
                except Exception:  # noqa: BLE001 - the ensemble elects; what matters is that it ends
                    await asyncio.sleep(0.1)

    try:
        wait_until(lambda: all(serves(port) for port in ports), servers, "the ensemble serves")
        within(make, body)
    finally:
        for server in servers:
            server.kill()
