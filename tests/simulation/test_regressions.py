"""What the simulator found in production code, each as the shortest scenario that shows it (docs/proof.md)."""

from pathlib import Path
from random import Random

import pytest

from perenne.dimse.meta import file_meta
from replication.coordination.port import Operation
from replication.core.values import Identity
from replication.opening import open_store
from replication.rejoin import saved_instances
from storage.disk import RealDisk
from storage.log import LogIdentity
from storage.metadata import NodeIdentity, PromiseFile, write_identity
from storage.position import LogPosition, RecordHeader, RecordKind
from storage.record import encode_header, trailing_padding
from storage.staging import StagingArea
from tests.simulation.cluster import Shape
from tests.simulation.disk import Medium, SimDisk
from tests.simulation.stage import Stage, process_of
from tests.simulation.world import PowerCut

HOUR_US = 3_600_000_000


def test_a_promise_that_only_the_page_cache_holds_is_not_acted_on() -> None:
    """A process is killed in its fsync; the next one reads the promise; then the power fails."""
    medium = Medium()
    first = SimDisk(medium)
    write_identity(first, NodeIdentity("cluster", "a", "disk"))
    promise = PromiseFile(first)

    def die(operation: str, name: str) -> None:
        if operation == "sync":
            raise PowerCut

    first.before = die
    with pytest.raises(PowerCut):
        promise.store(epoch=7)
    believed = PromiseFile(SimDisk(medium)).value.epoch
    medium.lose_power(Random(3))
    assert PromiseFile(SimDisk(medium)).value.epoch >= believed


def test_a_promise_whose_fsync_failed_is_read_from_the_medium() -> None:
    medium = Medium()
    first = SimDisk(medium)
    write_identity(first, NodeIdentity("cluster", "a", "disk"))
    promise = PromiseFile(first)

    def fail(operation: str, name: str) -> None:
        if operation == "sync":
            raise OSError(5, "Input/output error")

    first.before = fail
    with pytest.raises(Exception, match="fdatasync"):
        promise.store(epoch=7)
    assert PromiseFile(SimDisk(medium)).value.epoch == 0


def test_what_was_saved_damaged_is_not_offered_again(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path)
    staging = StagingArea(disk, memory_instance_bytes=1 << 20, pool_bytes=1 << 22)
    meta = file_meta(sop_class_uid="1.2", sop_instance_uid="1.3", transfer_syntax_uid="1.2.840.10008.1.2", source_ae="")
    receiving = staging.begin(meta)
    receiving.write(memoryview(bytes(range(200))))
    staged = receiving.finish()
    payload = b"".join(bytes(part) for part in staged.parts())
    position = LogPosition(1, 1)
    header = RecordHeader(
        position, RecordKind.INSTANCE, staged.dataset_digest, staged.digest, 1, "1/2/1.3.dcm", len(payload)
    )
    record = b"".join((encode_header(header, bytes(32)), payload, bytes(trailing_padding(len(payload)))))
    damaged = bytearray(record)
    damaged[record.index(bytes(range(200))) + 10] ^= 4
    disk.make_directory("lost+found")
    disk.write_atomically("lost+found/whole.tar", record)
    disk.write_atomically("lost+found/damaged.bin", bytes(damaged))
    found = saved_instances(disk, ["lost+found/whole.tar", "lost+found/damaged.bin"], staging)
    assert [draft.staged.digest for draft in found] == [staged.digest]


def test_a_follower_that_stopped_writing_does_not_keep_its_leader_busy() -> None:
    with Stage(3) as stage:
        follower = stage.followers[0]
        stage.strike("fail_sync", follower)
        stage.stored(stage.leader, "1.1")
        stage.until(lambda: process_of(follower).core.situation.fenced)
        leader = stage.leader
        for number in range(3):
            stage.offer(leader, f"2.{number}")
        before = stage.world.steps
        stage.run(2000)
        assert stage.world.steps - before < 5000, "objection and new beginning, without end"
        stage.run(3000)  # its connection is given up, and there is a new one
        leadership = process_of(leader).core.leadership
        assert leadership is not None
        assert follower.member not in leadership.streams.sound(), "it takes nothing, and is fed"
        stage.reckon()


