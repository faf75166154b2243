"""The whole chain of an alert on this machine: nodes, Debian's Prometheus and Alertmanager, a webhook."""

import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import yaml

from perenne.local.cluster import LocalCluster
from perenne.local.processes import Running, free_ports, start, wait_until
from perenne.local.prometheus import RULES, Prometheus, configure, start_prometheus

INTERVAL_S: Final = 0.25
"""Between two scrapes of a node, and between two evaluations of a rule."""
SPANS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_ALERTMANAGER: Final = """route:
  receiver: hook
  group_by: ["..."]
  group_wait: 0s
  group_interval: 250ms
  repeat_interval: 1h
receivers:
  - name: hook
    webhook_configs: [{{url: "http://127.0.0.1:{port}/", send_resolved: true}}]
"""


@dataclass(frozen=True, slots=True)
class Told:
    """One alert as the webhook got it. at: by this process's monotonic clock."""

    at: float
    name: str
    labels: dict[str, str]
    firing: bool


class Webhook:
    """Takes what Alertmanager sends, and remembers it."""

    def __init__(self) -> None:
        self.told: list[Told] = []
        mine = self.told

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body: Any = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                for one in body["alerts"]:
                    labels = one["labels"]
                    mine.append(Told(time.monotonic(), labels["alertname"], labels, one["status"] == "firing"))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> "Webhook":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def first(self, name: str, since: float, labels: Mapping[str, str], *, firing: bool) -> Told | None:
        """The first of this kind that came after `since`."""
        fit = (one for one in list(self.told) if one.name == name and one.firing is firing and one.at >= since)
        return next((one for one in fit if labels.items() <= one.labels.items()), None)


def seconds(span: str) -> float:
    """What a duration of Prometheus says."""
    return sum(float(number) * SPANS[unit] for number, unit in re.findall(r"(\d+)(ms|s|m|h|d)", span))


def scaled_rules(scale: float, file: Path) -> dict[str, float]:
    """Write the real rules with nothing changed but every `for` divided by `scale`; return each in seconds."""
    rules: Any = yaml.safe_load(RULES.read_text())
    waits: dict[str, float] = {}
    for group in rules["groups"]:
        for rule in group["rules"]:
            wait = seconds(rule.get("for", "0s")) / scale
            waits[rule["alert"]] = wait
            rule["for"] = f"{round(wait * 1000)}ms"
    file.write_text(yaml.safe_dump(rules))
    return waits


def start_alertmanager(directory: Path, webhook: Webhook) -> tuple[Running, int]:
    """Debian's, on loopback and alone; returns it and its port. Raises DidNotStart."""
    binary = shutil.which("prometheus-alertmanager")
    assert binary is not None, "script/setup installs prometheus-alertmanager"
    directory.mkdir(parents=True)
    (directory / "alertmanager.yml").write_text(_ALERTMANAGER.format(port=webhook.port))
    (port,) = free_ports(1)
    command = [
        binary,
        "--config.file=alertmanager.yml",
        "--storage.path=data",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
        "--log.level=warn",
    ]
    running = start(command, directory / "alertmanager.log", directory)
    ready = Prometheus(running, port)  # the same probe at the same place
    wait_until(ready.answers, [running], "Alertmanager is ready")
    return running, port


@dataclass(frozen=True, slots=True)
class Chain:
    """What watches a cluster. waits: each rule's `for` in seconds."""

    prometheus: Prometheus
    webhook: Webhook
    waits: dict[str, float]

    def told(
        self, name: str, since: float, labels: Mapping[str, str], *, firing: bool = True, patience: float = 60.0
    ) -> Told:
        """Wait for an alert at the webhook. Raises DidNotStart, with what came instead in the text."""
        found: list[Told] = []

        def came() -> bool:
            one = self.webhook.first(name, since, labels, firing=firing)
            found.extend([one] if one is not None else [])
            return one is not None

        what = f"{name} {labels} {'fires' if firing else 'clears'} at the webhook; so far {self.names()}"
        wait_until(came, [self.prometheus.running], what, patience)
        return found[0]

    def names(self) -> list[str]:
        return [f"{one.name} {'fires' if one.firing else 'clears'}" for one in self.webhook.told]

    def has_data(self, expression: str) -> bool:
        return bool(self.prometheus.query(expression))


@contextmanager
def watching(cluster: LocalCluster, directory: Path, scale: float) -> Generator[Chain]:
    """Watch a cluster that is planned; everything is ended afterwards."""
    directory.mkdir(parents=True)
    rules = directory / "rules.yml"
    waits = scaled_rules(scale, rules)
    targets = {node.id: f"127.0.0.1:{node.http_port}" for node in cluster.nodes}
    ends: list[Callable[[], None]] = []
    try:
        with Webhook() as webhook:
            manager, port = start_alertmanager(directory / "alertmanager", webhook)
            ends.append(manager.kill)
            own = directory / "prometheus"
            managers = (f"127.0.0.1:{port}",)
            configure(own, targets, interval=f"{INTERVAL_S * 1000:.0f}ms", rules=rules, alertmanagers=managers)
            prometheus = start_prometheus(own, free_ports(1)[0])
            ends.append(prometheus.running.kill)
            yield Chain(prometheus, webhook, waits)
    finally:
        for end in ends:
            end()
