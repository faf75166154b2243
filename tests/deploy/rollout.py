"""`script/rehearse-rollout`: what the StatefulSet does to a cluster under load, with real processes.

Everything comes from the rendered chart: commands, configuration, probes, hooks, grace periods, budgets. Each pod is a
container without an engine (container.py) in a network namespace of its own; ZooKeeper is the chart's bundled one.
"""

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from perenne.journal import Journal
from perenne.local.cluster import LocalNode
from perenne.local.processes import DidNotStart
from tests.chart.rendering import CLAIM, Case, Document, one
from tests.deploy.container import CannotContain, Container, check_rights, execute
from tests.deploy.pods import Kubelet
from tests.deploy.probes import Pod
from tests.deploy.stage import PRESET, Behind, wired
from tests.faults.arena import FaultFailed, Unavailable
from tests.faults.senders import Senders

SETS: Final = ("perenne", "perenne-zookeeper")
PATIENCE_S: Final = 240.0
PENDING_S: Final = 10.0
"""How long a drained pod finds no host."""


class NotAsWanted(Exception):
    """The rehearsal failed; the text says where."""


@dataclass(frozen=True, slots=True)
class Act:
    """What was done, and what senders noticed."""

    name: str
    seconds: float
    pause: float
    acknowledged: int
    refused: int
    broken: int


