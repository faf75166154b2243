"""Network namespaces: one for every party, joined by a bridge in one more, and packets that are dropped on the way.

The machine's own network is never touched: every command runs inside a namespace that was made here. None has a name:
a descriptor of this process and the processes inside keep it, and those die with this process (`setpriv`), so that
nothing is left of a run that was killed, and a later one has nothing to clear away.

Faults: `cut` (one way or both: whoever should hear drops the packets, in its kernel; TCP repeats, waits longer each
time, gives up). `verify` sees to it that they were dropped.
"""

import contextlib
import ctypes
import json
import os
import secrets
import select
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.faults.arena import ZOOKEEPER, Arena, FaultFailed, Unavailable
from tests.faults.lines import Pair, Wires

TOOLS: Final = ("ip", "nft", "nsenter", "setpriv")
VERDICT: Final = "drop"
_SUBNET: Final = "10.77.0"
PROBE_PORT: Final = 9
_CLONE_NEWNET: Final = 0x40000000
_CHAIN: Final = "inet perenne cut"
_HOOK: Final = "{ type filter hook input priority 0; }"
OWN: Final = Path("/proc/thread-self/ns/net")
_PATIENCE_S: Final = 10.0


def _system(name: str, *arguments: int) -> None:
    """A call of the C library that Python 3.11 does not offer. Raises OSError."""
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


class Namespace:
    """One network namespace, which lasts as long as this object or a process inside."""

    def __init__(self) -> None:
        """Raises OSError."""
        made: list[int] = []
        failed: list[OSError] = []

        def make() -> None:  # in a thread that ends: this one stays where it is
            try:
                _system("unshare", _CLONE_NEWNET)
                made.append(os.open(OWN, os.O_RDONLY | os.O_CLOEXEC))
            except OSError as error:
                failed.append(error)

        thread = threading.Thread(target=make, name="namespace")
        thread.start()
        thread.join()
        if failed:
            raise failed[0]
        (self.descriptor,) = made

    @property
    def prefix(self) -> tuple[str, ...]:
        """What runs a command inside."""
        return "nsenter", f"--net=/proc/{os.getpid()}/fd/{self.descriptor}"

    @property
    def wrapper(self) -> tuple[str, ...]:
        """What runs a process inside that shall not outlive this one: if this one ended before, it cannot enter."""
        return "setpriv", "--pdeathsig", "KILL", *self.prefix

    def run(self, *command: str, lines: Sequence[str] = ()) -> str:
        """Raises FaultFailed."""
        done = subprocess.run(
            [*self.prefix, *command], input="\n".join(lines), capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise FaultFailed(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    @contextlib.contextmanager
    def entered(self) -> Generator[None]:
        """Inside, for the calling thread and for the threads and processes that it starts. Raises OSError."""
        before = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _system("setns", self.descriptor, _CLONE_NEWNET)
            try:
                yield
            finally:
                _system("setns", before, _CLONE_NEWNET)
        finally:
            os.close(before)

    def close(self) -> None:
        os.close(self.descriptor)


@dataclass(frozen=True, slots=True)
class Party:
    """Somebody with a network namespace. probes: a socket inside, on which nothing but probes arrives."""

    name: str
    address: str
    namespace: Namespace
    probes: socket.socket

    def send(self, probe: bytes, target: "Party") -> None:
        self.probes.sendto(probe, (target.address, PROBE_PORT))

    def arrived(self) -> set[bytes]:
        found: set[bytes] = set()
        with contextlib.suppress(BlockingIOError):
            while True:
                found.add(self.probes.recv(100))
        return found

    def dropped(self) -> dict[str, int]:
        """How many packets were dropped here, by the address that they came from."""
        document = json.loads(self.namespace.run("nft", "-j", "list", "chain", *_CHAIN.split()))
        rules = [entry["rule"]["expr"] for entry in document["nftables"] if "rule" in entry]
        return {match["match"]["right"]: count["counter"]["packets"] for match, count, _ in rules}


class Network(Wires):
    """A namespace for everybody who is named, and `hub`, from which all of them are reached.

    Raises Unavailable where this machine has no such thing, and FaultFailed where it has and yet cannot be wired.
    """

    def __init__(self, names: Sequence[str]) -> None:
        _try_out()
        self._parties: dict[str, Party] = {}
        self._cuts: dict[Pair, bytes] = {}
        with contextlib.ExitStack() as undo:
            self.hub = _closing(undo, Namespace())
            self._make_hub()
            for number, name in enumerate(names, 2):
                self._parties[name] = self._make_party(undo, name, f"{_SUBNET}.{number}")
            self._open = undo.pop_all()

    def _make_hub(self) -> None:
        commands = (
            "link set dev lo up",
            "link add name hub type bridge",
            f"address add {_SUBNET}.1/24 dev hub",
            "link set dev hub up",
        )
        self.hub.run("ip", "-batch", "-", lines=commands)

    def _make_party(self, undo: contextlib.ExitStack, name: str, address: str) -> Party:
        own = _closing(undo, Namespace())
        there = own.prefix[1].removeprefix("--net=")
        joined = (f"link add name {name} type veth peer name eth0 netns {there}", f"link set dev {name} master hub up")
        self.hub.run("ip", "-batch", "-", lines=joined)
        inside = ("link set dev lo up", f"address add {address}/24 dev eth0", "link set dev eth0 up")
        own.run("ip", "-batch", "-", lines=inside)
        own.run("nft", "-f", "-", lines=("add table inet perenne", f"add chain {_CHAIN} {_HOOK}"))
        with own.entered():
            probes = undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK))
            probes.bind((address, PROBE_PORT))
        return Party(name, address, own, probes)

    @property
    def everybody(self) -> list[str]:
        return list(self._parties)

    def named(self, name: str) -> list[str]:
        """`zookeeper` is every server of it."""
        return [name] if name in self._parties else [one for one in self._parties if one.startswith(f"{name}-")]

    def party(self, name: str) -> Party:
        return self._parties[name]

    # As lines

    def cut(self, source: str, target: str) -> None:
        """Raises FaultFailed when nothing passed even before."""
        for pair in self._pairs(source, target):
            if pair not in self._cuts:
                self._cut(pair)

    def slow(self, source: str, target: str, delay_s: float) -> None:
        raise Unavailable("what is slow goes through the proxy in user space")

    def reset(self, one: str, other: str) -> None:
        raise Unavailable("what is reset goes through the proxy in user space")

    def heal(self) -> None:
        """Raises FaultFailed when something does not pass again."""
        cuts = list(self._cuts)
        self._cuts.clear()
        for party in self._parties.values():
            party.namespace.run("nft", "flush", "chain", *_CHAIN.split())
        for pair in cuts:
            self._await_passing(pair)

    def close(self) -> None:
        self._open.close()

    # Whether packets are dropped

    def verify(self) -> int:
        """Whatever is cut has let nothing pass. Returns how many packets of the parties' own were dropped.

        Raises FaultFailed.
        """
        if not self._cuts:
            raise FaultFailed("nothing was cut")
        passed = {name: party.arrived() for name, party in self._parties.items()}
        dropped = {name: party.dropped() for name, party in self._parties.items()}
        for (source, target), probe in self._cuts.items():
            if probe in passed[target]:
                raise FaultFailed(f"a packet passed from {source} to {target}, although that way was cut")
            if not dropped[target].get(self._parties[source].address):
                raise FaultFailed(f"no packet from {source} to {target} was dropped, although that way was cut")
        return sum(count for counts in dropped.values() for count in counts.values()) - len(self._cuts)

    def _pairs(self, source: str, target: str) -> Iterator[Pair]:
        for one in self.named(source):
            for other in self.named(target):
                yield one, other

    def _cut(self, pair: Pair) -> None:
        self._await_passing(pair)
        source, target = (self._parties[name] for name in pair)
        rule = f"ip saddr {source.address} counter {VERDICT}"
        target.namespace.run("nft", "add", "rule", *_CHAIN.split(), *rule.split())
        probe = self._cuts[pair] = secrets.token_bytes(8)
        source.send(probe, target)

    def _await_passing(self, pair: Pair) -> None:
        source, target = (self._parties[name] for name in pair)
        probe = secrets.token_bytes(8)
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            source.send(probe, target)
            select.select([target.probes], [], [], 0.1)
            if probe in target.arrived():
                return
            if time.monotonic() > deadline:
                raise FaultFailed(f"nothing passes from {source.name} to {target.name}, although nothing is cut")


