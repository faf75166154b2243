"""What the configuration says of replication: of its core, and of its driver."""

import socket
from typing import Final

from perenne import VERSION
from perenne.config import Config
from perenne.retention import TWO_PERSON
from replication.coordination.port import ClusterRecord
from replication.core.situation import ConflictPolicy, Settings
from replication.core.values import Identity, TierMode
from replication.settings import ReplicatorSettings

ALONE: Final = "one copy only: configure a tier, or ZooKeeper, or allow_solo"


def advertised_host(config: Config) -> str:
    """Where other nodes reach this one."""
    host = config.peer.advertise_host or config.peer.host
    return socket.gethostname() if host == "0.0.0.0" else host


def replicator_settings(
    config: Config, me: Identity, cluster: ClusterRecord, *, host_rebooted: bool, machine: str
) -> ReplicatorSettings:
    core = Settings(
        identity=me,
        copies_required=config.copies_required,
        allow_solo=config.cluster.allow_solo,
        session_timeout_ms=config.coordination.session_timeout_ms,
        stall_timeout_ms=config.peer.stall_timeout_ms,
        conflict_policy=ConflictPolicy(config.cluster.conflict_policy),
        host_rebooted=host_rebooted,
        tier_mode=TierMode(config.tier.mode) if config.tier.on else TierMode.OFF,
        tier_pack_bytes_per_s=config.tier.pack_rate_bytes,
    )
    return ReplicatorSettings(
        core=core,
        cluster=cluster,
        acknowledge_timeout_ms=config.cluster.acknowledge_timeout_ms,
        peer_host=config.peer.host,
        peer_port=config.peer.port,
        advertise_host=advertised_host(config),
        dicom_port=config.dimse.port,
        http_port=config.http.port,
        ae_title=config.dimse.ae_title,
        version=VERSION,
        machine=machine,
        two_person=config.retention.approval == TWO_PERSON,
        refusal=ALONE if config.standalone and not config.cluster.allow_solo and not config.tier.on else "",
    )
