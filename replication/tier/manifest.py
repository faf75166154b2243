"""`manifest/cluster.json`: which cluster a tier belongs to. Put once, by the first node that uses it.

A restore from the tier alone needs the id and the segment size, so that the new segments are the old ones byte for
byte; and a bucket that belongs to another cluster is refused, before two logs are mixed under one prefix.
"""

import json
from dataclasses import replace
from typing import Any

from replication.coordination.port import ClusterRecord
from replication.tier.keys import CLAIM, CLUSTER_KEY, LOG
from replication.tier.port import AlreadyThere, NotThere, ObjectDamaged, ObjectStore, Refused
from replication.tier.probe import Trust, probe, trusted

_FORMAT = 1


def encode_cluster(record: ClusterRecord) -> bytes:
    """The same bytes on every node."""
    facts = {
        "format": _FORMAT,
        "cluster_id": record.cluster_id,
        "format_version": record.format_version,
        "segment_bytes": record.segment_bytes,
    }
    return json.dumps(facts, sort_keys=True).encode() + b"\n"


def decode_cluster(data: bytes) -> ClusterRecord:
    """Raises ObjectDamaged."""
    try:
        facts: Any = json.loads(data)
        if facts["format"] != _FORMAT:
            raise ValueError(f"format {facts['format']} is not known to this version")
        return ClusterRecord(str(facts["cluster_id"]), int(facts["format_version"]), int(facts["segment_bytes"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ObjectDamaged(f"{CLUSTER_KEY} cannot be read: {error}") from error


async def cluster_of(store: ObjectStore) -> ClusterRecord | None:
    """Whose tier this is; None where nobody has said so. Raises TierError."""
    try:
        return decode_cluster(await store.get(CLUSTER_KEY))
    except NotThere:
        return None


async def holds_anything(store: ObjectStore) -> bool:
    """Whether somebody's log, or a claim on it, lies there, whoever's it is. Raises TierError."""
    for prefix in (LOG, CLAIM):
        async for _ in store.list(prefix):
            return True
    return False


async def claim_for(store: ObjectStore, record: ClusterRecord) -> None:
    """Say that the tier belongs to this cluster. Raises Refused when it belongs to another; TierError."""
    found = await cluster_of(store)
    if found is None:
        try:
            await store.put(CLUSTER_KEY, encode_cluster(record))
        except AlreadyThere:
            found = await cluster_of(store)
    if found is not None and found != record:
        step = "Give this cluster a bucket, a prefix or a directory of its own: check [tier]."
        raise Refused(f"the tier belongs to cluster {found.cluster_id}, this is {record.cluster_id}", step)


async def proved_for(store: ObjectStore, record: ClusterRecord) -> Trust:
    """Try out the store, and say whose it is. Return what may be done with it. Raises TierError."""
    trust = trusted(await probe(store, "the tier"))
    if trust.refusal is None:
        try:
            await claim_for(store, record)
        except Refused as error:
            trust = replace(trust, refusal=str(error))
    return trust
