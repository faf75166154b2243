"""Goal: an operator's hand writes everything or nothing, never under a leader, and who was retired stays out."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from perenne.local.processes import free_ports, wait_until
from perenne.local.zookeeper import serves, start_server
from perenne.session import SessionWaiter
from replication.coordination.port import (
    ClusterRecord,
    CoordinationUnavailable,
    NodeRegistration,
    NodeRetired,
    Operation,
)
from replication.coordination.surgery import Interfered, Surgery
from replication.coordination.zookeeper import ZooKeeperCoordination
from replication.core.values import (
    TIER_MEMBER,
    AcceptedLoss,
    Change,
    ClusterState,
    Identity,
    Member,
    Phase,
    ReplicaId,
    TierClaim,
)
from storage.position import GENESIS, LogPoint, LogPosition

ME = Identity(ReplicaId("n1"), "disk-1", "boot-1")
CLUSTER = ClusterRecord("c1", 1, 4096)
STATE = ClusterState(Change(1, "a"), 3, None, Phase.RECOVERING, frozenset({ME.member}))
POINT = LogPoint(LogPosition(3, 9), bytes(range(32)))


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    (port,) = free_ports(1)
    running = start_server(tmp_path_factory.mktemp("zookeeper"), port)
    try:
        wait_until(lambda: serves(port), [running], "ZooKeeper serves")
        yield f"127.0.0.1:{port}"
    finally:
        running.kill()


async def connected(hosts: str, root: str) -> ZooKeeperCoordination:
    coordination = ZooKeeperCoordination(hosts, session_timeout_ms=4000, root=root)
    waiter = SessionWaiter()
    await coordination.start(waiter)
    await waiter.event.wait()
    return coordination


def test_everything_is_written_or_nothing_and_never_under_a_leader(hosts: str) -> None:
    loss = AcceptedLoss(LogPosition(3, 9), 12, "anna@pacs", 5)
    new = replace(STATE, change=Change(9, "b"), epoch=8, accepted_loss=loss)

    async def node_side() -> None:
        coordination = await connected(hosts, "/one")
        with Surgery(hosts, root="/one") as surgery:
            nothing = surgery.look()
            assert (nothing.state, nothing.cluster, nothing.leader) == (None, None, None)
            surgery.write(nothing, cluster=CLUSTER, state=STATE, left_out=())
            with pytest.raises(Interfered):  # it was looked at before the first write
                surgery.write(nothing, cluster=CLUSTER, state=new, left_out=())
            found = surgery.look()
            assert found.state is not None
            assert (found.state.state, found.cluster) == (STATE, CLUSTER)

            await coordination.count_tier(POINT, found.state.version, None)
            await coordination.recreate_leader(found.state.version, ME)
            led = surgery.look()
            assert led.leader == ME
            with pytest.raises(Interfered, match="somebody leads"):
                surgery.write(led, cluster=CLUSTER, state=new, left_out=(ME.member,))
            assert surgery.look().registrations == {}
            await coordination.resign(ME)
            surgery.write(surgery.look(), cluster=CLUSTER, state=new, left_out=(Member(ReplicaId("n2"), "disk-2"),))
            seen = await coordination.read_state()
            assert seen is not None
            assert seen.state == new
            assert await coordination.tier_floor() is None, "it was counted under the state that is gone"
            assert await coordination.leader() is None
            assert (await coordination.registrations())[ReplicaId("n2")].retired

            await coordination.count_tier(POINT, seen.version, None)
            through = replace(new, in_sync=frozenset({TIER_MEMBER}), tier=TierClaim(10, POINT.chain))
            surgery.write(surgery.look(), cluster=CLUSTER, state=through, left_out=())
            assert surgery.look().tier_floor is not None
        await coordination.close()

    asyncio.run(node_side())


def test_who_was_retired_does_not_register_again_and_a_new_disk_does(hosts: str) -> None:
    async def node_side() -> None:
        coordination = await connected(hosts, "/two")
        first, second, third = (NodeRegistration(ME.id, f"disk-{n}", GENESIS) for n in (1, 2, 3))
        await coordination.register(first)
        with Surgery(hosts, root="/two") as surgery:
            surgery.retire(surgery.look(), [Member(ME.id, "disk-1")])
            with pytest.raises(NodeRetired, match="start the node with an empty one"):
                await coordination.register(first)
            await coordination.register(second)
            surgery.retire(surgery.look(), [Member(ME.id, "disk-0")])
            known = (await coordination.registrations())[ME.id]
            assert (known.incarnation, known.retired, known.former) == ("disk-2", False, ("disk-0", "disk-1"))
            with pytest.raises(NodeRetired):
                await coordination.register(first)
            stale = surgery.look()
            await coordination.register(replace(second, floor=POINT))
            with pytest.raises(Interfered):
                surgery.retire(stale, [Member(ME.id, "disk-2")])
            surgery.retire(surgery.look(), [Member(ME.id, "disk-2")])
            await coordination.register(third)
            known = (await coordination.registrations())[ME.id]
            assert (known.incarnation, known.former) == ("disk-3", ("disk-0", "disk-1", "disk-2"))

            assert surgery.operation("retire") is None
            surgery.request(Operation("retire", "x", {"node": "n1"}))
            surgery.request(Operation("retire", "y", {"node": "n1"}))
            asked = surgery.operation("retire")
            assert asked is not None
            assert asked.id == "y"
        await coordination.close()

    asyncio.run(node_side())


def test_no_zookeeper_is_a_sentence(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with pytest.raises(CoordinationUnavailable, match="does not answer"), Surgery(f"127.0.0.1:{port}", patience_s=0.5):
        pass
