"""A cluster whose lines, disks and clock can be made to fail, and what every fault needs to act on it."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from perenne.local import zookeeper
from perenne.local.cluster import LocalCluster, LocalNode, Say
from perenne.local.processes import Running, free_ports, start, wait_until
from tests.faults.lines import Lines, Wires

if TYPE_CHECKING:
    from tests.faults.operator import Operator

SESSION_MS: Final = 2000
SMALL: Final = """
[retention]
undo_days = 0

[cluster]
segment_bytes = 4194304

[storage]
reserve_bytes = 4194304
spare_segments = 1
"""
ZOOKEEPER: Final = "zookeeper"
FAKETIME: Final = "/usr/lib/{}-linux-gnu/faketime/libfaketime.so.1"


class Unavailable(Exception):
    """This machine cannot produce the fault; the text says why."""


class FaultFailed(Exception):
    """The fault did not strike as it claims to."""


class Arena(LocalCluster):
    """Nodes on loopback, three unless said; every line between them, and to ZooKeeper, goes through `lines`.

    ensemble: three ZooKeeper servers instead of one. One node lies on a small file system of its own where that may be
    mounted; n2 lies on a file system in user space where fsync can be made to fail.
    """

    def __init__(
        self, directory: Path, *, seed: int, ensemble: bool = False, lines: Wires | None = None, size: int = 3
    ) -> None:
        super().__init__(directory)
        self.size = size
        self.session_timeout_ms = SESSION_MS
        self.extra = SMALL
        self.chance = random.Random(seed)
        self.lines: Wires = lines or Lines()
        self.keepers: list[Running] = []
        self._keeper_ports = free_ports(9 if ensemble else 1)
        self._ensemble = ensemble
        self.small_disk = False
        self.failing_disk: Running | None = None
        self.at_hand: Operator | None = None
        """Whoever types verbs in this round."""

    @property
    def small_node(self) -> LocalNode:
        """Which node's disk can be filled: never n2, whose disk fails in another way."""
        return self.nodes[2 if self.size == 3 else 0]

    # Life

    def begin(self) -> None:
        """Start everything and wait until all nodes are in sync. Raises DidNotStart."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.plan(self.size)
        self._wire()
        self._prepare_disks()
        self.start_zookeeper()
        for node in self.nodes:
            self.start_node(node)
        self.wait_whole()

    def end(self) -> None:
        """Kill everything that was started, and unmount what was mounted."""
        self.kill()
        for keeper in self.keepers:
            keeper.kill()
        self.lines.close()
        if self.failing_disk is not None:
            subprocess.run(["umount", "-l", str(self.nodes[1].data_dir)], check=False)
            self.failing_disk.kill()
        if self.small_disk:
            subprocess.run(["umount", "-l", str(self.small_node.data_dir)], check=True)

    def heal(self) -> None:
        """End every fault that goes on by itself, and start what is down."""
        self.lines.heal()
        self.resume()
        self.start_zookeeper()
        for node in self.nodes:
            if not node.alive:
                self.start_node(node)

    def resume(self) -> None:
        """Nobody is stopped any more."""
        for process in [*self.keepers, *(node.running for node in self.nodes if node.running is not None)]:
            process.signal(signal.SIGCONT)

    def wait_whole(self, seconds: float = 90.0) -> None:
        """Until somebody leads, and all nodes run, take stores and are in sync. Raises DidNotStart."""

        def whole() -> bool:
            # A node that was killed a moment ago is still in the set: what counts is that each takes stores.
            if not all(node.alive and node.ready() for node in self.nodes):
                return False
            found = self.leader()
            return found is not None and self.is_whole(found.status())

        self.wait_for(whole, "all nodes are in sync", seconds)

    def is_whole(self, status: dict[str, Any]) -> bool:
        """Whether nothing is missing, as the leader tells it."""
        return set(status["in_sync"]) == {node.id for node in self.nodes}

    def _wire(self) -> None:
        """Say where every node listens, and by which way the others come there."""
        lines = self.lines
        assert isinstance(lines, Lines), "an arena with other lines wires them itself"
        for number, node in enumerate(self.nodes, 1):
            node.advertise_host = f"127.0.1.{number}"
            lines.listen((node.advertise_host, node.peer_port), ("127.0.0.1", node.peer_port), node.id)
            for port in self._client_ports():
                lines.listen((f"127.0.2.{number}", port), ("127.0.0.1", port), ZOOKEEPER, dialler=node.id)
            node.zookeeper = ",".join(f"127.0.2.{number}:{port}" for port in self._client_ports())

    @property
    def operator(self) -> "Operator":
        assert self.at_hand is not None, "every round has one"
        return self.at_hand

    # ZooKeeper

    def keepers_address(self) -> str:
        """Where ZooKeeper serves, past every line."""
        return ",".join(f"127.0.0.1:{port}" for port in self._client_ports())

    def _client_ports(self) -> list[int]:
        return self._keeper_ports[:3] if self._ensemble else self._keeper_ports

    def _keeper_directory(self, index: int) -> Path:
        return self.directory / f"zookeeper-{index + 1}"

    def _keeper_place(self, index: int) -> tuple[str, tuple[str, ...]]:
        """Where a server listens, and what it is run by."""
        return "127.0.0.1", ()

    def start_zookeeper(self, say: Say = lambda _: None) -> None:
        """Start every server that does not run."""
        clients, ports = self._client_ports(), self._keeper_ports
        places = [self._keeper_place(index) for index in range(len(clients))]
        ensemble = enumerate(places) if self._ensemble else ()
        servers = tuple(f"{host}:{ports[3 + n]}:{ports[6 + n]}" for n, (host, _) in ensemble)
        for index, (port, (host, wrapper)) in enumerate(zip(clients, places, strict=True)):
            if index < len(self.keepers) and self.keepers[index].alive:
                continue
            own = self._keeper_directory(index)
            config = zookeeper.configure(own, port, servers=servers, number=index + 1 if servers else 0, host=host)
            running = start([*wrapper, *zookeeper.command(config)], own / "zookeeper.log", own)
            self.keepers[index : index + 1] = [running]

        def serves() -> bool:
            return any(zookeeper.serves(port, host) for port, (host, _) in zip(clients, places, strict=True))

        wait_until(serves, self.keepers, "ZooKeeper serves")

    def kill_zookeeper(self) -> None:
        for keeper in self.keepers:
            keeper.kill()

    def zookeeper_data(self) -> list[Path]:
        return [self._keeper_directory(index) / "data" for index in range(len(self._client_ports()))]

    # What faults can do only here

    def _prepare_disks(self) -> None:
        self._prepare_failing_disk(self.nodes[1])
        self._prepare_small_disk(self.small_node)

    def _prepare_small_disk(self, node: LocalNode) -> None:
        node.data_dir.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", "size=2g", "tmpfs", str(node.data_dir)]
        self.small_disk = subprocess.run(command, capture_output=True, check=False).returncode == 0

    def give_moving_clock(self, node: LocalNode) -> Path:
        """Start a node anew with a clock of its own, and return the file that moves it; `take_clock` ends that.

        Only for as long as it is needed: under libfaketime every call of the clock takes its time.
        """
        library = Path(FAKETIME.format(os.uname().machine))
        if not library.exists():
            raise Unavailable("no clock to move: needs libfaketime")
        clock = self.directory / "clock"
        clock.write_text("+0s\n")
        settings = (f"LD_PRELOAD={library}", f"FAKETIME_TIMESTAMP_FILE={clock}", "FAKETIME_CACHE_DURATION=1")
        node.wrapper = ("env", *settings, "FAKETIME_DONT_FAKE_MONOTONIC=1")
        self.process(node).kill()
        self.start_node(node)
        return clock

    def take_clock(self, node: LocalNode) -> None:
        node.wrapper = ()
        self.process(node).kill()
        self.start_node(node)

    def _prepare_failing_disk(self, node: LocalNode) -> None:
        from tests.faults.failing_disk import mount

        node.directory.mkdir(parents=True, exist_ok=True)
        self.failing_disk = mount(self.directory / "n2-behind", node.data_dir, self.directory / "failing-disk.log")
        node.extra = "direct_io = false\n" if self.failing_disk is not None else ""

    # Choices

    def leading(self) -> LocalNode:
        """Whoever leads; waits until somebody does."""
        self.wait_for(lambda: self.leader() is not None, "somebody leads", 30)
        found = self.leader()
        return found if found is not None else self.leading()

    def following(self) -> LocalNode:
        """Any follower that runs."""
        first = self.leading()
        return self.chance.choice([node for node in self.nodes if node is not first and node.alive])

    def process(self, node: LocalNode) -> Running:
        assert node.running is not None, "a node of the arena was started"
        return node.running

    def hold(self, least: float, most: float) -> None:
        """Let the fault last."""
        time.sleep(self.chance.uniform(least, most))

    def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait for something that need not happen."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.03)
        return True


def wipe(node: LocalNode) -> None:
    """Give a node an empty disk; its directory may be a mount point."""
    for entry in node.data_dir.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def replace_tree(source: Path, target: Path) -> None:
    """Make the contents of `target` those of `source`, itself untouched: it may be a mount point."""
    for entry in target.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    shutil.copytree(source, target, dirs_exist_ok=True)
