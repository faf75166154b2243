"""Tombstones and holds on paper: how a test has something deleted, and what can be read then."""

from blake3 import blake3

from replication.core import events as ev
from replication.core.proposals import is_covered
from replication.core.values import Member
from storage.position import NO_DIGEST, RecordKind
from tests.core.paper_cluster import PaperCluster

STUDY = "1.9"


def dataset_of(uid: str, content: bytes = b"") -> bytes:
    """Of what `PaperCluster.offer` offers."""
    return blake3(uid.encode() + content).digest()


def registered(cluster: PaperCluster) -> frozenset[Member]:
    return frozenset(node.identity.member for node in cluster.nodes.values())


def tell_who_is_registered(cluster: PaperCluster, members: frozenset[Member] | None = None) -> None:
    """Each leader asks the coordination service, as its driver does before it offers a tombstone."""
    for node in cluster.nodes.values():
        if node.replica.leadership is not None:
            epoch = node.replica.leadership.epoch
            node.feed(ev.RegisteredSeen(epoch, registered(cluster) if members is None else members))


def bury(cluster: PaperCluster, name: str, uid: str, content: bytes = b"", *, request: str = "r1") -> int:
    """Have one instance deleted through a node; return the ticket."""
    return _propose(cluster, name, RecordKind.TOMBSTONE, f"{request} {uid}", ((uid, dataset_of(uid, content)),), "")


def hold(cluster: PaperCluster, name: str, study: str = STUDY) -> int:
    """Have a study put on hold."""
    return _propose(cluster, name, RecordKind.NOTE, f"hold {study}", (), study)


def _propose(
    cluster: PaperCluster, name: str, kind: RecordKind, text: str, covers: tuple[tuple[str, bytes], ...], holds: str
) -> int:
    digest = blake3(text.encode()).digest()
    cluster.small[digest] = (covers, holds)
    cluster.tickets += 1
    offer = ev.Proposed(
        ticket=cluster.tickets,
        sop_instance_uid="",
        transfer_syntax_uid="",
        stem="",
        dataset=NO_DIGEST,
        digest=digest,
        size=300,
        time_us=0,
        deadline_ms=cluster.now + 10_000,
        kind=kind,
        studies=frozenset({STUDY} if covers else ()),
    )
    return cluster.propose(cluster.nodes[name], offer)


def live(cluster: PaperCluster, name: str, uid: str) -> list[int]:
    """The records of an instance that no tombstone covers, as this disk has them."""
    log = cluster.disks[name].log
    return [v.sequence for v in log.versions(uid) if not is_covered(v, log.tombstones(uid))]