class Rehearsal:
    """One cluster, from its installation to the judgement."""

    def __init__(self, kubelet: Kubelet, found: list[Document], directory: Path) -> None:
        self.kubelet = kubelet
        self.found = found
        self._directory = directory
        self.nodes = kubelet.plan(one(found, "StatefulSet", "perenne"))
        self.keepers = kubelet.plan(one(found, "StatefulSet", "perenne-zookeeper"))
        self.behind = Behind(self.nodes)
        self.acts: list[Act] = []
        self._shown = 0

    def say(self, text: str = "") -> None:
        """Show what the kubelet did meanwhile, and `text`."""
        for line in self.kubelet.log[self._shown :]:
            sys.stdout.write(f"    {line}\n")
        self._shown = len(self.kubelet.log)
        if text:
            sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Raises NotAsWanted."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > deadline:
                self.say()
                tails = "\n".join(f"--- {p.name}\n{p.running.tail(6) if p.running else ''}" for p in self.nodes)
                raise NotAsWanted(f"waited {PATIENCE_S:.0f} s in vain until {what}\n{tails}")
            time.sleep(0.05)

    def status(self) -> dict[str, Any] | None:
        """Of the leader; None while nobody leads."""
        for node in self.behind.all():
            if node.leads():
                with contextlib.suppress(ValueError):
                    return node.status()
        return None

    def in_sync(self) -> set[str]:
        told = self.status()
        return set(told["in_sync"]) if told else set[str]()

    def await_whole(self) -> None:
        names = {pod.name for pod in self.nodes}
        self.wait(lambda: all(pod.serves for pod in self.nodes) and self.in_sync() >= names, "all nodes are in sync")

    # What Kubernetes does

    def install(self) -> None:
        """All at once: both StatefulSets are Parallel."""
        for pod in (*self.keepers, *self.nodes):
            self.kubelet.create(pod)
        self.kubelet.begin()
        self.await_whole()

    def prepare_tier(self) -> None:
        """As the chart's notes say. Raises NotAsWanted."""
        pod = self.nodes[0]
        assert pod.running is not None
        words = ["/opt/perenne/bin/perenne", "tier", "prepare", "--config", "/etc/perenne/node.toml"]
        done = execute(pod.running, pod.container, words, 60)
        if done.returncode != 0:
            raise NotAsWanted(f"perenne tier prepare: {done.stdout}{done.stderr}")
        self.say(f"\nperenne tier prepare: {done.stdout.strip()}")

    def helm_test(self) -> str:
        """The chart's own test pod, from the place of the last one. Raises NotAsWanted."""
        pod = one(self.found, "Pod", "perenne-test")
        spec = pod["spec"]["containers"][0]
        own = self._directory / "test"
        (own / "files").mkdir(parents=True, exist_ok=True)
        for name, text in one(self.found, "ConfigMap", "perenne-test")["data"].items():
            (own / "files" / name).write_text(text)
        variables = {one["name"]: one["value"] for one in spec["env"]}
        hosts = own / "hosts"
        serving = next(p for p in self.nodes if p.serves)
        hosts.write_text(f"{self.kubelet.hosts.read_text()}{serving.address} perenne-dicom\n")
        container = Container(
            image=serving.container.image,
            place=own / "root",
            command=spec["command"],
            user=pod["spec"]["securityContext"]["runAsUser"],
            environment={"PATH": "/opt/perenne/bin:/usr/bin:/bin", "HOME": "/", **variables},
            binds=[(own / "files", "/test", True), (hosts, "/etc/hosts", True), self._authority()],
        )
        container.place.mkdir(exist_ok=True)
        done = subprocess.run(container.words(), capture_output=True, text=True, timeout=300, check=False)
        if done.returncode != 0:
            raise NotAsWanted(f"helm test: {done.stdout}{done.stderr}")
        return done.stdout.strip()

    def _authority(self) -> tuple[Path, str, bool]:
        return self._directory / "perenne-ca" / "authority.pem", "/etc/perenne/tls/authority.pem", True

    def rolling_update(self, pods: Sequence[Pod], min_ready: float) -> None:
        """From the highest ordinal down; the next one when this one has been ready for a while."""
        for pod in reversed(pods):
            self.kubelet.delete(pod)
            self.kubelet.create(pod)
            self.wait(partial(_serves, pod), f"{pod.name} is ready")
            self.wait(partial(_serves, pod, min_ready), f"{pod.name} stays ready")

    def may_evict(self, pod: Pod) -> bool:
        """As the eviction API decides, by the chart's budget."""
        budget = one(self.found, "PodDisruptionBudget", "perenne")["spec"]
        assert budget["unhealthyPodEvictionPolicy"] == "IfHealthyBudget"
        healthy = sum(one.serves for one in self.nodes)
        wanted = len(self.nodes) - int(budget["maxUnavailable"])
        return healthy > wanted if pod.ready else healthy >= wanted

    def drain(self) -> None:
        """The leader's host is drained; meanwhile nobody else may be. Raises NotAsWanted."""
        told = self.status()
        pod = next(p for p in self.nodes if told is not None and p.name == told["leader"])
        other = next(p for p in self.nodes if p is not pod)
        if not self.may_evict(pod):
            raise NotAsWanted(f"the budget does not let {pod.name} go although all are ready")
        self.kubelet.delete(pod)
        if self.may_evict(other):
            raise NotAsWanted(f"the budget lets {other.name} go while {pod.name} is away")
        self.kubelet.say(f"{other.name} may not be evicted meanwhile; {pod.name} is pending for {PENDING_S:.0f} s")
        until = time.monotonic() + PENDING_S
        self.wait(lambda: time.monotonic() > until, "the host is back")
        self.kubelet.create(pod)
        self.await_whole()

    def lose_volume(self) -> None:
        """The leader's host burns down with its disk."""
        told = self.status()
        pod = next(p for p in self.nodes if told is not None and p.name == told["leader"])
        self.kubelet.kill(pod)
        self.kubelet.empty(pod)
        self.wait(lambda: self.status() is not None, "somebody else leads")
        self.kubelet.create(pod)
        self.await_whole()

    def act(self, name: str, senders: Senders, deed: Callable[[], None]) -> None:
        began = time.monotonic()
        before = senders.acknowledged, senders.refused, senders.broken
        self.say(f"\n{name}")
        deed()
        self.await_whole()
        took = time.monotonic() - began
        after = senders.acknowledged, senders.refused, senders.broken
        counts = [later - earlier for earlier, later in zip(before, after, strict=True)]
        self.acts.append(Act(name, took, senders.longest_pause(began), *counts))
        self.say()


def _serves(pod: Pod, seconds: float = 0.0) -> bool:
    return pod.serves and time.monotonic() >= pod.ready_since + seconds


