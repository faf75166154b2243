"""Prometheus beside a local cluster, with the very alert rules that a hospital would load."""

import json
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from perenne.local.processes import DidNotStart, Running, start, wait_until

RULES: Final = Path(__file__).resolve().parent.parent.parent / "monitoring" / "alerts" / "perenne.yaml"
CLUSTER: Final = "local"
"""What the label `cluster` of a local cluster says."""
_DIRECT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_CONFIG: Final = """# Written by script/up.
global:
  scrape_interval: {interval}
  scrape_timeout: {interval}
  evaluation_interval: {interval}
rule_files: ["{rules}"]
alerting:
  alertmanagers:
    - static_configs: [{{targets: [{alertmanagers}]}}]
scrape_configs:
  - job_name: perenne
    file_sd_configs: [{{files: ["targets.json"]}}]
"""


class Refused(Exception):
    """Prometheus did not answer a question; the text says why."""


@dataclass(frozen=True, slots=True)
class Prometheus:
    """One running server."""

    running: Running
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answers(self) -> bool:
        """Whether it is ready: its rules are loaded, its storage is open."""
        try:
            with _DIRECT.open(f"{self.url}/-/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def ask(self, path: str, **parameters: str) -> Any:
        """The `data` of its API. Raises Refused."""
        try:
            with _DIRECT.open(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}", timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise Refused(f"{path} {parameters}: {error.read()[:500].decode(errors='replace')}") from error

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Series and their values now. Raises Refused."""
        found: list[dict[str, Any]] = self.ask("query", query=expression)["result"]
        return found


def configure(
    directory: Path,
    targets: Mapping[str, str],
    *,
    interval: str = "5s",
    rules: Path = RULES,
    alertmanagers: tuple[str, ...] = (),
) -> None:
    """Write what it reads. targets: HOST:PORT by node; a server that runs takes them up by itself."""
    directory.mkdir(parents=True, exist_ok=True)
    written = [{"targets": [at], "labels": {"cluster": CLUSTER, "node": node}} for node, at in targets.items()]
    # Prometheus must never see half of it.
    temporary = directory / "targets.json.new"
    temporary.write_text(json.dumps(written, indent=2) + "\n")
    temporary.replace(directory / "targets.json")
    managers = ", ".join(f'"{one}"' for one in alertmanagers)
    (directory / "prometheus.yml").write_text(
        _CONFIG.format(interval=interval, rules=rules.resolve(), alertmanagers=managers)
    )


def start_prometheus(directory: Path, port: int) -> Prometheus:
    """Start it on loopback with what `configure` wrote, and wait until it is ready. Raises DidNotStart."""
    binary = shutil.which("prometheus")
    if binary is None:
        raise DidNotStart("Prometheus is missing: run script/setup, which installs Debian's package prometheus")
    command = [
        binary,
        "--config.file=prometheus.yml",
        "--storage.tsdb.path=data",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    made = Prometheus(start(command, directory / "prometheus.log", directory), port)
    try:
        wait_until(made.answers, [made.running], "Prometheus is ready")
    except BaseException:  # Ctrl-C too: nobody has written down yet that it runs
        made.running.kill()
        raise
    return made
