"""Goal: a standalone node counts its tier, and leads, only while no other history claims it (ADR 0013).

Method: two data directories over one directory tier, and the coordination of a standalone node above them.
"""

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from replication.coordination import standalone
from replication.coordination.port import ClusterRecord, CoordinationUnavailable, NodeRetired
from replication.coordination.standalone import FileCoordination
from replication.core.values import (
    TIER_MEMBER,
    CasOutcome,
    Change,
    ClusterState,
    Identity,
    Member,
    Phase,
    ReplicaId,
    TierClaim,
)
from replication.tier.bodies import Body
from replication.tier.claims import HISTORY_FILE, ClaimedStore, Claims
from replication.tier.keys import CLAIM, LOG, MARKER, Claim, Marker
from replication.tier.port import ObjectStore, Refused, Stored, Unreachable
from storage.position import GENESIS, LogPoint, LogPosition
from tests.storage.memory_disk import MemoryDisk
from tests.tier.rig import QUICK, directory_reached, run

CLUSTER = ClusterRecord("0123456789abcdef", 1, 1 << 22)
ME = Identity(ReplicaId("solo"), "disk1", "boot1")
MEMBER = Member(ME.id, ME.incarnation)
POINT = LogPoint(LogPosition(1, 7), bytes(32))


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    return tmp_path / "san"