@contextlib.contextmanager
def installed(directory: Path, case: Case) -> Generator[Rehearsal]:
    """Raises Unavailable, FaultFailed."""
    with wired(directory, SETS, case=case) as stage:
        yield Rehearsal(stage.kubelet, stage.found, directory)


def rehearse(directory: Path, associations: int, case: Case) -> int:
    """Exit code 0: everything acknowledged is kept. Raises NotAsWanted, FaultFailed, Unavailable."""
    journal_file = directory / "journal.jsonl"
    with installed(directory, case) as rehearsal:
        rehearsal.say(f"helm install, with the values of {case.name}: all pods at once")
        rehearsal.install()
        if case is CLAIM:
            rehearsal.prepare_tier()
        rehearsal.say("\nhelm test")
        rehearsal.say(rehearsal.helm_test())
        journal = Journal(journal_file)
        senders = Senders(rehearsal.behind, journal, first=0, count=associations, seed=1)
        try:
            rehearsal.wait(lambda: senders.acknowledged > 200, "stores are acknowledged")
            nodes = one(rehearsal.found, "StatefulSet", "perenne")["spec"]
            keepers = one(rehearsal.found, "StatefulSet", "perenne-zookeeper")["spec"]
            rehearsal.act("nothing, for comparison", senders, lambda: time.sleep(10))
            for name, deed in (
                ("rolling update", lambda: rehearsal.rolling_update(rehearsal.nodes, nodes["minReadySeconds"])),
                (
                    "rolling update of ZooKeeper",
                    lambda: rehearsal.rolling_update(rehearsal.keepers, keepers["minReadySeconds"]),
                ),
                ("drain of the leader's host", rehearsal.drain),
                ("the leader's host and volume are lost", rehearsal.lose_volume),
            ):
                rehearsal.act(name, senders, deed)
        finally:
            senders.stop()
            journal.close()
        rehearsal.await_whole()
        rehearsal.say("\nhelm test")
        rehearsal.say(rehearsal.helm_test())
        report(rehearsal)
        return judge(journal_file, rehearsal.behind.all())


def report(rehearsal: Rehearsal) -> None:
    write = sys.stdout.write
    write(f"\n{'':40}{'took':>8}{'longest pause':>15}{'stored':>8}{'A700':>6}{'broken':>8}\n")
    for act in rehearsal.acts:
        write(
            f"{act.name:40}{act.seconds:6.1f} s{act.pause:13.2f} s{act.acknowledged:8}{act.refused:6}{act.broken:8}\n"
        )


def judge(journal: Path, nodes: Sequence[LocalNode]) -> int:
    """`perenne check-journal`, as an operator would."""
    urls = [f"http://{node.host}:{node.http_port}" for node in nodes]
    words = [sys.executable, "-m", "perenne.cli", "check-journal", str(journal), *urls]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    sys.stdout.write(f"\nperenne check-journal: {done.stdout.strip() or done.stderr.strip()}\n")
    return done.returncode


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="script/rehearse-rollout",
        description="Play what Kubernetes does to the chart's StatefulSets, with real processes and senders that never "
        "stop: installation, rolling update, a rolling update of ZooKeeper, a node drain, a lost volume. Commands, "
        "probes, hooks and grace periods come from the rendered chart. Prints the pauses, and asks every node for "
        "every acknowledged instance. Needs root, network namespaces, and what script/setup installs.",
        epilog="Exit code 0: nothing acknowledged is lost. 1: something is, or the rehearsal failed. Example: "
        "sudo script/rehearse-rollout",
    )
    parser.add_argument("--associations", type=int, default=4, help="senders at once (%(default)s)")
    parser.add_argument("--tier", action="store_true", help="two nodes and a tier, instead of three nodes")
    parser.add_argument("--dir", type=Path, help="keep everything in this new directory (a temporary one)")
    arguments = parser.parse_args()
    try:
        check_rights()
        with contextlib.ExitStack() as undo:
            directory: Path = arguments.dir or Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="rollout-")))
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(0o755)
            return rehearse(directory.resolve(), arguments.associations, CLAIM if arguments.tier else PRESET)
    except (CannotContain, DidNotStart, FaultFailed, NotAsWanted, Unavailable) as error:
        sys.stdout.write(f"FAILED: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
