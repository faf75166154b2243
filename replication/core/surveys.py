"""What a node answers to a candidate (protocol, section 6)."""

from replication.core.effects import SendTail
from replication.core.roles import Roles
from replication.core.situation import Situation
from replication.core.values import Phase
from replication.messages import Fetch, FetchEnd, Survey, SurveyAnswer, to_point


def answer_survey(roles: Roles, link: int, message: Survey) -> None:
    """Tell a candidate what this node has promised and holds, and whether it hears a leader."""
    situation, leadership = roles.situation, roles.leadership
    if not situation.admitted:
        return
    beat = situation.settings.heartbeat_ms
    active = leadership is not None and leadership.phase is Phase.ACTIVE
    answer = SurveyAnswer(
        nonce=message.nonce,
        promise=situation.wanted_promise,
        end=to_point(situation.ledger.durable),
        # Damage elsewhere takes nothing from the tail: whoever copies it proves each record.
        verified=situation.fenced is None,
        sees_leader=active or roles.following.hears_leader(4 * beat),
        state_counter=situation.counter,
    )
    situation.send(link, answer)


def answer_fetch(situation: Situation, link: int, message: Fetch) -> None:
    """Send a candidate the end of this log that it lacks, if it holds what comes before."""
    after = message.after.log_point()
    if situation.ledger.holds(after) and message.last <= situation.ledger.durable.sequence:
        situation.emit(SendTail(link, message.nonce, after, message.last))
    else:
        situation.send(link, FetchEnd(message.nonce, "that is not a prefix of this log"))
