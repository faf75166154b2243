"""What a node says of itself to an operator's verbs, as JSON: made here from a running node, and read back here."""

import json
from collections.abc import Mapping
from typing import Any, Final

from replication.coordination import codec
from replication.coordination.codec import facts_point, point_facts
from replication.coordination.port import ClusterRecord, CoordinationCorrupt
from replication.core.rescue import Standing
from replication.core.values import ClusterState, Member, ReplicaId, TierMode
from replication.replicator import Replicator
from storage.disk import Disk
from storage.errors import StorageError
from storage.position import EpochSpan

FILE: Final = "last-state.json"
"""In the data directory: `state` as this node read it last. It decides nothing; a person's verb may need it."""


def describe(replicator: Replicator, remembered: ClusterState | None) -> dict[str, Any]:
    """On the event loop. remembered: the newest `state` that was read before, also in an earlier life."""
    situation = replicator.core.situation
    ledger = situation.ledger
    state = newest(remembered, situation.cluster)
    cluster = replicator.settings.cluster
    return {
        "node": replicator.me.id,
        "incarnation": replicator.me.incarnation,
        "cluster": cluster.cluster_id,
        "format_version": cluster.format_version,
        "segment_bytes": cluster.segment_bytes,
        "end": point_facts(ledger.durable),
        "told": point_facts(situation.told),
        "floor": point_facts(situation.floor),
        "promise": situation.wanted_promise,
        "counter": situation.counter,
        "epochs": [[span.epoch, span.first, span.last] for span in ledger.epochs()],
        "intact": ledger.intact,
        "fenced": situation.fenced,
        "tiered": situation.settings.tier_mode is not TierMode.OFF,
        "copies": situation.settings.minimum_copies,
        "leader": _heard(replicator),
        "remembered": json.loads(codec.encode_state(state)) if state is not None else None,
    }


def _heard(replicator: Replicator) -> str | None:
    """Who leads as far as this node hears: one that stopped is still followed, and says nothing any more."""
    core, beat = replicator.core, replicator.core.situation.settings.heartbeat_ms
    return core.leader if core.leadership is not None or core.following.hears_leader(4 * beat) else None


def read(facts: Mapping[str, Any]) -> tuple[ClusterRecord, Standing]:
    """Raises ValueError, KeyError, TypeError where another version of Perenne said it, CoordinationCorrupt."""
    cluster = ClusterRecord(str(facts["cluster"]), int(facts["format_version"]), int(facts["segment_bytes"]))
    remembered = facts["remembered"]
    return cluster, Standing(
        member=Member(ReplicaId(str(facts["node"])), str(facts["incarnation"])),
        end=facts_point(facts["end"]),
        told=facts_point(facts["told"]),
        floor=facts_point(facts["floor"]),
        promise=int(facts["promise"]),
        counter=int(facts["counter"]),
        epochs=tuple(EpochSpan(int(epoch), int(first), int(last)) for epoch, first, last in facts["epochs"]),
        intact=bool(facts["intact"]),
        fenced=None if facts["fenced"] is None else str(facts["fenced"]),
        tiered=bool(facts["tiered"]),
        copies=int(facts["copies"]),
        leader=None if facts["leader"] is None else ReplicaId(str(facts["leader"])),
        remembered=codec.decode_state(json.dumps(remembered).encode()) if remembered is not None else None,
    )


def newest(one: ClusterState | None, other: ClusterState | None) -> ClusterState | None:
    """Of two states the later change. The coordination service may have gone back, or lost everything."""
    return max((state for state in (one, other) if state is not None), key=lambda s: s.change.counter, default=None)


def recall(disk: Disk) -> ClusterState | None:
    """`state` as this node read it last; None where it never did, or the file cannot be read."""
    try:
        return codec.decode_state(disk.read(FILE)) if disk.exists(FILE) else None
    except (StorageError, OSError, CoordinationCorrupt):
        return None  # a copy for people: the node itself goes by its promise


def remember(disk: Disk, state: ClusterState) -> None:
    disk.write_atomically(FILE, codec.encode_state(state))
