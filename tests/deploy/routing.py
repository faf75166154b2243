"""`script/rehearse-routing`: HAProxy and keepalived as in deploy/, in front of a cluster under load.

Once to every ready node, once to the leader alone, while nodes are killed; then the virtual address moves between two
machines. Watched through HAProxy every 10 ms.
"""

import argparse
import contextlib
import http.client
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Final

from perenne.journal import Journal
from perenne.local.cluster import LocalNode
from perenne.local.processes import DidNotStart
from tests.deploy.balancers import ADDRESSES, NAMES, VIRTUAL, Balancer, check_programs
from tests.deploy.container import CannotContain, check_rights
from tests.deploy.probes import Pod
from tests.deploy.rollout import SETS, NotAsWanted, Rehearsal, judge
from tests.deploy.stage import wired
from tests.faults.arena import FaultFailed, Unavailable
from tests.faults.senders import Senders

SWITCH_S: Final = 1.0
"""After the election, the leader's traffic is at the new one within this time."""
_FREE: Final = 200
"""The last part of the virtual address in the network of the rehearsal."""


class Watch:
    """Asks one address for one path, again and again, and keeps when it was answered with 200."""

    def __init__(self, host: str, path: str, timeout: float = 0.2) -> None:
        self._asked = (host, path, timeout)
        self.good: list[float] = []
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        host, path, timeout = self._asked
        while not self._ending.wait(0.01):
            connection = http.client.HTTPConnection(host, 8080, timeout=timeout)
            try:
                connection.request("GET", path)
                if connection.getresponse().status == 200:
                    self.good.append(time.monotonic())
            except (OSError, http.client.HTTPException):
                continue
            finally:
                connection.close()

    def first_after(self, when: float) -> float | None:
        return next((t for t in list(self.good) if t > when), None)

    def longest_gap(self, since: float) -> float:
        times = [since, *(t for t in list(self.good) if t > since), time.monotonic()]
        return max(later - earlier for earlier, later in zip(times, times[1:], strict=False))

    def stop(self) -> None:
        self._ending.set()
        self._thread.join()


@contextlib.contextmanager
def watching(host: str, path: str) -> Generator[Watch]:
    watch = Watch(host, path)
    try:
        yield watch
    finally:
        watch.stop()


class Routing:
    """The acts. Raises NotAsWanted."""

    def __init__(self, rehearsal: Rehearsal, balancers: dict[str, Balancer], journal: Journal) -> None:
        self._rehearsal = rehearsal
        self._balancers = balancers
        self._journal = journal
        self._sent = 0

    def say(self, text: str) -> None:
        self._rehearsal.say(text)

    def _leader(self) -> Pod:
        told = self._rehearsal.status()
        return next(pod for pod in self._rehearsal.nodes if told is not None and pod.name == told["leader"])

    def _follower(self) -> Pod:
        leader = self._leader()
        return next(pod for pod in self._rehearsal.nodes if pod is not leader)

    def _back(self, pod: Pod) -> None:
        self._rehearsal.kubelet.create(pod)
        self._rehearsal.await_whole()

    @contextlib.contextmanager
    def _sending(self, host: str) -> Generator[Senders]:
        entry = LocalNode("behind", Path(), 11112, 8080, 0, host=host)
        senders = Senders([entry], self._journal, first=self._sent, count=4, seed=2)
        try:
            self._rehearsal.wait(lambda: senders.acknowledged > 100, "stores are acknowledged through HAProxy")
            yield senders
        finally:
            senders.stop()
            self._sent = senders.next_number

    def _noticed(self, what: str, senders: Senders, since: float, before: tuple[int, int]) -> None:
        refused, broken = senders.refused - before[0], senders.broken - before[1]
        pause = senders.longest_pause(since)
        self.say(f"{what}: longest pause of stores {pause:.2f} s, {refused} refused, {broken} associations broken")

    def any_node(self) -> None:
        balancer = self._balancers["lb1"]
        self.say("\nany-node.cfg: a follower is killed, the leader is killed, a node is stopped in order")
        balancer.start_haproxy("any-node.cfg")
        with self._sending(balancer.party.address) as senders:
            for what, choose in (("a follower killed", self._follower), ("the leader killed", self._leader)):
                self._strike(what, senders, choose, self._rehearsal.kubelet.kill)
            self._strike("a node stopped in order", senders, self._leader, self._rehearsal.kubelet.delete)
        balancer.lose_haproxy()

    def _strike(
        self, what: str, senders: Senders, choose: Callable[[], Pod], deed: Callable[[Pod], object]
    ) -> tuple[Pod, float]:
        pod = choose()
        since, before = time.monotonic(), (senders.refused, senders.broken)
        deed(pod)
        struck = time.monotonic()
        enough = senders.acknowledged + 100
        self._rehearsal.wait(lambda: senders.acknowledged > enough, "stores go on")
        self._noticed(f"{what} ({pod.name})", senders, since, before)
        self._back(pod)
        return pod, struck

    def leader_only(self, rounds: int) -> list[float]:
        """Seconds from the first node that says it leads, to the first answer from it through HAProxy."""
        balancer = self._balancers["lb1"]
        self.say("\nleader-only.cfg: leaders are killed")
        balancer.start_haproxy("leader-only.cfg")
        switches: list[float] = []
        with self._sending(balancer.party.address) as senders, contextlib.ExitStack() as undo:
            nodes = {pod.name: undo.enter_context(watching(pod.address, "/leader")) for pod in self._rehearsal.nodes}
            through = undo.enter_context(watching(balancer.party.address, "/leader"))
            for _ in range(rounds):
                self._rehearsal.wait(lambda: bool(nodes[self._leader().name].good), "the leader says that it leads")
                pod, struck = self._strike("the leader killed", senders, self._leader, self._rehearsal.kubelet.kill)
                killed = max(t for t in list(nodes[pod.name].good) if t < struck)
                others = [watch.first_after(killed) for name, watch in nodes.items() if name != pod.name]
                elected = min(t for t in others if t is not None)
                routed = through.first_after(elected)
                if routed is None:
                    raise NotAsWanted("HAProxy did not follow")
                switches.append(routed - elected)
                self.say(f"elected after {elected - killed:.2f} s, routed {switches[-1]:.2f} s later")
        balancer.lose_haproxy()
        return switches

    def virtual_address(self) -> None:
        first, second = self._balancers["lb1"], self._balancers["lb2"]
        virtual = f"{first.party.address.rsplit('.', 1)[0]}.{_FREE}"
        addresses = {VIRTUAL: virtual, **{ADDRESSES[name]: b.party.address for name, b in self._balancers.items()}}
        self.say("\nkeepalived: the address moves when HAProxy is gone, and when its machine is")
        for balancer in self._balancers.values():
            balancer.start_haproxy("any-node.cfg")
            balancer.start_keepalived(addresses)

        def holders() -> list[str]:
            return [name for name, balancer in self._balancers.items() if balancer.has(virtual)]

        self._rehearsal.wait(lambda: holders() == ["lb1"], "lb1 has the address")
        with self._sending(virtual) as senders, watching(virtual, "/readyz") as watch:
            self._rehearsal.wait(lambda: bool(watch.good), "the address answers")
            self._move("HAProxy of lb1 killed", senders, watch, first.lose_haproxy)
            self._rehearsal.wait(lambda: holders() == ["lb2"], "lb2 alone has the address")
            first.start_haproxy("any-node.cfg")
            time.sleep(5)
            if holders() != ["lb2"]:
                raise NotAsWanted(f"the address jumped back: {holders()}")
            self.say("lb1 is back, and the address stays at lb2")
            self._move("lb2 cut off", senders, watch, second.lose_line)
            self._rehearsal.wait(lambda: first.has(virtual), "lb1 has the address again")

    def _move(self, what: str, senders: Senders, watch: Watch, deed: Callable[[], float]) -> None:
        before = senders.refused, senders.broken
        since = deed()
        # What was under way at the moment of the deed may still have been answered.
        self._rehearsal.wait(lambda: watch.first_after(since + 0.5) is not None, "the address answers again")
        enough = senders.acknowledged + 50
        self._rehearsal.wait(lambda: senders.acknowledged > enough, "stores go on")
        self.say(f"{what}: nobody answered for {watch.longest_gap(since):.2f} s")
        self._noticed(what, senders, since, before)


