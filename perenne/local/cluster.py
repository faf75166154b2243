"""Start, find again and end a local cluster; `cluster.json` in its directory says where everything is."""

import http.client
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from perenne.local import zookeeper
from perenne.local.processes import DidNotStart, Running, free_ports, start, start_time, taken, wait_until
from perenne.local.prometheus import Prometheus, configure, start_prometheus
from perenne.local.signed import changed, signed
from replication.tier.directory import DirectoryStore
from replication.tier.port import TierError

FILE: Final = "cluster.json"
AE_TITLE: Final = "PERENNE"
_DIRECT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))
Say = Callable[[str], None]


@dataclass
class LocalNode:
    """One node of a local cluster."""

    id: str
    directory: Path
    dicom_port: int
    http_port: int
    peer_port: int
    running: Running | None = None
    wrapper: tuple[str, ...] = ()
    """What the node is run by: `env` with variables, or a network namespace."""
    zookeeper: str = ""
    """Where it finds ZooKeeper, if not at the server itself."""
    advertise_host: str = ""
    extra: str = ""
    host: str = "127.0.0.1"
    """Where it listens."""
    scheme: str = "http"
    opener: urllib.request.OpenerDirector = _DIRECT
    """How its HTTP port is asked."""

    @property
    def config(self) -> Path:
        return self.directory / "node.toml"

    @property
    def data_dir(self) -> Path:
        return self.directory / "data"

    @property
    def alive(self) -> bool:
        return self.running is not None and self.running.alive

    def get(self, path: str, timeout: float = 2.0) -> tuple[int, bytes]:
        """HTTP GET; status 0 when nobody answers, or not to the end."""
        try:
            try:
                with self.opener.open(f"{self.scheme}://{self.host}:{self.http_port}{path}", timeout=timeout) as answer:
                    return int(answer.status), answer.read()
            except urllib.error.HTTPError as error:
                return error.code, error.read()
        except (OSError, http.client.HTTPException):  # the second: killed between the head and the body
            return 0, b""

    def ready(self) -> bool:
        return self.get("/readyz")[0] == 200

    def leads(self) -> bool:
        return self.get("/leader")[0] == 200

    def status(self) -> dict[str, Any]:
        """Raises DoesNotAnswer."""
        code, body = self.get("/status")
        if code == 0:
            raise DoesNotAnswer(f"{self.id} does not answer on port {self.http_port}")
        facts: dict[str, Any] = json.loads(body)
        return facts


class DoesNotAnswer(ValueError):
    """A node did not answer over HTTP in time."""


def _holds(condition: Callable[[], bool]) -> bool:
    try:
        return condition()
    except DoesNotAnswer:
        return False


class NotACluster(Exception):
    """What lies in the directory was not written by script/up; the text says what to do."""