@pytest.fixture
def store(mount: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    monkeypatch.setattr(standalone, "RETRY_S", 0.0)
    reached = directory_reached(mount, QUICK)
    yield reached.store
    run(reached.store.close())


def claims_of(store: ObjectStore, disk: MemoryDisk) -> Claims:
    return Claims(disk, store, CLUSTER)


async def listed(store: ObjectStore) -> list[str]:
    return [key async for key in store.list(CLAIM)]


def test_a_history_holds_the_tier_over_its_starts_and_no_other_gets_it(store: ObjectStore) -> None:
    own, other = MemoryDisk(), MemoryDisk()

    async def play() -> None:
        await claims_of(store, own).hold(1, "boot1")
        second = claims_of(store, own)
        await second.hold(2, "boot2")
        assert await listed(store) == [Claim(2, "boot2").key], "earlier starts are tidied away"
        with pytest.raises(NodeRetired, match="another standalone node"):
            await claims_of(store, other).hold(9, "boot9")
        assert await listed(store) == [Claim(2, "boot2").key], "whoever is refused leaves no claim"
        await second.hold(2, "boot2")

        restored = claims_of(store, other)
        assert await restored.adopt() == 2
        await restored.hold(3, "boot3")
        for epoch, boot in ((2, "boot2"), (4, "boot4")):
            with pytest.raises(NodeRetired):
                await claims_of(store, own).hold(epoch, boot)
        await restored.hold(3, "boot3")

    run(play())


def test_two_that_claim_at_once_both_stop(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each looked before the other put: the second look, after the own put, sees both."""
    put = store.put

    async def after_the_other(key: str, body: Body, *, only_if_absent: bool = True, lock: bool = False) -> Stored:
        if key.startswith(CLAIM):
            await put(Claim(1, "other").key, b"{}\n")
        return await put(key, body, only_if_absent=only_if_absent, lock=lock)

    monkeypatch.setattr(store, "put", after_the_other)

    async def play() -> None:
        with pytest.raises(NodeRetired):
            await claims_of(store, MemoryDisk()).hold(1, "boot1")
        assert await listed(store) == [Claim(1, "boot1").key, Claim(1, "other").key]

    run(play())


def test_a_start_that_was_killed_at_its_put_knows_its_claim(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = MemoryDisk()

    async def applied_late(key: str, body: Body, *, only_if_absent: bool = True, lock: bool = False) -> Stored:
        raise Unreachable(f"PUT {key}: no answer", "Try again.")

    async def play() -> None:
        claims = claims_of(store, disk)
        await claims.hold(1, "boot1")
        with monkeypatch.context() as patch:
            patch.setattr(store, "put", applied_late)
            with pytest.raises(CoordinationUnavailable):
                await claims.hold(2, "boot2")
        await store.put(Claim(2, "boot2").key, b"{}\n")
        await claims_of(store, disk).hold(3, "boot3")

    run(play())


def test_another_clusters_tier_is_not_claimed(store: ObjectStore) -> None:
    async def play() -> None:
        await claims_of(store, MemoryDisk()).hold(1, "boot1")
        stranger = Claims(MemoryDisk(), store, replace(CLUSTER, cluster_id="fedcba9876543210"))
        with pytest.raises(CoordinationUnavailable, match="belongs to cluster 0123456789abcdef"):
            await stranger.hold(5, "boot5")
        assert await listed(store) == [Claim(1, "boot1").key]

    run(play())


def test_two_looks_at_once_lose_no_claim_of_this_history(store: ObjectStore) -> None:
    """The one of the guard, every 5 s, and the one of an election or a count."""

    class Slow(MemoryDisk):
        def write_atomically(self, name: str, data: bytes) -> None:
            time.sleep(0.05)
            super().write_atomically(name, data)

    disk = Slow()

    async def play() -> None:
        claims = claims_of(store, disk)
        await asyncio.gather(claims.hold(5, "boot1"), claims.hold(6, "boot1"))
        await claims.hold(6, "boot1")
        await claims_of(store, disk).hold(7, "boot2")

    run(play())


def test_a_disk_of_a_time_without_the_tier_does_not_lead_once_the_tier_was_counted(store: ObjectStore) -> None:
    """It was put back: the claim is its own, and its state says that it was alone."""
    disk = MemoryDisk()

    async def play() -> None:
        claims = claims_of(store, disk)
        await claims.hold(1, "boot1", alone=True)
        copy = disk.read(HISTORY_FILE)
        await ClaimedStore(store, claims, held).put(Marker(5, "entered").key, b"{}\n")
        await claims_of(store, disk).hold(2, "boot2", alone=True)
        await store.delete(Claim(2, "boot2").key)

        disk.write_atomically(HISTORY_FILE, copy)
        with pytest.raises(NodeRetired, match="put back from a copy"):
            await claims_of(store, disk).hold(2, "boot3", alone=True)
        assert await listed(store) == [], "it leaves no claim"
        await claims_of(store, disk).hold(2, "boot3", alone=False)
        await claims_of(store, disk).hold(3, "boot4", alone=True)

    run(play())


def test_a_marker_that_comes_between_the_look_and_the_claim_is_seen(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the machine that this disk was cloned from: it counts on until it sees the claim. A random model found it."""
    disk, put = MemoryDisk(), store.put

    async def after_a_marker(key: str, body: Body, *, only_if_absent: bool = True, lock: bool = False) -> Stored:
        if key.startswith(CLAIM):
            await put(Marker(5, "entered").key, b"{}\n")
        return await put(key, body, only_if_absent=only_if_absent, lock=lock)

    async def play() -> None:
        await claims_of(store, disk).hold(1, "boot1", alone=True)
        with monkeypatch.context() as patch:
            patch.setattr(store, "put", after_a_marker)
            with pytest.raises(NodeRetired, match="put back from a copy"):
                await claims_of(store, disk).hold(2, "clone", alone=True)

    run(play())


def test_markers_that_no_version_noted_are_taken_for_ones_own(store: ObjectStore) -> None:
    disk = MemoryDisk()

    async def play() -> None:
        await store.put(Marker(5, "before").key, b"{}\n")
        disk.write_atomically(HISTORY_FILE, json.dumps({"format": 1, "claims": []}).encode())
        await claims_of(store, disk).hold(1, "boot1", alone=True)
        await claims_of(store, disk).hold(2, "boot2", alone=True)
        restored = claims_of(store, MemoryDisk())
        await restored.adopt()
        await restored.hold(3, "boot3", alone=True)

    run(play())


async def held() -> None:
    """The claim is there."""


# Above it: the coordination of a standalone node


def tiered(epoch: int, phase: Phase = Phase.ACTIVE) -> ClusterState:
    return ClusterState(
        change=Change(epoch + 1, "c"),
        epoch=epoch,
        leader=ME,
        phase=phase,
        in_sync=frozenset({MEMBER, TIER_MEMBER}),
        tier=TierClaim(1, bytes(32)),
        floor=GENESIS,
    )


def test_a_start_leads_on_the_strength_of_the_tier_alone_and_the_file_keeps_its_membership(store: ObjectStore) -> None:
    disk = MemoryDisk()

    async def play() -> None:
        assert (await FileCoordination(disk).create_state(tiered(1)))[0] is CasOutcome.APPLIED
        files = FileCoordination(disk, claims_of(store, disk))
        seen = await files.read_state()
        assert seen is not None and seen.state.in_sync == {TIER_MEMBER}
        won = replace(seen.state, epoch=2, phase=Phase.RECOVERING)
        outcome, version = await files.take_lead(won, seen.version, ME)
        assert outcome is CasOutcome.APPLIED
        again = await files.read_state()
        assert again is not None and again.state.in_sync == {TIER_MEMBER}, "not before it is active"
        kept = await FileCoordination(disk).read_state()
        assert kept is not None and kept.state.in_sync == {MEMBER, TIER_MEMBER}, "should the tier be lost"
        outcome, version = await files.write_state(tiered(2), version)
        assert outcome is CasOutcome.APPLIED
        now = await files.read_state()
        assert now is not None and now.state.in_sync == {MEMBER, TIER_MEMBER}

    run(play())


def test_nothing_is_counted_or_led_while_the_tier_does_not_answer_or_is_anothers(
    store: ObjectStore, mount: Path
) -> None:
    disk = MemoryDisk()

    async def play() -> None:
        assert (await FileCoordination(disk).create_state(tiered(1)))[0] is CasOutcome.APPLIED
        files = FileCoordination(disk, claims_of(store, disk))
        seen = await files.read_state()
        assert seen is not None
        won = replace(seen.state, epoch=2, phase=Phase.RECOVERING)
        (mount / ".perenne-tier").rename(mount / "away")
        assert (await files.take_lead(won, seen.version, ME))[0] is CasOutcome.CONFLICT
        (mount / "away").rename(mount / ".perenne-tier")
        outcome, version = await files.take_lead(won, seen.version, ME)
        assert outcome is CasOutcome.APPLIED

        (mount / ".perenne-tier").rename(mount / "away")
        assert (await files.count_tier(POINT, version, None))[0] is CasOutcome.CONFLICT
        assert await files.tier_floor() is None
        (mount / "away").rename(mount / ".perenne-tier")
        assert (await files.count_tier(POINT, version, None))[0] is CasOutcome.APPLIED
        floor = await files.tier_floor()
        assert floor is not None and floor.point == POINT

        await store.put(Claim(3, "clone").key, b"{}\n")
        beyond = LogPoint(LogPosition(2, 8), bytes(32))
        with pytest.raises(NodeRetired):
            await files.count_tier(beyond, version, floor.version)
        assert await files.tier_floor() == floor, "nothing was counted"
        with pytest.raises(NodeRetired):
            await files.read_state()

    run(play())


def test_one_copy_leads_without_the_tier_and_is_claimed_when_it_answers(store: ObjectStore, mount: Path) -> None:
    disk = MemoryDisk()

    async def play() -> None:
        alone = replace(tiered(1), in_sync=frozenset({MEMBER}), tier=None)
        assert (await FileCoordination(disk).create_state(alone))[0] is CasOutcome.APPLIED
        files = FileCoordination(disk, claims_of(store, disk))
        seen = await files.read_state()
        assert seen is not None and seen.state.in_sync == {MEMBER}
        (mount / ".perenne-tier").rename(mount / "away")
        outcome, version = await files.take_lead(replace(seen.state, epoch=2), seen.version, ME)
        assert outcome is CasOutcome.APPLIED
        (mount / "away").rename(mount / ".perenne-tier")
        assert await listed(store) == []
        assert (await files.count_tier(POINT, version, None))[0] is CasOutcome.APPLIED
        assert await listed(store) == [Claim(2, ME.boot).key]

    run(play())


def test_of_the_log_nothing_is_put_by_who_leads_without_a_claim(store: ObjectStore, mount: Path) -> None:
    """It began to lead alone while the tier was away, which somebody else has taken over: a record of its epoch would
    outrank, or stand beside, what the other one acknowledges.
    """
    disk = MemoryDisk()
    record, marker = f"{LOG}000000000002/a.tar", Marker(4, "c").key

    async def play() -> None:
        alone = replace(tiered(1), in_sync=frozenset({MEMBER}), tier=None)
        assert (await FileCoordination(disk).create_state(alone))[0] is CasOutcome.APPLIED
        claims = claims_of(store, disk)
        files = FileCoordination(disk, claims)
        fenced = ClaimedStore(store, claims, files.claimed)
        with pytest.raises(Unreachable, match="does not lead"):
            await fenced.put(record, b"early")
        seen = await files.read_state()
        assert seen is not None
        (mount / ".perenne-tier").rename(mount / "away")
        assert (await files.take_lead(replace(seen.state, epoch=2), seen.version, ME))[0] is CasOutcome.APPLIED
        assert files.unclaimed is not None and ".perenne-tier" in files.unclaimed
        with pytest.raises(Unreachable):
            await fenced.put(record, b"away")
        (mount / "away").rename(mount / ".perenne-tier")

        await store.put(Claim(2, "other").key, b"{}\n")
        for key in (record, marker):
            with pytest.raises(Refused, match="another standalone node"):
                await fenced.put(key, b"late")
            with pytest.raises(Refused, match="another standalone node"):
                await fenced.delete(key)
        for prefix in (LOG, MARKER):
            assert [key async for key in store.list(prefix)] == []
        with pytest.raises(NodeRetired):
            await files.read_state()

    run(play())


def test_the_log_is_put_once_the_claim_is_there(store: ObjectStore, mount: Path) -> None:
    disk = MemoryDisk()

    async def play() -> None:
        alone = replace(tiered(1), in_sync=frozenset({MEMBER}), tier=None)
        assert (await FileCoordination(disk).create_state(alone))[0] is CasOutcome.APPLIED
        claims = claims_of(store, disk)
        files = FileCoordination(disk, claims)
        fenced = ClaimedStore(store, claims, files.claimed)
        seen = await files.read_state()
        assert seen is not None
        (mount / ".perenne-tier").rename(mount / "away")
        assert (await files.take_lead(replace(seen.state, epoch=2), seen.version, ME))[0] is CasOutcome.APPLIED
        (mount / "away").rename(mount / ".perenne-tier")
        await fenced.put(f"{LOG}000000000002/a.tar", b"record")
        assert await listed(store) == [Claim(2, ME.boot).key] and files.unclaimed is None
        await fenced.delete(f"{LOG}000000000002/a.tar")

    run(play())
