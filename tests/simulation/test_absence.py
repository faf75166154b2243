"""Who may say that there is no such instance. The simulator makes a violation of a wrong "absent"."""

from replication.core.values import Phase
from tests.simulation.machine import Machine
from tests.simulation.stage import Stage, process_of


def named_leader(stage: Stage) -> Machine | None:
    """The active leader by the cluster state, whoever else may believe to be one."""
    state = stage.cluster.state
    if state is None or state.leader is None or state.phase is not Phase.ACTIVE:
        return None
    return stage.cluster.checks.by_name[state.leader.id]


def test_a_leader_that_nobody_reaches_does_not_deny_what_its_successor_promised() -> None:
    """It believes that it leads, and cannot know better: for that very reason it says that nobody can tell now."""
    with Stage(3) as stage:
        old = stage.leader
        stage.cut_off(old)
        stage.until(lambda: named_leader(stage) not in (None, old))
        new = named_leader(stage)
        assert new is not None
        stage.stored(new, "1.1")
        leadership = process_of(old).core.leadership
        assert leadership is not None and leadership.knows_commits
        found: list[bool] = []

        async def read() -> None:
            found.append(await stage.workload.read(process_of(old), "1.1"))

        process_of(old).loop.create_task(read())
        stage.until(lambda: found)
        assert found == [False]
        stage.reckon()


def asked(stage: Stage, machine: Machine, uid: str) -> bool:
    """Whether a node has an instance, asked now; a wrong "absent" is a violation."""
    found: list[bool] = []

    async def read() -> None:
        found.append(await stage.workload.read(process_of(machine), uid))

    process_of(machine).loop.create_task(read())
    stage.until(lambda: found)
    return found[0]


def test_a_leader_does_not_deny_what_its_own_disk_lost_when_it_reaches_nobody_who_has_it() -> None:
    with Stage(3) as stage:
        leader = stage.leader
        instance = stage.stored(leader, "1.1")
        stage.run(1000)
        stage.cut(leader)
        content = next(c for c in leader.medium.files.values() if instance.dataset in c.medium)
        at = content.medium.index(instance.dataset)
        content.medium[at] ^= 1
        content.cached[at] ^= 1
        leader.harm = "flipped bits"
        assert not asked(stage, leader, "1.1")
        stage.reckon()


def test_a_new_leader_denies_nothing_before_it_knows_what_its_predecessor_promised() -> None:
    """It holds the record, was not told that it is committed, and reaches nobody who could confirm its own."""
    with Stage(3) as stage:
        old, (one, other) = stage.leader, stage.followers
        instance = stage.offer(old, "1.1")
        end = process_of(old).core.situation.ledger.end.sequence
        stage.until(lambda: instance.done)
        stage.cut(old)
        stage.part(one, other)
        stage.strike("kill", old)
        old.stops = "kept down by the scenario"
        stage.until(lambda: named_to_lead(stage) in (one, other))
        new = named_to_lead(stage)
        assert new is not None
        stage.until(lambda: (leads := process_of(new).core.leadership) is not None and leads.named)
        assert process_of(new).core.situation.told.sequence <= end < process_of(new).core.situation.ledger.end.sequence
        assert not asked(stage, new, "1.1")
        old.stops = ""
        stage.reckon()


def test_who_led_before_its_session_ended_denies_nothing_in_the_next_one() -> None:
    """It was asleep while another was elected. Coordination answers it before it has read who leads now."""
    with Stage(3) as stage:
        old = stage.leader
        stage.cut(old)
        process_of(old).pause()
        stage.until(lambda: named_leader(stage) not in (None, old))
        new = named_leader(stage)
        assert new is not None
        stage.stored(new, "1.1")
        process = process_of(old)
        process.resume()
        stage.until(lambda: not process.client.connected)
        stage.until(lambda: process.client.connected)
        stage.run(2)  # it registers
        assert process.core.leadership is not None and process.core.leadership.knows_commits
        assert not asked(stage, old, "1.1")
        stage.reckon()


def named_to_lead(stage: Stage) -> Machine | None:
    """The leader by the cluster state, active or not."""
    state = stage.cluster.state
    return stage.cluster.checks.by_name[state.leader.id] if state is not None and state.leader is not None else None
