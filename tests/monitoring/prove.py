"""`script/prove-watching`: nodes, buckets and bytes are lost; the right alert reaches a webhook in time, and clears."""

import argparse
import contextlib
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from perenne.config import TierConfig
from perenne.config_tier import blocking_store
from perenne.dimse.sender import AssociationAborted, AssociationRejected
from perenne.local.cluster import LocalCluster, LocalNode
from perenne.local.processes import DidNotStart, wait_until
from perenne.local.prometheus import CLUSTER
from perenne.local.seaweedfs import ACCESS_KEY, SECRET_KEY, Store, start_store
from tests.integration import rig
from tests.monitoring.chain import INTERVAL_S, Chain, watching
from tests.monitoring.picture import Mark, alerts, charts, drawn

ROOT: Final = Path(__file__).resolve().parents[2]
PICTURE: Final = ROOT / "docs" / "watching.svg"
TABLE: Final = ROOT / "docs" / "watching.md"
SLACK_S: Final = 2 * (INTERVAL_S + INTERVAL_S) + 2
"""What the way of an alert may take beside the rule's `for`: two scrapes, two evaluations, and two seconds."""
SCRUB: Final = "[scrub]\nlight_every_ms = 2000\ndeep_every_ms = 2000\nper_second_bytes = 0\n"


def say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")


@dataclass(frozen=True, slots=True)
class Proved:
    """One alert on its way. after_s: from when it could be known, to the webhook; noticed_s: from the fault until then,
    where the node itself must notice it first."""

    fault: str
    alert: str
    wait_s: float
    noticed_s: float
    after_s: float
    cleared_s: float | None = None

    @property
    def limit_s(self) -> float:
        return self.wait_s + SLACK_S


