"""Before a node is built: whose data directory is this, and of which cluster?"""

import asyncio
import contextlib
import logging
import secrets
from typing import Final

from perenne.config import Config
from perenne.config_tls import zookeeper_access
from perenne.session import SessionWaiter
from replication.coordination.port import ClusterRecord, CoordinationCorrupt, CoordinationUnavailable
from replication.coordination.zookeeper import ZooKeeperCoordination
from replication.tier.manifest import claim_for, cluster_of, holds_anything
from replication.tier.port import ObjectStore, TierError, Unreachable
from storage.disk import Disk
from storage.errors import StorageError
from storage.metadata import NodeIdentity, read_identity, write_identity

_LOG: Final = logging.getLogger("perenne.node")
TIER_AGAIN_S: Final = 1.0


class CannotStart(Exception):
    """The text says why, and what to do."""


async def identified(
    config: Config, disk: Disk, tier: ObjectStore | None, stopping: asyncio.Event
) -> tuple[NodeIdentity | None, ClusterRecord]:
    """Read node.json, or format the directory as a new member of the cluster that coordination knows.

    Raises CannotStart.
    """
    try:
        identity = read_identity(disk)
    except StorageError as error:
        raise CannotStart(f"{config.node.data_dir}: {error}") from error
    if identity is not None and identity.node_id != config.node.id:
        raise CannotStart(
            f"{config.node.data_dir} belongs to node {identity.node_id}, not {config.node.id}:"
            " set [node] id, or give another data_dir"
        )
    segment_bytes = config.cluster.segment_bytes
    if identity is not None:
        return identity, ClusterRecord(identity.cluster_id, 1, segment_bytes)
    proposal = ClusterRecord(secrets.token_hex(8), 1, segment_bytes)
    if not config.standalone:
        cluster = await _ask_cluster(config, proposal, stopping)
    else:
        cluster = await _begun(config, proposal, tier, stopping) if tier is not None else proposal
    if cluster is None:
        return None, proposal
    if cluster.segment_bytes != segment_bytes:
        raise CannotStart(f"the cluster was made with segment_bytes = {cluster.segment_bytes}: set it so in [cluster]")
    identity = NodeIdentity(cluster.cluster_id, config.node.id, secrets.token_hex(8))
    try:
        write_identity(disk, identity)
    except StorageError as error:
        raise CannotStart(f"{config.node.data_dir}: {error}") from error
    _LOG.info("formatted a data directory", extra={"cluster": identity.cluster_id, "node": identity.node_id})
    return identity, cluster


async def _begun(
    config: Config, proposal: ClusterRecord, tier: ObjectStore, stopping: asyncio.Event
) -> ClusterRecord | None:
    """A standalone node begins a log of its own in a tier that holds none: it waits until the tier says so.

    None when told to stop meanwhile. Raises CannotStart.
    """
    while not stopping.is_set():
        try:
            used = await holds_anything(tier)
            known = await cluster_of(tier)  # without a log: of a start that was killed just here
            if not used and known is None:
                await claim_for(tier, proposal)
        except Unreachable as error:
            _LOG.warning(
                "this disk is empty: waiting for the tier, which may hold what belongs here", extra=_why(error)
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), TIER_AGAIN_S)
            continue
        except TierError as error:
            raise CannotStart(f"nothing was begun on this empty disk: {error}") from error
        if not used:
            return known or proposal
        name = f"cluster {known.cluster_id}" if known is not None else "a cluster"
        raise CannotStart(
            f"this disk is empty, and the tier holds the log of {name}: a new log is not begun over it. To bring that"
            " archive back to this machine: perenne restore --config FILE --cluster. For a new archive give [tier] a"
            f" bucket, a prefix or a directory of its own ({config.node.data_dir} was left empty)"
        )
    return None


def _why(error: Exception) -> dict[str, object]:
    return {"reason": str(error)}


async def _ask_cluster(config: Config, proposal: ClusterRecord, stopping: asyncio.Event) -> ClusterRecord | None:
    """Wait for coordination for as long as it takes; None when told to stop meanwhile."""
    settings = config.coordination
    coordination = ZooKeeperCoordination(
        settings.zookeeper, session_timeout_ms=settings.session_timeout_ms, access=zookeeper_access(config)
    )
    connected = SessionWaiter()
    await coordination.start(connected)
    said = ""
    try:
        while not stopping.is_set():
            if not connected.event.is_set():
                _LOG.warning("waiting for ZooKeeper", extra={"zookeeper": settings.zookeeper})
            waiters = [asyncio.ensure_future(event.wait()) for event in (connected.event, stopping)]
            await asyncio.wait(waiters, timeout=5, return_when=asyncio.FIRST_COMPLETED)
            for waiter in waiters:
                waiter.cancel()
            if connected.event.is_set():
                try:
                    return await coordination.cluster(proposal)
                except CoordinationUnavailable as error:
                    if said != (said := str(error)):
                        _LOG.error(
                            "ZooKeeper does not say which cluster this is: are chroot and credentials right?",
                            extra={"zookeeper": settings.zookeeper, "reason": said},
                        )
                    await asyncio.sleep(0.2)
                except CoordinationCorrupt as error:
                    raise CannotStart(str(error)) from error
        return None
    finally:
        await coordination.close()
