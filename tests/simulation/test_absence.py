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