class Load:
    """A few stores at a time to whichever node is ready, for as long as it is not paused."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster
        self._stop = threading.Event()
        self._turn = threading.Lock()
        self._thread = threading.Thread(target=self._run)
        self.number = 0

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @contextmanager
    def paused(self) -> Generator[None]:
        with self._turn:
            yield

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            with self._turn:
                self._some()

    def _some(self) -> None:
        node = next((one for one in self._cluster.nodes if one.alive and one.ready()), None)
        # A sender that is cut off sends again, here with the next ones.
        with contextlib.suppress(OSError, AssociationAborted, AssociationRejected):
            if node is not None:
                rig.store(node, *(rig.made(self.number + n, filler=bytes(20_000)) for n in range(5)))
                self.number += 5


@dataclass
class Stage:
    """A cluster with a bucket, and what watches it."""

    cluster: LocalCluster
    chain: Chain
    store: Store
    directory: Path
    load: Load
    marks: list[Mark] = field(default_factory=list[Mark])
    proved: list[Proved] = field(default_factory=list[Proved])

    def mark(self, text: str) -> float:
        """Write down what is done now; return when that is."""
        say(text)
        self.marks.append(Mark(time.time(), text))
        return time.monotonic()

    def bucket_goes(self) -> float:
        at = self.mark("the bucket is stopped")
        self.store.kill()
        return at

    def bucket_returns(self) -> float:
        at = self.mark("the bucket is started again")
        self.store = start_store(self.directory / "seaweedfs", at=self.store.ports)
        return at

    def fires(self, fault: str, alert: str, since: float, labels: dict[str, str], noticed: float = 0.0) -> float:
        """Wait for it, hold it against its limit, and write it down; returns when it came. Raises Late."""
        wait = self.chain.waits[alert]
        told = self.chain.told(alert, since, {"cluster": CLUSTER, **labels}, patience=wait + 60)
        known = noticed or since
        one = Proved(fault, alert, wait, known - since, told.at - known)
        self.proved.append(one)
        say(f"  {alert} at the webhook after {one.after_s:.2f} s (limit {one.limit_s:.2f} s)")
        if one.after_s > one.limit_s:
            raise Late(f"{alert} came after {one.after_s:.2f} s, and {one.limit_s:.2f} s is the limit")
        return told.at

    def clears(self, alert: str, fired: float, since: float, labels: dict[str, str]) -> None:
        told = self.chain.told(alert, fired, {"cluster": CLUSTER, **labels}, firing=False, patience=120)
        self.proved[-1] = replace(self.proved[-1], cleared_s=told.at - since)
        say(f"  {alert} cleared after {told.at - since:.2f} s")


class Late(Exception):
    """An alert took longer than its rule and its way may take."""


def metric(node: LocalNode, name: str) -> float:
    """What a node says of itself at this moment; 0 while it does not answer."""
    lines = node.get("/metrics")[1].decode().splitlines()
    return next((float(line.split()[1]) for line in lines if line.startswith(f"{name} ")), 0.0)


def knows(stage: Stage, node: LocalNode, name: str) -> float:
    """Wait until the node itself says that something is wrong; return when it did."""
    found: list[float] = []

    def does() -> bool:
        if metric(node, name) > 0:
            found.append(time.monotonic())
        return bool(found)

    stage.cluster.wait_for(does, f"{node.id} says {name}", 60)
    return found[0]


def node_is_killed(stage: Stage) -> None:
    node = rig.follower(stage.cluster)
    alert = {"node": node.id}
    since = stage.mark(f"a node ({node.id}) is killed")
    rig.signalled(node.running).kill()
    fired = stage.fires("a node is killed", "PerenneNodeDown", since, alert)
    since = stage.mark(f"{node.id} is started again")
    stage.cluster.start_node(node)
    stage.clears("PerenneNodeDown", fired, since, alert)
    everybody = {one.id for one in stage.cluster.nodes}
    stage.cluster.wait_for(lambda: rig.in_sync(stage.cluster) >= everybody, "all nodes are in sync again")


def bucket_is_stopped(stage: Stage) -> None:
    node = rig.leader(stage.cluster)
    alert = {"node": node.id}
    since = stage.bucket_goes()
    noticed = knows(stage, node, "perenne_tier_failed")
    fired = stage.fires("the bucket is stopped", "PerenneTierFailing", since, alert, noticed)
    stage.clears("PerenneTierFailing", fired, stage.bucket_returns(), alert)


def bytes_rot(stage: Stage) -> None:
    """Where nothing else can be asked for them, so that the damage stays long enough to wake somebody."""
    with stage.load.paused():
        _bytes_rot(stage)


def _bytes_rot(stage: Stage) -> None:
    cluster, node = stage.cluster, rig.leader(stage.cluster)
    alert = {"node": node.id}
    data = rig.made(10_000_000, filler=bytes(range(256)) * 400)
    if rig.store(node, data)[0][0] != 0:
        raise DidNotStart("a store was refused")
    cluster.wait_for(lambda: all(one.get(f"/instances/{data[0]}")[0] == 200 for one in cluster.nodes), "all have it")
    # Nobody but the scrub reads it from here on: what goes into the bucket is read for it as well.
    cluster.wait_for(lambda: node.status()["tier"]["behind"] == 0, "the bucket has it")
    stage.store.kill()
    others = [rig.signalled(one.running) for one in cluster.nodes if one is not node]
    for one in others:
        one.signal(signal.SIGSTOP)
    since = stage.mark(f"bytes rot on {node.id}; the bucket and the other nodes are stopped")
    rig.rot(node, data[1])
    noticed = knows(stage, node, "perenne_damaged_records")
    stage.fires("bytes rot, and the scrub finds them", "PerenneDamageFound", since, alert, noticed)
    fired = stage.fires("the same, while nobody can mend them", "PerenneDamagedRecords", since, alert, noticed)
    since = stage.mark("the other nodes go on")
    for one in others:
        one.signal(signal.SIGCONT)
    stage.clears("PerenneDamagedRecords", fired, since, alert)
    if metric(node, "perenne_repaired_total") < 1:
        raise DidNotStart(f"{node.id} does not say that it repaired anything")
    stage.bucket_returns()


@contextmanager
def staged(directory: Path, scale: float) -> Generator[Stage]:
    """Three nodes, a bucket and Debian's Prometheus and Alertmanager, all well."""
    store = start_store(directory / "seaweedfs")
    with ExitStack() as stack:
        kept: list[Stage] = []
        stack.callback(lambda: (kept[0].store if kept else store).kill())
        credentials = directory / "credentials"
        credentials.write_text(f"[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n")
        settings = TierConfig(endpoint=store.endpoint, bucket="perenne", credentials_file=credentials)
        blocking_store(settings, {}).prepare()
        tier = f'[tier]\nendpoint = "{store.endpoint}"\nbucket = "perenne"\ncredentials_file = "{credentials}"\n'
        cluster = stack.enter_context(rig.running_cluster(directory / "cluster", extra=tier + SCRUB))
        chain = stack.enter_context(watching(cluster, directory / "watching", scale))
        stage = Stage(cluster, chain, store, directory, stack.enter_context(Load(cluster)))
        kept.append(stage)
        wait_until(
            lambda: len(chain.prometheus.query("up == 1")) == 3, [chain.prometheus.running], "every node is scraped"
        )
        yield stage