def test_a_damaged_segment_is_not_sent_again_and_again() -> None:
    """A learner refuses it as a whole; then its records come one by one, the leader learns which is damaged, and has it
    repaired from the other member.
    """
    with Stage(3) as stage:
        leader, follower = stage.leader, stage.followers[0]
        for number in range(20):
            stage.stored(leader, f"1.{number}", 6000)
        content = leader.medium.files["log/000000000001.tar"]
        instance = next(i for i in stage.workload.instances[2:] if i.dataset in content.medium)
        at = content.medium.index(instance.dataset)
        content.medium[at] ^= 1
        content.cached[at] ^= 1
        leader.harm = "flipped bits"
        stage.strike("wipe", follower)
        stage.until(lambda: follower.running is not None)
        before = stage.world.steps
        stage.run(2000)
        assert stage.world.steps - before < 10_000, "the same segment, as fast as the network carries it"
        stage.until(lambda: any("damaged" in name for name in leader.medium.files if name.startswith("lost+found/")))
        stage.until(lambda: not process_of(leader).log.damaged())
        assert instance.dataset in content.medium
        stage.reckon()


def test_a_segment_that_cannot_be_taken_over_for_whatever_reason_is_answered() -> None:
    """Without an answer the follower waited for its own deed for ever, and neither followed nor stood for election."""
    opened: list[str] = []

    def strike(operation: str, name: str) -> None:
        before(operation, name)
        if operation == "open" and name.startswith("staging/segment-"):
            opened.append(name)
            if len(opened) == 2:  # after the one that writes, the one that proves
                raise OSError(24, "Too many open files")

    with Stage(3) as stage:
        leader, follower = stage.leader, stage.followers[0]
        for number in range(20):
            stage.stored(leader, f"1.{number}", 6000)
        stage.strike("wipe", follower)
        stage.until(lambda: follower.running is not None)
        disk = process_of(follower).disk
        before, disk.before = disk.before, strike
        stage.until(lambda: len(opened) >= 2)
        stage.until(lambda: follower.running is not None and stage.in_sync(follower))
        assert not any(name.startswith("staging/segment-") for name in follower.medium.files), "nothing is left"
        stage.reckon()


def test_who_has_not_indexed_a_segment_yet_does_not_take_the_second_of_a_name_for_the_first() -> None:
    """The first lay in a segment that was taken over whole, the second came as a record, which is known at once."""
    with Stage(3) as stage:
        leader, follower = stage.leader, stage.followers[0]
        for number in range(20):
            stage.stored(leader, f"1.{number}", 6000)
        stage.strike("wipe", follower)
        stage.until(lambda: follower.running is not None)
        process, coming = process_of(follower), [True]

        def segments_come() -> None:
            """One after the other: the index gives way as long as they do."""
            if coming:
                process.replicator.network.on_segment()
                process.loop.call_later(0.5, segments_come)

        process.loop.call_soon(segments_come)
        stage.until(lambda: process.log.end.sequence > 15)
        second = stage.stored(leader, "1.1", 6002)
        recent = process.replicator.recent
        stage.until(lambda: stage.in_sync(follower) and recent.versions("1.1"))
        (known,) = recent.versions("1.1")
        assert known.sequence == process_of(leader).log.end.sequence and second.done, (
            "of the first it knows nothing yet"
        )
        found: list[bool] = []

        async def read() -> None:
            found.append(await stage.workload.read(process_of(follower), "1.1"))  # a violation if it is the second

        process.loop.create_task(read())
        stage.until(lambda: found)
        assert found == [True], "the leader was asked"
        coming.clear()
        stage.reckon()


def test_a_half_open_connection_does_not_keep_a_follower_out_for_hours() -> None:
    with Stage(3) as stage:
        follower = stage.followers[0]
        for transport in stage.cluster.net.transports():
            if transport.loop.number == follower.number:
                stage.cluster.net.silence(transport)
        stage.run(12_000)
        assert stage.cluster.redundant(), "\n".join(stage.lines[-20:])


def test_a_peer_that_reads_and_understands_nothing_is_hung_up_on() -> None:
    """As after a flipped bit in the length of a frame: it waits for what never comes."""
    with Stage(3) as stage:
        follower = stage.followers[0]
        for transport in stage.cluster.net.transports():
            if transport.loop.number == follower.number:
                transport.receive = lambda content: None  # type: ignore[method-assign]
        stage.offer(stage.leader, "1.1")
        stage.run(12_000)
        assert stage.cluster.redundant(), "\n".join(stage.lines[-20:])


def test_the_leader_does_not_call_absent_what_its_own_disk_lost() -> None:
    """The checks make a violation of the wrong answer, "absent" and other bytes alike."""
    with Stage(3) as stage:
        leader = stage.leader
        instance = stage.stored(leader, "1.1")
        stage.run(1000)
        content = next(c for c in leader.medium.files.values() if instance.dataset in c.medium)
        at = content.medium.index(instance.dataset)
        content.medium[at] ^= 1
        content.cached[at] ^= 1
        leader.harm = "flipped bits"
        answers: list[bool] = []

        async def read() -> None:
            answers.append(await stage.workload.read(process_of(leader), "1.1"))

        process_of(leader).loop.create_task(read())
        stage.until(lambda: answers)
        assert answers == [True], "another node has it"