def rehearse(directory: Path, rounds: int) -> int:
    """Exit code. Raises NotAsWanted, FaultFailed, Unavailable, DidNotStart."""
    file = directory / "journal.jsonl"
    with wired(directory, SETS, others=("lb1", "lb2")) as stage:
        rehearsal = Rehearsal(stage.kubelet, stage.found, directory)
        rehearsal.say("three nodes and ZooKeeper, as in script/rehearse-rollout")
        rehearsal.install()
        hosts = dict(zip(NAMES, (pod.address for pod in rehearsal.nodes), strict=True))
        balancers: dict[str, Balancer] = {}
        for name, party in stage.others.items():
            own = directory / name
            own.mkdir()
            balancers[name] = Balancer(name, party, own, hosts)
        journal = Journal(file)
        try:
            routing = Routing(rehearsal, balancers, journal)
            routing.any_node()
            switches = routing.leader_only(rounds)
            routing.virtual_address()
        finally:
            journal.close()
            for balancer in balancers.values():
                balancer.end()
        rehearsal.await_whole()
        code = judge(file, rehearsal.behind.all())
        slowest = max(switches)
        rehearsal.say(f"slowest switch to a new leader: {slowest:.2f} s (wanted: {SWITCH_S:.0f} s at most)")
        return code or int(slowest > SWITCH_S)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="script/rehearse-routing",
        description="Run the examples of deploy/haproxy and deploy/keepalived in front of a cluster under load, while "
        "nodes are killed and while the virtual address moves between two machines. Needs root, network namespaces, "
        "haproxy and keepalived.",
        epilog="Exit code 0: nothing acknowledged is lost, and HAProxy followed every new leader within a second. "
        "Example: sudo script/rehearse-routing --rounds 5",
    )
    parser.add_argument("--rounds", type=int, default=3, help="leaders to kill (%(default)s)")
    parser.add_argument("--dir", type=Path, help="keep everything in this new directory (a temporary one)")
    arguments = parser.parse_args()
    try:
        check_rights()
        check_programs()
        with contextlib.ExitStack() as undo:
            directory: Path = arguments.dir or Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="routing-")))
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(0o755)
            return rehearse(directory.resolve(), arguments.rounds)
    except (CannotContain, DidNotStart, FaultFailed, NotAsWanted, Unavailable) as error:
        sys.stdout.write(f"FAILED: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