def table(stage: Stage, scale: float) -> str:
    """docs/watching.md."""
    shortened = "the rules as they are" if scale == 1 else f"every `for` of the rules divided by {scale:g}"
    lines = [
        "# An alert on its way",
        "",
        f"Written by `script/prove-watching --write` ({time.strftime('%Y-%m-%d')}): three nodes, a SeaweedFS, Debian's",
        f"Prometheus and Alertmanager (`group_wait: 0s`), a webhook; {shortened}, a scrape and an evaluation",
        f"each {INTERVAL_S * 1000:.0f} ms. The limit is `for` + two scrapes + two evaluations + 2 s, from the kill of",
        "a node; in the other cases from when the node itself says what is wrong: it asks a bucket again for some",
        "seconds, and scrubs when it has nothing to do. Bytes that rot are mended at once as a rule; here every place",
        "from which they could be mended was stopped.",
        "",
        "| what was done | alert | noticed after | `for` | then at the webhook after | limit | cleared after (all s) |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in stage.proved:
        cleared = f"{one.cleared_s:.2f}" if one.cleared_s is not None else "an hour: its window"
        lines.append(
            f"| {one.fault} | `{one.alert}` | {one.noticed_s:.2f} | {one.wait_s:g} | {one.after_s:.2f} |"
            f" {one.limit_s:.2f} | {cleared} |"
        )
    lines += ["", "What panels of the dashboard showed meanwhile:", "", "![panels](watching.svg)", ""]
    return "\n".join(lines)


def prove(scale: float, write: bool) -> None:
    """Raises Late, DidNotStart."""
    with tempfile.TemporaryDirectory(prefix="perenne-watching-") as name, staged(Path(name), scale) as stage:
        began = time.time()
        parts: tuple[Callable[[Stage], None], ...] = (node_is_killed, bucket_is_stopped, bytes_rot)
        load = stage.load
        stage.cluster.wait_for(lambda: load.number > 50, "the load has begun")
        for part in parts:
            part(stage)
        sent = load.number
        stage.cluster.wait_for(lambda: load.number > sent + 50, "stores go on")
        ended = time.time()
        prometheus = stage.chain.prometheus
        picture = drawn(charts(prometheus, began, ended), alerts(prometheus, began, ended), stage.marks, began, ended)
        if write:
            PICTURE.write_text(picture)
            TABLE.write_text(table(stage, scale))
            say(f"written: {TABLE.name} and {PICTURE.name} in docs/")
        say(f"proved: {len(stage.proved)} alerts reached the webhook in time, beside {load.number} stores")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="script/prove-watching",
        description="Debian's Prometheus and Alertmanager watch a real cluster with a bucket, and a webhook takes what "
        "they send. A node is killed, the bucket is stopped, bytes rot: the right alert must reach the webhook within "
        "the rule's `for`, two scrapes, two evaluations and 2 s, and clear afterwards. Exit code 0: proved.",
        epilog="Example: script/prove-watching --scale 1 takes a quarter of an hour, with the rules as they are.",
    )
    parser.add_argument(
        "--scale", type=float, default=60, help="divide every `for` of a copy of the rules by this (%(default)s)"
    )
    parser.add_argument("--write", action="store_true", help="write docs/watching.md and its picture")
    options = parser.parse_args()
    try:
        prove(options.scale, options.write)
    except (Late, DidNotStart) as error:
        say(f"not proved: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
