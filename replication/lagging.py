"""How far each other replica, and the tier, is behind the log of this leader: records, bytes, and since when.

What is read for each replica that lacks something: one entry of the log's table, and one header of a record.
"""

from typing import TYPE_CHECKING

from replication.api import ReplicaLag
from replication.core.leader import Leadership
from replication.core.streams import Stage, Stream
from replication.core.values import TIER, TIER_MEMBER, Member, ReplicaId

if TYPE_CHECKING:
    from replication.register import Register
    from replication.replicator import Replicator


def lags(replicator: "Replicator", register: "Register", leadership: Leadership) -> tuple[ReplicaLag, ...]:
    """One per other node that is registered, in the set or connected, and not retired."""
    streams = {stream.peer.id: stream for stream in leadership.streams.by_link.values()}
    members = {member.id: member for member in leadership.in_sync}
    members |= register.registered or {}
    members |= {replica: stream.peer.member for replica, stream in streams.items()}
    in_sync = {member.id for member in leadership.in_sync}
    found: list[ReplicaLag] = []
    for replica in sorted(members.keys() - {replicator.me.id, TIER}):
        if replica in register.retired and replica not in in_sync:
            continue
        stream, member = streams.get(replica), members[replica]
        found.append(
            _lag(
                replicator,
                leadership,
                replica,
                _position(replicator, register, stream, member, in_sync=member in leadership.in_sync),
                in_sync=replica in in_sync,
                connected=replicator.core.situation.link_to(replica) is not None,
            )
        )
    return tuple(found)


def tier_lag(replicator: "Replicator", leadership: Leadership) -> ReplicaLag:
    """Before the whole bucket was listed, nothing is known of what it holds."""
    side = leadership.tier
    position = side.complete_upto if side.surveyed else 0
    in_sync = TIER_MEMBER in leadership.in_sync
    return _lag(replicator, leadership, TIER, position, in_sync=in_sync, connected=side.usable)


def _position(
    replicator: "Replicator", register: "Register", stream: Stream | None, member: Member, *, in_sync: bool
) -> int:
    """The last record up to which it is known to hold the log."""
    situation = replicator.core.situation
    if stream is not None and stream.stage is Stage.BROKEN:
        return 0
    if stream is not None and stream.stage is Stage.STREAMING and stream.confirmed.sequence:
        return stream.confirmed.sequence
    # Whoever is in the set holds everything that is committed, unless it shows that its disk was rolled back.
    known = max(register.held(member), situation.told.sequence if in_sync else 0)
    return min(known, stream.common.sequence) if stream is not None and stream.stage is not Stage.OPENING else known


def _lag(
    replicator: "Replicator",
    leadership: Leadership,
    replica: ReplicaId,
    position: int,
    *,
    in_sync: bool,
    connected: bool,
) -> ReplicaLag:
    situation = replicator.core.situation
    return ReplicaLag(
        replica=replica,
        in_sync=in_sync,
        connected=connected,
        records=max(0, situation.ledger.end.sequence - position),
        committed=max(0, situation.told.sequence - position),
        bytes=_bytes_after(replicator, leadership, position),
        seconds=_age_s(replicator, leadership, position + 1),
        blocked_at=replicator.feeder.blocked_at(replica),
    )


def _bytes_after(replicator: "Replicator", leadership: Leadership, position: int) -> int:
    """What was not handed to the log yet counts by its payload."""
    written = replicator.log.end.sequence
    queued = (one.size for one in leadership.uncommitted if one.sequence > max(written, position))
    return replicator.log.bytes_after(position) + sum(queued)


def _age_s(replicator: "Replicator", leadership: Leadership, sequence: int) -> float:
    """How long ago a record was numbered; 0 beyond the end, and where its time cannot be read."""
    if sequence > replicator.core.situation.ledger.end.sequence:
        return 0.0
    if leadership.uncommitted and sequence >= (first := leadership.uncommitted[0]).sequence:
        at = min(sequence - first.sequence, len(leadership.uncommitted) - 1)
        return (replicator.runtime.now_ms() - leadership.uncommitted[at].since_ms) / 1000
    time_us = _time_us(replicator, sequence)
    return max(0.0, (replicator.runtime.wall_us() - time_us) / 1_000_000) if time_us is not None else 0.0


def _time_us(replicator: "Replicator", sequence: int) -> int | None:
    """By the clock of the leader that numbered it. Of what is evicted or damaged here, the index knows the next best:
    when the first instance from there on came.
    """
    if (recent := replicator.recent.get(sequence)) is not None:
        return recent.header.time_us
    if (here := replicator.log.time_of(sequence)) is not None:
        return here
    return replicator.index.time_from(sequence) if replicator.index.applied.sequence >= sequence else None