class LocalCluster:
    """A ZooKeeper server and nodes, in one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.resolve()
        self.nodes: list[LocalNode] = []
        self.zookeeper: Running | None = None
        self.zookeeper_port = 0
        self.prometheus: Prometheus | None = None
        """What watches it, once `watch` was asked for."""
        self.session_timeout_ms = 6000
        self.extra = ""
        self.tier: Path | None = None
        """A directory that holds the log as well."""

    # cluster.json

    @classmethod
    def load(cls, directory: Path) -> "LocalCluster":
        """Read what an earlier start wrote; an empty cluster when there was none. Raises NotACluster, OSError."""
        cluster = cls(directory)
        file = cluster.directory / FILE
        if not file.exists():
            return cluster
        try:
            cluster._read(json.loads(file.read_text()))
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise NotACluster(
                f"{file} is not what script/up writes ({type(error).__name__}: {error}): name another directory, or"
                " move the file away. Processes that it may have named go on: `pgrep -af perenne.cli` shows the nodes"
            ) from error
        return cluster

    def _read(self, facts: dict[str, Any]) -> None:
        keeper = facts["zookeeper"]
        self.zookeeper_port = int(keeper["address"].rsplit(":", 1)[1])
        self.zookeeper = _known(keeper, self.directory / "zookeeper" / "zookeeper.log")
        self.session_timeout_ms = facts.get("session_timeout_ms", 6000)
        self.tier = Path(facts["tier"]) if facts.get("tier") else None
        watching: dict[str, Any] = facts.get("prometheus") or {}
        if (server := _known(watching, self.directory / "prometheus" / "prometheus.log")) is not None:
            self.prometheus = Prometheus(server, int(watching["port"]))
        for node in facts["nodes"]:
            own = Path(node["data_dir"]).parent
            ports = (int(node["dicom_port"]), int(node["http_port"]), int(node["peer_port"]))
            self.nodes.append(LocalNode(node["id"], own, *ports, _known(node, own / "node.log")))

    def save(self) -> None:
        nodes = [
            {
                "id": node.id,
                "pid": node.running.pid if node.running else None,
                "started": node.running.started if node.running else None,
                "ae_title": AE_TITLE,
                "dicom_port": node.dicom_port,
                "http_port": node.http_port,
                "peer_port": node.peer_port,
                "data_dir": str(node.data_dir),
            }
            for node in self.nodes
        ]
        keeper = self.zookeeper
        facts = {
            "nodes": nodes,
            "zookeeper": {
                "address": f"127.0.0.1:{self.zookeeper_port}",
                "pid": keeper.pid if keeper else None,
                "started": keeper.started if keeper else None,
            },
            "tier": str(self.tier) if self.tier is not None else None,
            "prometheus": {
                "port": self.prometheus.port,
                "pid": self.prometheus.running.pid,
                "started": self.prometheus.running.started,
            }
            if self.prometheus is not None
            else None,
            "session_timeout_ms": self.session_timeout_ms,
        }
        temporary = self.directory / f"{FILE}.new"
        temporary.write_text(json.dumps(facts, indent=2) + "\n")
        temporary.replace(self.directory / FILE)

    # Start and end

    def start(self, nodes: int = 3, say: Say = lambda _: None) -> None:
        """Start whatever does not run; wait until the cluster can acknowledge. Raises DidNotStart."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.start_zookeeper(say)
        self.plan(nodes)
        for node in self.nodes:
            if not node.alive:
                say(f"starting node {node.id}")
                self.start_node(node, say)
        self.wait_ready(say)

    def plan(self, nodes: int) -> None:
        """Give directories and ports to nodes that are new."""
        ports = free_ports(3 * max(0, nodes - len(self.nodes)))
        for number in range(len(self.nodes) + 1, nodes + 1):
            own = self.directory / f"n{number}"
            own.mkdir(parents=True, exist_ok=True)
            self.nodes.append(LocalNode(f"n{number}", own, ports.pop(), ports.pop(), ports.pop()))

    def start_zookeeper(self, say: Say = lambda _: None) -> None:
        if self.zookeeper is not None and self.zookeeper.alive:
            return
        say("starting ZooKeeper")
        self.zookeeper_port = self.zookeeper_port or free_ports(1)[0]
        if taken(self.zookeeper_port):  # another ZooKeeper would answer there in place of ours
            raise DidNotStart(f"another process has port {self.zookeeper_port}, which is ZooKeeper's: end it")
        own = self.directory / "zookeeper"
        own.mkdir(parents=True, exist_ok=True)
        keeper = self.zookeeper = zookeeper.start_server(own, self.zookeeper_port)
        self.save()
        wait_until(lambda: zookeeper.serves(self.zookeeper_port), [keeper], "ZooKeeper serves")

    def start_node(self, node: LocalNode, say: Say = lambda _: None) -> None:
        """Start one node; `ready` tells when it may be used."""
        node.directory.mkdir(parents=True, exist_ok=True)
        if not changed(node.config):
            node.config.write_text(self.configuration(node))
        elif node.config.read_text() != self.configuration(node):
            say(f"{node.config} was changed by hand and is kept; to have it written anew, move it away")
        command = [*node.wrapper, sys.executable, "-m", "perenne.cli", "node", "--config", str(node.config)]
        node.running = start(command, node.directory / "node.log", node.directory)
        self.save()

    def watch(self, say: Say = lambda _: None) -> Prometheus:
        """Have Prometheus watch every node, also those that came since it was started. Raises DidNotStart."""
        own = self.directory / "prometheus"
        configure(own, {node.id: f"{node.host}:{node.http_port}" for node in self.nodes})
        if self.prometheus is None or not self.prometheus.running.alive:
            say("starting Prometheus")
            self.prometheus = start_prometheus(own, free_ports(1)[0])
            self.save()
        return self.prometheus

    def configuration(self, node: LocalNode) -> str:
        """What its node.toml says."""
        keeper = node.zookeeper or f"127.0.0.1:{self.zookeeper_port}"
        return signed(f"""[node]
id = "{node.id}"
data_dir = "{node.data_dir}"

[coordination]
zookeeper = "{keeper}"
session_timeout_ms = {self.session_timeout_ms}

[peer]
host = "{node.host}"
port = {node.peer_port}
advertise_host = "{node.advertise_host}"

[dimse]
ae_title = "{AE_TITLE}"
host = "{node.host}"
port = {node.dicom_port}

[http]
host = "{node.host}"
port = {node.http_port}
{self._tier_section()}{self.extra}{node.extra}""")

    def _tier_section(self) -> str:
        return f'\n[tier]\nkind = "directory"\ndirectory = "{self.tier}"\n' if self.tier is not None else ""

    def use_tier(self, directory: Path) -> None:
        """Mark a directory, and let every node that is started from now on use it. Raises DidNotStart."""
        if self.tier is None and self.nodes:
            raise DidNotStart(
                f"the cluster in {self.directory} was made without a tier: write [tier] into each node.toml"
                " (docs/tier.md), `perenne tier prepare --config` one of them, and start the nodes again"
            )
        if self.tier not in (None, directory):
            raise DidNotStart(f"the tier of the cluster in {self.directory} is {self.tier}: leave out --tier")
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            step = "name a directory for --tier where you may make one"
            raise DidNotStart(f"the tier {directory} cannot be made: {error.strerror}: {step}") from error
        store = DirectoryStore(directory)
        try:
            store.prepare()
        except TierError as error:
            raise DidNotStart(str(error)) from error
        finally:
            store.close()
        self.tier = directory

    def wait_ready(self, say: Say = lambda _: None, seconds: float = 60.0) -> LocalNode:
        """Return the leader once every running node takes stores and one leads."""
        say("waiting until the cluster can acknowledge")
        running = [node for node in self.nodes if node.alive]
        processes = [node.running for node in running if node.running is not None]

        def ready() -> bool:
            return all(node.ready() for node in running) and any(node.leads() for node in running)

        wait_until(ready, processes, "the cluster can acknowledge", seconds)
        return next(node for node in running if node.leads())

    def stop(self, say: Say = lambda _: None) -> int:
        """End exactly what was started; return how many processes that were."""
        ended = 0
        if self.prometheus is not None and self.prometheus.running.alive:
            say("ending Prometheus")
            self.prometheus.running.stop()
            ended += 1
        for node in self.nodes:
            if node.running is not None and node.running.alive:
                say(f"ending node {node.id}")
                node.running.stop()
                ended += 1
        if self.zookeeper is not None and self.zookeeper.alive:
            say("ending ZooKeeper")
            self.zookeeper.stop()
            ended += 1
        return ended

    def kill(self) -> None:
        """For tests: end everything at once."""
        for node in self.nodes:
            if node.running is not None:
                node.running.kill()
        if self.zookeeper is not None:
            self.zookeeper.kill()
        if self.prometheus is not None:
            self.prometheus.running.kill()

    def leader(self) -> LocalNode | None:
        return next((node for node in self.nodes if node.alive and node.leads()), None)

    def wait_for(self, condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
        """Wait; who does not answer yet may do so later. Raises DidNotStart with the logs' ends."""
        deadline = time.monotonic() + seconds
        while not _holds(condition):
            if time.monotonic() > deadline:
                tails = "\n".join(f"--- {n.id}\n{n.running.tail(8) if n.running else ''}" for n in self.nodes)
                raise DidNotStart(f"waited {seconds:.0f} s in vain until {what}\n{tails}")
            time.sleep(0.03)


def _known(facts: dict[str, Any], log: Path) -> Running | None:
    """The process that was started, if it is that very process and not another with its number."""
    pid, started = facts.get("pid"), facts.get("started")
    if pid is None or started is None or start_time(int(pid)) != int(started):
        return None
    return Running(int(pid), int(started), log)
