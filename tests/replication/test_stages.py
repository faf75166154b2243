"""Goal: each record is timed once, from the queue to the disk, and what was never written counts nowhere; a connection
that this node ends is one trouble and not two.
"""

from replication.core.values import ReplicaId
from replication.stages import Stages
from replication.troubles import HUNG_UP, LOST, REASONS, Troubles

OTHER = ReplicaId("n2")


def counted(stages: Stages) -> int:
    return sum(stages.report()["local_fsync"].counts)


def test_a_record_is_timed_once_when_everything_up_to_it_is_durable() -> None:
    stages = Stages()
    for sequence in (1, 2, 3):
        stages.queued(sequence)
    stages.durable(0)
    assert counted(stages) == 0
    stages.durable(2)
    assert counted(stages) == 2
    stages.durable(2)
    stages.durable(3)
    assert counted(stages) == 3
    assert {name for name, timing in stages.report().items() if sum(timing.counts)} == {"local_fsync"}


def test_what_the_log_lost_is_not_timed_when_its_number_is_given_again() -> None:
    stages = Stages()
    stages.queued(1)
    stages.forget()
    stages.queued(1)
    stages.durable(1)
    assert counted(stages) == 1


def test_a_connection_that_ended_is_told_by_who_ended_it() -> None:
    troubles = Troubles(lambda: 7_000_000)
    assert troubles.of(OTHER) == dict.fromkeys(REASONS, 0)
    troubles.ended(1, OTHER)
    for _ in range(3):  # asked again until the other side lets go
        troubles.hanging_up(2, OTHER)
    troubles.ended(2, OTHER)
    assert troubles.of(OTHER) == dict.fromkeys(REASONS, 0) | {LOST: 1, HUNG_UP: 1}
    troubles.confirmed_by(OTHER)
    assert troubles.confirmed == {OTHER: 7.0}
