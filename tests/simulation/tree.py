"""The coordination service as kazoo's client shows it: what an operator's hand reads and writes (`surgery.Surgery`).

No faults strike here: the operator has a session of his own, from a machine of his own. What may happen is that
something changed since he looked.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kazoo.exceptions import BadVersionError, KazooException, NodeExistsError, NoNodeError, RolledBackError

from replication.coordination import codec
from replication.coordination.surgery import Surgery
from replication.core.values import TierFloor, VersionedState
from tests.simulation.zookeeper import Service, Snapshot

ROOT = "/perenne/"
Nodes = dict[str, tuple[bytes, int]]
"""Content and version by path below the root."""


@dataclass(frozen=True)
class Stat:
    version: int


class Tree:
    """What `Surgery` calls of a KazooClient. before_write: called when a transaction is about to take effect."""

    def __init__(self, service: Service, before_write: Callable[[], None]) -> None:
        self._service = service
        self._before_write = before_write

    def nodes(self) -> Nodes:
        service, now = self._service, self._service.now
        found: Nodes = {}
        if service.cluster is not None:
            found["cluster"] = codec.encode_cluster(service.cluster), 0
        if now.state is not None:
            found["state"] = codec.encode_state(now.state.state), now.state.version
        if now.tier_floor is not None:
            found["tierfloor"] = codec.encode_tier_floor(now.tier_floor.point), now.tier_floor.version
        if now.leader is not None:
            found["leader"] = codec.encode_leader(now.leader), 0
        for replica, registration in now.registrations.items():
            found[f"nodes/{replica}"] = codec.encode_registration(registration), service.registered[replica]
        for replica, (live, _) in service.live.items():
            found[f"live/{replica}"] = codec.encode_live(live), 0
        return found

    def apply(self, nodes: Nodes) -> None:
        """A transaction takes effect, as a whole."""
        self._before_write()
        service = self._service
        service.cluster = codec.decode_cluster(nodes["cluster"][0])
        state, version = nodes["state"]
        floor = nodes.get("tierfloor")
        registrations = [codec.decode_registration(data) for path, (data, _) in nodes.items() if path[:6] == "nodes/"]
        service.registered = {one.id: nodes[f"nodes/{one.id}"][1] for one in registrations}
        service.put(
            Snapshot(
                state=VersionedState(codec.decode_state(state), version),
                tier_floor=TierFloor(codec.decode_tier_floor(floor[0]), floor[1]) if floor is not None else None,
                registrations={one.id: one for one in registrations},
            )
        )

    # As KazooClient

    def exists(self, path: str) -> Stat | None:
        return Stat(0)

    def sync(self, path: str) -> None: ...

    def ensure_path(self, path: str) -> None: ...

    def get(self, path: str) -> tuple[bytes, Stat]:
        found = self.nodes().get(path.removeprefix(ROOT))
        if found is None:
            raise NoNodeError
        return found[0], Stat(found[1])

    def get_children(self, path: str) -> list[str]:
        prefix = path.removeprefix(ROOT) + "/"
        return [name.removeprefix(prefix) for name in self.nodes() if name.startswith(prefix)]

    def transaction(self) -> "Transaction":
        return Transaction(self)


class Transaction:
    """All of it, or nothing."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._steps: list[Callable[[Nodes], None]] = []

    def create(self, path: str, data: bytes, *, ephemeral: bool = False) -> None:
        name = path.removeprefix(ROOT)

        def step(nodes: Nodes) -> None:
            if name in nodes:
                raise NodeExistsError
            nodes[name] = data, 0

        self._steps.append(step)

    def set_data(self, path: str, data: bytes, version: int = -1) -> None:
        name = path.removeprefix(ROOT)

        def step(nodes: Nodes) -> None:
            _expect(nodes, name, version)
            nodes[name] = data, nodes[name][1] + 1

        self._steps.append(step)

    def delete(self, path: str, version: int = -1) -> None:
        name = path.removeprefix(ROOT)

        def step(nodes: Nodes) -> None:
            _expect(nodes, name, version)
            del nodes[name]

        self._steps.append(step)

    def commit(self) -> list[Any]:
        nodes = self._tree.nodes()
        for number, step in enumerate(self._steps):
            try:
                step(nodes)
            except KazooException as error:
                return [RolledBackError()] * number + [error] + [RolledBackError()] * (len(self._steps) - number - 1)
        self._tree.apply(nodes)
        return [True] * len(self._steps)


def _expect(nodes: Nodes, name: str, version: int) -> None:
    if name not in nodes:
        raise NoNodeError
    if version not in (-1, nodes[name][1]):
        raise BadVersionError


class Hand(Surgery):
    """The production verbs' hand, in the simulated service."""

    def __init__(self, tree: Tree) -> None:
        self._root = ROOT.rstrip("/")
        self._hosts = "simulated"
        self._client = tree