def test_a_truncation_that_finds_the_disk_full_fences_the_node() -> None:
    with Stage(3) as stage:
        old = stage.leader
        stage.cut_off(old)
        stage.offer(old, "1.1")
        # The old one leads on, as far as it knows.
        others = [machine for machine in stage.cluster.machines.values() if machine is not old]
        stage.until(lambda: any(process_of(one).core.leadership for one in others), 40_000)
        stage.stored(next(one for one in others if process_of(one).core.leadership), "1.2")
        old.medium.room = 0
        stage.cluster.net.heal()
        stage.until(lambda: process_of(old).core.situation.fenced)
        stage.reckon()


def test_after_a_power_cut_of_the_whole_site_nobody_waits_for_those_who_are_there() -> None:
    """Both stand before they reach each other. The limit is strict, so whoever was not asked again would be waited for
    without end.
    """
    with Stage(2, shape=Shape(nodes=2, strict=True)) as stage:
        stage.stored(stage.leader, "1.1")
        first, second = stage.cluster.machines.values()
        stage.strike("site_power", first)
        stage.run(1)
        stage.part(first, second)
        for machine in (first, second):
            stage.cluster.start(machine)
        stage.until(lambda: all(process_of(machine).core.candidacy is not None for machine in (first, second)))
        stage.run(6000)
        stage.cluster.net.heal()
        stage.until(lambda: stage.cluster.leader() is not None, 10_000)
        stage.reckon()


def test_a_process_restarted_after_a_reboot_waits_as_the_first_one_did() -> None:
    """Rolled back by its hypervisor, then killed once: what only the other member holds must not be led without."""
    with Stage(2, shape=Shape(nodes=2, strict=True)) as stage:
        leader, follower = stage.leader, stage.followers[0]
        stage.cluster.snapshot(follower)
        for number in range(4):
            stage.stored(leader, f"1.{number}")
        stage.strike("power_cut", leader)
        leader.stops = "kept down by the scenario"
        assert stage.cluster.roll_back(follower)
        stage.until(lambda: follower.running is not None)
        stage.run(500)
        process_of(follower).kill()
        stage.until(lambda: follower.running is not None)
        stage.run(8000)
        assert stage.cluster.leader() is None
        leader.stops = ""
        stage.cluster.start(leader)
        stage.reckon()


def test_the_boot_is_settled_once_the_node_is_in_sync_again() -> None:
    with Stage(2) as stage:
        follower = stage.followers[0]
        stage.strike("power_cut", follower)
        stage.until(stage.cluster.redundant)
        stage.run(1000)
        process_of(follower).kill()
        store = open_store(
            SimDisk(follower.medium),
            LogIdentity("simulated", 64 * 1024),
            host_boot=follower.host_boot,
            direct=False,
            spares=0,
        )
        assert not store.host_rebooted


def test_a_transfer_hint_by_a_clock_that_jumped_does_not_prevent_elections() -> None:
    """Whom it names is killed, and so is the leader that wrote it: the third one waits by its own clock."""
    with Stage(3) as stage:
        leader, (target, third) = stage.leader, stage.followers
        process_of(leader).skew_us += HOUR_US
        stage.cluster.service.request(Operation("switchover", "by hand", {"to": target.name}))
        stage.until(lambda: stage.cluster.state is not None and stage.cluster.state.transfer is not None)
        for machine in (target, leader):
            process_of(machine).kill()
            machine.stops = "kept down by the scenario"
        stage.until(lambda: stage.cluster.leader() is third, 15_000)
        for machine in (target, leader):
            machine.stops = ""
        stage.reckon()


def test_a_leader_lets_go_although_its_request_to_was_lost() -> None:
    """The session goes on, so the service keeps `leader`: seed 671260103259, where nobody stood any more."""
    with Stage(3) as stage:
        leader = stage.leader
        client = process_of(leader).client
        resign, asked = client.resign, 0

        async def lost_once(who: Identity) -> None:
            nonlocal asked
            asked += 1
            if asked > 1:
                await resign(who)

        setattr(client, "resign", lost_once)  # noqa: B010 - a method is replaced on purpose
        stage.run(1000)  # what the service tells of the last change comes too early to help
        stage.strike("fail_sync", leader)
        stage.offer(leader, "1.1")
        stage.until(lambda: stage.cluster.leader() not in (leader, None), 10_000)
        assert asked > 1
        stage.reckon()
