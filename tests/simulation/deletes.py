"""What was stored and deleted when, as senders and operators know it, and what follows for every reader (invariant 11).

A deed may have taken effect at any time between its beginning and its end; one that was never answered, at any time
from its beginning on. So: an instance is owed when a store of it was acknowledged and no delete of it can have come
after; it is gone when a delete was acknowledged and no store of it can have come after.
"""

from dataclasses import dataclass, field

from storage.deletion import Covered, Tombstone
from storage.digest import digests_of
from storage.position import RecordKind

STUDY, SERIES = "1.2.3", "1.2.3.4"


@dataclass
class Deed:
    """end_us: when it was answered. done: with Success."""

    start_us: int
    end_us: int | None = None
    done: bool = False


@dataclass
class Fate:
    """Everything that was ever wanted of one data set under one UID."""

    stores: list[Deed] = field(default_factory=list[Deed])
    deletes: list[Deed] = field(default_factory=list[Deed])

    def owed(self, by_us: int) -> bool:
        """Whether it must be there for whoever began to read at `by_us`, not in the very moment of the answer."""
        return any(
            store.done and store.end_us is not None and store.end_us < by_us and not _may_follow(self.deletes, store)
            for store in self.stores
        )

    def before(self, other: "Fate", by_us: int) -> bool:
        """Whether it was acknowledged before anybody offered the other one, and nobody ever wanted it deleted."""
        first = min((store.start_us for store in other.stores), default=by_us)
        acknowledged = any(s.done and s.end_us is not None and s.end_us < min(first, by_us) for s in self.stores)
        return acknowledged and not self.deletes

    def gone(self, by_us: int) -> bool:
        """Whether it must not be there any more."""
        return any(
            delete.done and delete.end_us is not None and delete.end_us < by_us and not _may_follow(self.stores, delete)
            for delete in self.deletes
        )


def _may_follow(deeds: list[Deed], deed: Deed) -> bool:
    """Whether one of the deeds may have taken effect after this one."""
    return any(other.end_us is None or other.end_us >= deed.start_us for other in deeds)


@dataclass
class Fates:
    """By UID and data set."""

    known: dict[str, dict[bytes, Fate]] = field(default_factory=dict[str, dict[bytes, Fate]])

    def of(self, uid: str, dataset: bytes) -> Fate:
        return self.known.setdefault(uid, {}).setdefault(dataset, Fate())

    def owed(self, uid: str, by_us: int) -> bool:
        """Whether anything must be there under this UID."""
        return any(fate.owed(by_us) for fate in self.known.get(uid, {}).values())

    def earlier(self, uid: str, dataset: bytes, by_us: int) -> bool:
        """Whether another data set is current under this UID for whoever keeps the first."""
        fates = self.known.get(uid, {})
        own = fates.get(dataset, Fate())
        return any(fate.before(own, by_us) for other, fate in fates.items() if other != dataset)

    def gone(self, uid: str, by_us: int) -> bool:
        """Whether nothing may be there under this UID any more."""
        fates = [fate for fate in self.known.get(uid, {}).values() if fate.stores]
        return bool(fates) and all(fate.gone(by_us) for fate in fates)

    def lost(self, dataset: bytes) -> None:
        """The record of a data set is gone, as a person accepted: nobody is owed it any more."""
        for fates in self.known.values():
            for store in fates[dataset].stores if dataset in fates else ():
                store.done = False

    def undeleted(self) -> None:
        """Tombstones are gone, as a person accepted: what they covered may be there again."""
        for fates in self.known.values():
            for fate in fates.values():
                for delete in fate.deletes:
                    delete.done = False

    @property
    def deletes(self) -> int:
        """How many were acknowledged."""
        return sum(delete.done for fates in self.known.values() for fate in fates.values() for delete in fate.deletes)


def tombstone_of(uid: str, dataset: bytes, request: str) -> Tombstone:
    digest = digests_of(RecordKind.INSTANCE, [dataset]).dataset
    return Tombstone((Covered(STUDY, SERIES, uid, digest),), "a test", "simulated", "", 0, request)
