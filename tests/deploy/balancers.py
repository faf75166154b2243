"""Two machines with HAProxy and keepalived from deploy/, as they are: only addresses and paths are this machine's."""

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from perenne.local.processes import Running, start
from tests.chart.rendering import ROOT
from tests.deploy.container import CannotContain
from tests.faults.namespaces import Party

DEPLOY: Final = ROOT / "deploy"
ADDRESSES: Final = {"lb1": "192.0.2.11", "lb2": "192.0.2.12"}
VIRTUAL: Final = "192.0.2.10"
NAMES: Final = tuple(f"n{number}.pacs.example" for number in (1, 2, 3))
_CHECK: Final = "/usr/local/lib/perenne/check-haproxy"


def check_programs() -> None:
    """Raises CannotContain."""
    missing = [name for name in ("haproxy", "keepalived") if shutil.which(name, path="/usr/sbin:/usr/bin") is None]
    if missing:
        raise CannotContain(
            f"needs {' and '.join(missing)}: apt-get install --no-install-recommends haproxy keepalived"
        )


@dataclass(slots=True)
class Balancer:
    """One machine. hosts: names of the nodes, as they would stand in its /etc/hosts."""

    name: str
    party: Party
    directory: Path
    hosts: Mapping[str, str]
    haproxy: Running | None = None
    keepalived: Running | None = None
    logs: list[Path] = field(default_factory=list[Path])

    def start_haproxy(self, example: str) -> None:
        """An example of deploy/haproxy, word for word. Raises DidNotStart."""
        file = self.directory / "hosts"
        file.write_text(
            "".join(f"{address} {name}\n" for name, address in {**self.hosts, "localhost": "127.0.0.1"}.items())
        )
        script = f'mount --bind "{file}" /etc/hosts; exec haproxy -db -f "{DEPLOY}/haproxy/{example}"'
        words = [*self.party.namespace.wrapper, "unshare", "--mount", "sh", "-ec", script]
        self.haproxy = start(words, self.directory / "haproxy.log", self.directory)

    def start_keepalived(self, addresses: Mapping[str, str]) -> None:
        """The file of this machine, with this machine's addresses. Raises DidNotStart."""
        text = (DEPLOY / "keepalived" / f"{self.name}.conf").read_text()
        for example, real in addresses.items():
            text = text.replace(example, real)
        file = self.directory / "keepalived.conf"
        file.write_text(text)
        tools = self.directory / "lib"
        tools.mkdir(exist_ok=True)
        shutil.copy(DEPLOY / "keepalived" / "check-haproxy", tools)
        place = Path(_CHECK).parent
        script = (
            f'mkdir -p "{self.directory}/local/lib/perenne"; mount --bind "{self.directory}/local" /usr/local;'
            f' mount --bind "{tools}" {place}; exec keepalived -n -l -f "{file}"'
            f' -p "{self.directory}/pid" -r "{self.directory}/vrrp.pid"'
        )
        words = [*self.party.namespace.wrapper, "unshare", "--mount", "sh", "-ec", script]
        self.keepalived = start(words, self.directory / "keepalived.log", self.directory)

    def has(self, address: str) -> bool:
        return f" {address}/" in self.party.namespace.run("ip", "-4", "-o", "address", "show", "dev", "eth0")

    def lose_haproxy(self) -> float:
        """Returns when."""
        assert self.haproxy is not None
        self.haproxy.kill()
        return time.monotonic()

    def lose_line(self) -> float:
        """The machine is cut off, as when it lost its power. Returns when."""
        self.party.namespace.run("ip", "link", "set", "dev", "eth0", "down")
        return time.monotonic()

    def restore_line(self) -> None:
        self.party.namespace.run("ip", "link", "set", "dev", "eth0", "up")

    def end(self) -> None:
        for running in (self.keepalived, self.haproxy):
            if running is not None:
                running.stop(3)
