"""An election whose outcome comes late, to a node that meanwhile has promised a later epoch."""

from collections.abc import Callable

import pytest

from replication.core import effects as fx
from replication.core import events as ev
from replication.core.values import VersionedState
from replication.messages import Confirmed, OpenStream, Survey, to_point
from storage.position import GENESIS
from tests.core.paper_node import PaperNode
from tests.core.puppets import Puppet, log_of, next_record, on_stage, state_of


def won_and_stopped() -> tuple[PaperNode, Puppet, ev.Event]:
    """Node b wins epoch 2 and is stopped before it hears so; then c wins epoch 3, and calls first."""
    node = on_stage("b", log_of((1, "")), state_of("abc", 1))
    cluster, one, later = node.cluster, Puppet(node, "a"), Puppet(node, "c")
    cluster.run_until(lambda: bool(one.heard(Survey) and later.heard(Survey)))
    one.answers_the_survey()
    later.answers_the_survey()
    cluster.run_until(lambda: any(isinstance(effect, fx.TakeLead) for effect in node.effects))
    _, _, apply = cluster.wire.pop()
    outcome = apply()
    cluster.wire.clear()
    assert outcome is not None
    state = state_of("abc", 3, leader="c", counter=9)
    cluster.service.state, cluster.service.leader = VersionedState(state, 9), state.leader
    return node, later, outcome


def follows_and_confirms(node: PaperNode, leader: Puppet) -> None:
    leader.leads(3)
    leader.sends(next_record(node.disk.log, 3), node.disk.log.end, 3)
    node.cluster.run(10)
    assert leader.heard(Confirmed)[-1].durable.epoch == 3


def only_promises(node: PaperNode, leader: Puppet) -> None:
    """The call of c and the late outcome come together: the promise is on its way to the disk."""
    node.feed(ev.Received(leader.link, leader.identity, OpenStream(3, to_point(GENESIS))))


@pytest.mark.parametrize("meanwhile", [follows_and_confirms, only_promises])
def test_an_election_that_was_won_before_a_later_epoch_was_promised_is_not_taken_up(
    meanwhile: Callable[[PaperNode, Puppet], None],
) -> None:
    """Else its EPOCH record, of epoch 2, would come to lie on records of epoch 3, in a log that nobody can follow."""
    node, leader, outcome = won_and_stopped()
    meanwhile(node, leader)
    node.feed(outcome)
    node.cluster.run(100)
    assert not [effect for effect in node.effects if isinstance(effect, fx.AppendOwn)]
    assert node.replica.leader == "c"
