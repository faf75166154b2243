"""An arena with a tier: two or three nodes and a real SeaweedFS, each node with a line of its own to the bucket.

Two nodes are the rule, since there the tier takes a lost node's place; with three it does when both others are gone.
"""

import random
import signal
from pathlib import Path
from typing import Any, Final

from perenne.config import TierConfig
from perenne.config_tier import blocking_store
from perenne.local.cluster import LocalNode
from perenne.local.processes import free_ports
from perenne.local.seaweedfs import ACCESS_KEY, SECRET_KEY, Store, start_store
from replication.tier.bodies import BodyFacts, body_facts
from replication.tier.keys import LOG, Run, parse_run
from replication.tier.port import BlockingStore
from tests.faults.arena import Arena, FaultFailed, wipe
from tests.faults.lines import Wires
from tests.faults.store_lines import Manner, StoreLines

TIER: Final = "tier"
RESTORE: Final = "restore"
_OWN: Final = "judge"


class TieredArena(Arena):
    """mode, size: drawn from the seed unless said."""

    def __init__(
        self,
        directory: Path,
        *,
        seed: int,
        ensemble: bool = False,
        lines: Wires | None = None,
        size: int | None = None,
        mode: str | None = None,
    ) -> None:
        chance = random.Random(seed)
        drawn = chance.choice((2, 2, 2, 3)), chance.choice(("standby", "standby", "synchronous"))
        super().__init__(directory, seed=seed, ensemble=ensemble, lines=lines, size=size or drawn[0])
        self.mode = mode or drawn[1]
        self.store_lines = StoreLines()
        self._store: Store | None = None
        self._sections: dict[str, str] = {}
        self._direct: BlockingStore | None = None

    # Life

    def end(self) -> None:
        super().end()
        if self._direct is not None:
            self._direct.close()
        self.store_lines.close()
        if self._store is not None:
            self._store.kill()

    def heal(self) -> None:
        self.start_store()
        self.store_lines.release()
        super().heal()

    def resume(self) -> None:
        if self._store is not None:
            self._store.running.signal(signal.SIGCONT)
        super().resume()

    def is_whole(self, status: dict[str, Any]) -> bool:
        """The tier follows, and is in the set exactly when it always shall be."""
        always = (TIER,) if self.mode == "synchronous" else ()
        expected = {*(node.id for node in self.nodes), *always}
        return set(status["in_sync"]) == expected and bool(status["tier"]["usable"])

    def wait_followed(self) -> None:
        """Until the bucket holds everything that is committed; nobody stores any more. Raises DidNotStart."""

        def followed() -> bool:
            found = self.leader()
            return found is not None and found.status()["tier"]["behind"] == 0

        self.wait_for(followed, "the bucket has followed", 60)

    def _wire(self) -> None:
        super()._wire()
        self.start_store()
        credentials = self.directory / "credentials"
        keys = f"aws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
        credentials.write_text(f"[default]\n{keys}")
        names = [*self._ids(), RESTORE, _OWN]
        for number, (name, port) in enumerate(zip(names, free_ports(len(names)), strict=True), 1):
            address = f"127.0.3.{number}"
            self.store_lines.listen((address, port), name)
            self._sections[name] = (
                f'[tier]\nmode = "{self.mode}"\nendpoint = "http://{address}:{port}"\nbucket = "perenne"\n'
                f'credentials_file = "{credentials}"\n'
            )
            if name == _OWN:
                own = TierConfig(
                    endpoint=f"http://{address}:{port}",
                    bucket="perenne",
                    credentials_file=credentials,
                    attempt_timeout_ms=20_000,
                )
                self._direct = blocking_store(own, {})
                self._direct.prepare()

    def _ids(self) -> list[str]:
        return [node.id for node in self.nodes]

    def configuration(self, node: LocalNode) -> str:
        return super().configuration(node) + self._sections[node.id]

    def restore_config(self, node: LocalNode) -> Path:
        """What a restore of that node reads: the node's, but with a line of its own to the bucket."""
        file = self.directory / "restore.toml"
        file.write_text(super().configuration(node) + self._sections[RESTORE])
        return file

    # The store

    @property
    def store(self) -> Store:
        assert self._store is not None, "started with the nodes"
        return self._store

    @property
    def direct(self) -> BlockingStore:
        """The bucket as a judge sees it, by a line that is never treated."""
        assert self._direct is not None, "made with the nodes"
        return self._direct

    def start_store(self) -> None:
        """Start SeaweedFS if it does not run; it finds what it held, on other ports. Raises DidNotStart."""
        if self._store is None or not self._store.running.alive:
            self._store = start_store(self.directory / "seaweedfs")
            self.store_lines.port = self._store.port

    def runs(self) -> list[Run]:
        """What the bucket lists of the log."""
        found: list[Run] = []
        after, more = "", True
        while more:
            page = self.direct.list_page(LOG, after)
            found += [run for key in page.keys if (run := parse_run(key)) is not None]
            after, more = (page.keys[-1], page.more) if page.keys else ("", False)
        return found

    def overwrite(self, key: str, data: bytes, *, digest_of: bytes) -> None:
        """Put other bytes under a name; the digest kept beside them is that of `digest_of`."""
        facts, beside = body_facts(data), body_facts(digest_of)
        self.direct.put(key, data, BodyFacts(facts.size, facts.crc32, beside.digest), only_if_absent=False, lock=False)

    # Sets

    def followers(self, leader: LocalNode) -> list[LocalNode]:
        return [node for node in self.nodes if node is not leader]

    def await_tier(self, leader: LocalNode) -> None:
        """Until the set is a node and the tier."""
        wanted = {leader.id, TIER}
        self.wait_for(lambda: set(leader.status()["in_sync"]) == wanted, "the tier takes the followers' place", 40)

    def left_with_tier(self) -> LocalNode:
        """Kill every follower; return the leader once the set is {leader, tier}."""
        leader = self.leading()
        for node in self.followers(leader):
            self.process(node).kill()
        self.await_tier(leader)
        return leader

    def await_lead(self, *nodes: LocalNode, seconds: float = 40.0) -> LocalNode:
        """Until one of these leads. Raises DidNotStart."""
        found: list[LocalNode] = []

        def leads() -> bool:
            found[:] = [node for node in nodes if node.alive and node.leads()]
            return bool(found)

        self.wait_for(leads, f"{' or '.join(node.id for node in nodes)} leads", seconds)
        return found[0]

    def suspend(self, node: LocalNode) -> None:
        self.process(node).signal(signal.SIGSTOP)

    def lose(self, node: LocalNode) -> None:
        """A node and its disk are gone."""
        self.process(node).kill()
        wipe(node)

    def await_counted(self, leader: LocalNode) -> Run:
        """The newest object of the bucket, once the tier was counted for all that it holds."""
        newest = max(self.runs(), key=lambda run: run.end)
        counted = self.until(lambda: leader.status()["tier"]["counted_upto"] >= newest.last, 20)
        if not counted:
            raise FaultFailed(f"the tier was not counted up to record {newest.last}")
        return newest

    def await_struck(self, before: int, seconds: float = 15.0) -> None:
        """Until a request was struck since. Raises FaultFailed: a fault that nobody meets proves nothing."""
        if not self.until(lambda: self.store_lines.struck(*self._ids()) > before, seconds):
            raise FaultFailed("no request to the bucket met the fault")

    def struck(self) -> int:
        return self.store_lines.struck(*self._ids())

    def asked(self) -> int:
        """How many requests of nodes came so far."""
        return sum(self.store_lines.seen(name, method) for name in self._ids() for method in ("GET", "PUT", "HEAD"))

    def hold_put(self, node: LocalNode, least_bytes: int = 0) -> None:
        """From now on a node's PUTs are held, smaller ones left out; returns when one is."""
        self.store_lines.treat(Manner(held=True, least_bytes=least_bytes), node.id)
        if not self.until(lambda: self.store_lines.holding > 0, 20):
            raise FaultFailed("nothing was put: no PUT could be held")

    def let_through(self) -> None:
        """What is held reaches the store now, late. Raises FaultFailed when nothing did."""
        before, held = self.store_lines.late, self.store_lines.release()
        self.until(lambda: self.store_lines.late >= before + held, 20)
        if self.store_lines.late == before:
            raise FaultFailed("no PUT came late: nothing was held, or the store took nothing")


def tiered(arena: Arena) -> TieredArena:
    assert isinstance(arena, TieredArena), "only clusters with a tier play these"
    return arena
