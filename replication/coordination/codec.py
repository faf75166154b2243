"""What the znodes hold: JSON objects, chains in hexadecimal, unknown fields refused only where they would matter."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from replication.coordination.port import ClusterRecord, CoordinationCorrupt, LiveNode, NodeRegistration, Operation
from replication.core.compaction import Reads
from replication.core.values import (
    TIER_MEMBER,
    AcceptedLoss,
    Change,
    ClusterState,
    Identity,
    Member,
    Phase,
    ReplicaId,
    Restored,
    TierClaim,
    Transfer,
)
from storage.position import GENESIS, LogPoint, LogPosition

FORMAT: Final = 1
T = TypeVar("T")
Json = Mapping[str, Any]


def _dump(facts: Json) -> bytes:
    return json.dumps({"format": FORMAT, **facts}, sort_keys=True, indent=1).encode()


def _load(name: str, data: bytes, build: Callable[[Json], T]) -> T:
    """Raises CoordinationCorrupt, naming the znode and the reason."""
    try:
        facts: Any = json.loads(data)
        if facts["format"] != FORMAT:
            raise ValueError(f"format {facts['format']} is not known to this version")
        return build(facts)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CoordinationCorrupt(f"znode {name}: {type(error).__name__}: {error}") from error


def point_facts(point: LogPoint) -> Json:
    return {"epoch": point.epoch, "sequence": point.sequence, "chain": point.chain.hex()}


def facts_point(facts: Json) -> LogPoint:
    chain = bytes.fromhex(facts["chain"])
    if len(chain) != 32:
        raise ValueError("a chain has 32 bytes")
    return LogPoint(LogPosition(int(facts["epoch"]), int(facts["sequence"])), chain)


def _identity(identity: Identity) -> Json:
    return {"id": identity.id, "incarnation": identity.incarnation, "boot": identity.boot}


def _to_identity(facts: Json) -> Identity:
    return Identity(ReplicaId(str(facts["id"])), str(facts["incarnation"]), str(facts["boot"]))


def encode_state(state: ClusterState) -> bytes:
    """The znode `state`."""
    return _dump(
        {
            "change": {"counter": state.change.counter, "id": state.change.id},
            "epoch": state.epoch,
            "leader": _identity(state.leader) if state.leader else None,
            "phase": state.phase.value,
            "in_sync": [{"id": m.id, "incarnation": m.incarnation} for m in sorted(state.in_sync)],
            "tier": _claim(state.tier) if state.tier else None,
            "floor": point_facts(state.floor),
            "transfer": {"to": state.transfer.to, "until_us": state.transfer.until_us} if state.transfer else None,
            "accepted_loss": _accepted(state.accepted_loss) if state.accepted_loss else None,
            "restored": {"upto": point_facts(state.restored.upto), "source": state.restored.source}
            if state.restored
            else None,
        }
    )


def _claim(claim: TierClaim) -> Json:
    return {"from": claim.first, "chain": claim.chain_before.hex(), "upto": point_facts(claim.upto)}


def _to_claim(facts: Json) -> TierClaim:
    upto = facts_point(facts["upto"]) if "upto" in facts else GENESIS  # claims of earlier versions have none
    return TierClaim(int(facts["from"]), bytes.fromhex(facts["chain"]), upto)


def _accepted(loss: AcceptedLoss) -> Json:
    upto = {"epoch": loss.upto.epoch, "sequence": loss.upto.sequence}
    return {"upto": upto, "known": loss.known, "by": loss.by, "at_us": loss.at_us}


def _to_accepted(facts: Json) -> AcceptedLoss:
    upto = LogPosition(int(facts["upto"]["epoch"]), int(facts["upto"]["sequence"]))
    return AcceptedLoss(upto, int(facts["known"]), str(facts["by"]), int(facts["at_us"]))


def _build_state(facts: Json) -> ClusterState:
    tier, transfer, leader = facts["tier"], facts["transfer"], facts["leader"]
    accepted = facts.get("accepted_loss")
    restored = facts.get("restored")  # states of earlier versions have none
    in_sync = frozenset(Member(ReplicaId(str(m["id"])), str(m["incarnation"])) for m in facts["in_sync"])
    if (tier is not None) != (TIER_MEMBER in in_sync):
        raise ValueError("the tier is claimed without being a member, or the other way round")
    return ClusterState(
        change=Change(int(facts["change"]["counter"]), str(facts["change"]["id"])),
        epoch=int(facts["epoch"]),
        leader=_to_identity(leader) if leader is not None else None,
        phase=Phase(facts["phase"]),
        in_sync=in_sync,
        tier=_to_claim(tier) if tier is not None else None,
        floor=facts_point(facts["floor"]),
        transfer=Transfer(ReplicaId(str(transfer["to"])), int(transfer["until_us"])) if transfer else None,
        accepted_loss=_to_accepted(accepted) if accepted is not None else None,
        restored=Restored(facts_point(restored["upto"]), str(restored["source"])) if restored else None,
    )


def decode_state(data: bytes) -> ClusterState:
    return _load("state", data, _build_state)


def encode_tier_floor(point: LogPoint) -> bytes:
    """The znode `tierfloor`."""
    return _dump(point_facts(point))


def decode_tier_floor(data: bytes) -> LogPoint:
    return _load("tierfloor", data, facts_point)


def encode_leader(leader: Identity) -> bytes:
    """The ephemeral `leader`."""
    return _dump(_identity(leader))


def decode_leader(data: bytes) -> Identity:
    return _load("leader", data, _to_identity)


def encode_cluster(record: ClusterRecord) -> bytes:
    """The znode `cluster`."""
    return _dump(
        {
            "cluster_id": record.cluster_id,
            "format_version": record.format_version,
            "segment_bytes": record.segment_bytes,
        }
    )


def decode_cluster(data: bytes) -> ClusterRecord:
    return _load(
        "cluster",
        data,
        lambda f: ClusterRecord(str(f["cluster_id"]), int(f["format_version"]), int(f["segment_bytes"])),
    )


def encode_registration(registration: NodeRegistration) -> bytes:
    """The znode `nodes/<id>`."""
    return _dump(
        {
            "id": registration.id,
            "incarnation": registration.incarnation,
            "floor": point_facts(registration.floor),
            "retired": registration.retired,
            "former": list(registration.former),
        }
    )


def decode_registration(data: bytes) -> NodeRegistration:
    return _load(
        "nodes",
        data,
        lambda f: NodeRegistration(
            ReplicaId(str(f["id"])),
            str(f["incarnation"]),
            facts_point(f["floor"]),
            bool(f["retired"]),
            tuple(str(former) for former in f.get("former", ())),
        ),
    )


def encode_live(live: LiveNode) -> bytes:
    """The ephemeral `live/<id>`."""
    return _dump(
        {
            "identity": _identity(live.identity),
            "host": live.host,
            "peer_port": live.peer_port,
            "dicom_port": live.dicom_port,
            "http_port": live.http_port,
            "ae_title": live.ae_title,
            "version": live.version,
            "end": point_facts(live.end),
            "evicts": live.evicts,
            "machine": live.machine,
            "reads": {"upto": live.reads.upto, "behind": live.reads.behind, "behind_from": live.reads.behind_from},
        }
    )


def decode_live(data: bytes) -> LiveNode:
    return _load(
        "live",
        data,
        lambda f: LiveNode(
            _to_identity(f["identity"]),
            str(f["host"]),
            int(f["peer_port"]),
            int(f["dicom_port"]),
            int(f["http_port"]),
            str(f["ae_title"]),
            str(f["version"]),
            facts_point(f["end"]),
            bool(f.get("evicts", False)),
            _to_reads(f.get("reads", {})),
            str(f.get("machine", "")),
        ),
    )


def _to_reads(facts: Json) -> Reads:
    behind = tuple(int(first) for first in facts.get("behind", ()))
    return Reads(int(facts.get("upto", 0)), behind, int(facts.get("behind_from", 0)))


def encode_operation(operation: Operation) -> bytes:
    """The znode `ops/<verb>`."""
    return _dump(
        {
            "verb": operation.verb,
            "id": operation.id,
            "arguments": dict(operation.arguments),
            "result": operation.result,
        }
    )


def decode_operation(data: bytes) -> Operation:
    return _load(
        "ops",
        data,
        lambda f: Operation(
            str(f["verb"]),
            str(f["id"]),
            {str(k): str(v) for k, v in f["arguments"].items()},
            None if f["result"] is None else str(f["result"]),
        ),
    )
