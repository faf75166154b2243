"""A pod and its probes, as the kubelet sees them."""

import http.client
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from perenne.local.processes import Running
from tests.chart.rendering import Document
from tests.deploy.container import Container, execute

LATER: Final = ("livenessProbe", "readinessProbe")
PROBES: Final = ("startupProbe", *LATER)


@dataclass(slots=True)
class Probe:
    """One probe of a container, and how it went."""

    spec: Mapping[str, Any]
    passed: int = 0
    failed: int = 0
    due: float = 0.0

    @property
    def period(self) -> float:
        return float(self.spec.get("periodSeconds", 10))

    def count(self, good: bool, now: float) -> None:
        self.passed, self.failed = (self.passed + 1, 0) if good else (0, self.failed + 1)
        self.due = now + self.period

    @property
    def given_up(self) -> bool:
        return self.failed >= int(self.spec.get("failureThreshold", 3))


@dataclass(slots=True)
class Pod:
    """One ordinal of a StatefulSet: its name and volumes stay, its process comes and goes."""

    name: str
    template: Document
    address: str
    container: Container
    log: Path
    volume: Path
    running: Running | None = None
    terminating: bool = False
    started: bool = False
    ready: bool = False
    ready_since: float = 0.0
    restarts: int = 0
    probes: dict[str, Probe] = field(default_factory=dict[str, Probe])

    @property
    def spec(self) -> Document:
        found: Document = self.template["spec"]["containers"][0]
        return found

    @property
    def serves(self) -> bool:
        """Whether it stands behind the services."""
        return self.ready and not self.terminating


def passes(pod: Pod, running: Running, spec: Mapping[str, Any]) -> bool:
    """One probe, once."""
    timeout = float(spec.get("timeoutSeconds", 1))
    if "exec" in spec:
        try:
            return execute(running, pod.container, spec["exec"]["command"], timeout).returncode == 0
        except subprocess.TimeoutExpired:
            return False
    asked = spec.get("httpGet") or spec["tcpSocket"]
    (port,) = (port["containerPort"] for port in pod.spec["ports"] if port["name"] == asked["port"])
    connection = http.client.HTTPConnection(pod.address, port, timeout=timeout)
    try:
        connection.connect()
        if "httpGet" not in spec:
            return True
        connection.request("GET", asked["path"])
        return 200 <= connection.getresponse().status < 400
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