def _try_out() -> None:
    """Raises Unavailable when this machine lacks a tool, a right, or a part of the kernel."""
    try:
        with contextlib.closing(Namespace()) as namespace:
            missing = [tool for tool in TOOLS if shutil.which(tool) is None]
            if missing:
                raise Unavailable(f"no network namespaces: needs {', '.join(missing)} (script/setup installs them)")
            namespace.run("ip", "link", "add", "name", "bridge", "type", "bridge")
            namespace.run("ip", "link", "add", "name", "one", "type", "veth", "peer", "name", "other")
            namespace.run("nft", "add", "table", "inet", "perenne")
    except (OSError, FaultFailed) as error:
        raise Unavailable(f"no network namespaces: {error}") from error


def _closing(undo: contextlib.ExitStack, namespace: Namespace) -> Namespace:
    undo.callback(namespace.close)
    return namespace


class NamespacedArena(Arena):
    """Every node and every ZooKeeper server in a namespace of its own; whoever begins it is at the hub until it ends.

    Raises Unavailable when it is made. Disks and clocks are other arenas' matter.
    """

    def __init__(self, directory: Path, *, seed: int, ensemble: bool = False) -> None:
        keepers = [f"{ZOOKEEPER}-{number}" for number in range(1, 4 if ensemble else 2)]
        network = Network(["n1", "n2", "n3", *keepers])
        super().__init__(directory, seed=seed, ensemble=ensemble, lines=network)
        self._network = network
        self._keepers = [network.party(name) for name in keepers]
        self._inside = contextlib.ExitStack()

    def begin(self) -> None:
        self._inside.enter_context(self._network.hub.entered())
        super().begin()

    def end(self) -> None:
        with self._inside:
            super().end()

    def _wire(self) -> None:
        keepers = zip(self._keepers, self._client_ports(), strict=True)
        addresses = ",".join(f"{keeper.address}:{port}" for keeper, port in keepers)
        for node in self.nodes:
            party = self._network.party(node.id)
            node.host, node.wrapper, node.zookeeper = party.address, party.namespace.wrapper, addresses

    def _prepare_disks(self) -> None:
        pass

    def _keeper_place(self, index: int) -> tuple[str, tuple[str, ...]]:
        keeper = self._keepers[index]
        return keeper.address, keeper.namespace.wrapper
