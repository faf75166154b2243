"""What the driver is told by whoever builds it."""

from collections.abc import Callable
from dataclasses import dataclass

from replication.coordination.port import ClusterRecord
from replication.core.situation import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicatorSettings:
    """What the driver needs beside the core's settings. Addresses are what other nodes and people use."""

    core: Settings
    cluster: ClusterRecord
    acknowledge_timeout_ms: int
    peer_host: str
    peer_port: int
    advertise_host: str
    dicom_port: int
    http_port: int
    ae_title: str
    version: str
    machine: str = ""
    """Which boot of which kernel this is."""
    refusal: str = ""
    """Why this node takes no store at all, by its configuration."""
    evicts: Callable[[], bool] = lambda: False  # whether this node may lack the records of sealed segments
    two_person: bool = False  # a delete needs a second person's approval
