"""Before a node is built: whose data directory is this, and of which cluster?"""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final

from perenne.config import Config
from perenne.config_replication import advertised_host
from perenne.config_tls import zookeeper_access
from perenne.session import SessionWaiter
from replication.coordination.port import ClusterRecord, CoordinationCorrupt, CoordinationUnavailable
from replication.coordination.zookeeper import ZooKeeperCoordination
from replication.core.values import ReplicaId
from replication.tier.manifest import claim_for, cluster_of, holds_anything
from replication.tier.port import ObjectStore, TierError, Unreachable
from storage.disk import Disk
from storage.errors import StorageError
from storage.metadata import NodeIdentity, read_identity, write_identity

_LOG: Final = logging.getLogger("perenne.node")
TIER_AGAIN_S: Final = 1.0
AGAIN_S: Final = 0.5
ALONE_S: Final = 3.0
"""A start asks a ZooKeeper that does not answer for so long, and lets go of it in as long again at most."""


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


def this_boot() -> str:
    """Which boot of which kernel this is."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


async def alone(config: Config, stopping: asyncio.Event) -> bool:
    """Wait while another process runs as this node: a copy of this machine or disk would confirm records to which the
    leader then counts this one. False when told to stop meanwhile.

    A ZooKeeper that does not answer keeps no node from starting: whoever finds another there later ends then
    (`ZooKeeperCoordination.announce`).
    """
    place = advertised_host(config), config.peer.port, this_boot()
    said = ""
    # A longer session would be waited for once more as it is closed, where somebody listens and says nothing.
    session_ms = min(config.coordination.session_timeout_ms, int(ALONE_S * 1000))
    async with _asking(config, session_ms) as (coordination, connected):
        while not stopping.is_set():
            try:
                async with asyncio.timeout(ALONE_S):
                    await _first(connected, stopping)
                    other = (await coordination.live_nodes()).get(ReplicaId(config.node.id))
            except (CoordinationUnavailable, CoordinationCorrupt, TimeoutError) as error:
                why = {"reason": f"no answer in {ALONE_S:g} s"} if isinstance(error, TimeoutError) else _why(error)
                _LOG.warning("ZooKeeper does not say whether another process runs as this node", extra=why)
                return not stopping.is_set()
            if other is None or other.is_at(*place):
                return True
            if said != (said := f"{other.host}:{other.peer_port}"):
                _LOG.error(
                    "another process runs as this node: waiting until it ends, or its session does. Of two copies of a"
                    " machine or disk, or of two nodes with one id, one must not run",
                    extra={"node": config.node.id, "at": said},
                )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), AGAIN_S)
    return False


async def _ask_cluster(config: Config, proposal: ClusterRecord, stopping: asyncio.Event) -> ClusterRecord | None:
    """Wait for coordination for as long as it takes; None when told to stop meanwhile."""
    said = ""
    async with _asking(config, config.coordination.session_timeout_ms) as (coordination, connected):
        while not stopping.is_set():
            if not connected.is_set():
                _LOG.warning("waiting for ZooKeeper", extra={"zookeeper": config.coordination.zookeeper})
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(_first(connected, stopping), 5)
            if connected.is_set():
                try:
                    return await coordination.cluster(proposal)
                except CoordinationUnavailable as error:
                    if said != (said := str(error)):
                        _LOG.error(
                            "ZooKeeper does not say which cluster this is: are chroot and credentials right?",
                            extra={"zookeeper": config.coordination.zookeeper, "reason": said},
                        )
                    await asyncio.sleep(0.2)
                except CoordinationCorrupt as error:
                    raise CannotStart(str(error)) from error
    return None


@contextlib.asynccontextmanager
async def _asking(config: Config, session_ms: int) -> AsyncGenerator[tuple[ZooKeeperCoordination, asyncio.Event]]:
    """A session for questions before the start, and what is set once it is there."""
    hosts, access, waiter = config.coordination.zookeeper, zookeeper_access(config), SessionWaiter()
    coordination = ZooKeeperCoordination(hosts, session_timeout_ms=session_ms, access=access)
    await coordination.start(waiter)
    try:
        yield coordination, waiter.event
    finally:
        await coordination.close()


async def _first(*events: asyncio.Event) -> None:
    """Return when one of them is set."""
    waiters = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for waiter in waiters:
            waiter.cancel()
