"""What must hold of machines that were set up as docs/operating.md says: health, restarts, open ports, rights."""

import json
import re
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final

from tests.deploy.debian import StepFailed
from tests.deploy.machines import Machine
from tests.faults.namespaces import PROBE_PORT

SERVICES: Final = ("perenne-zookeeper", "perenne")
CONFIG: Final = "/etc/perenne/node.toml"
PLAIN: Final = 2181
"""In the table of ports for ensembles without TLS; this one has none."""
ROOTS: Final = {"systemd", "systemd-journal", "systemd-logind", "agetty", "sshd", "(sd-pam)", "login"}
"""What Debian itself runs as root, as the kernel names it (15 characters)."""
OURS: Final = {"perenne": "python", "perenne-zookeeper": "java"}
_LISTENING: Final = re.compile(r"(?P<kind>tcp|udp) +\S+ +\d+ +\d+ +(?P<address>\S+):(?P<port>\d+) ")


def must(machine: Machine, text: str, timeout: float = 120) -> str:
    """Run it; returns what it said. Raises StepFailed."""
    done = machine.run(text, timeout)
    if done.returncode != 0:
        end = "\n".join((done.stdout + done.stderr).splitlines()[-40:])
        raise StepFailed(f"{machine.name}: {text.strip()}\nended with {done.returncode}\n{end}")
    return done.stdout


def healthy(machines: Sequence[Machine]) -> None:
    """Every machine calls all of them healthy. Raises StepFailed."""
    addresses = " ".join(f"https://{machine.name}.pacs.example:8080" for machine in machines)
    for machine in machines:
        must(machine, f"perenne await-in-sync --config {CONFIG} --others {len(machines) - 1} --seconds 120", 150)
        found = json.loads(must(machine, f"perenne status --json --config {CONFIG} {addresses}"))
        leaders = [node["node"] for node in found["nodes"] if node.get("role") == "leader"]
        if found["health"] != "ok" or len(leaders) != 1 or len(found["nodes"]) != len(machines):
            raise StepFailed(f"{machine.name} says {found['health']}, led by {leaders}")


def services_run(machine: Machine) -> None:
    """Both run, nothing has failed, and nothing had to be started again by systemd. Raises StepFailed."""
    for service in SERVICES:
        if must(machine, f"systemctl is-enabled {service}; systemctl is-active {service}").split() != [
            "enabled",
            "active",
        ]:
            raise StepFailed(f"{machine.name}: {service} does not run")
        if (count := must(machine, f"systemctl show --property=NRestarts --value {service}").strip()) != "0":
            raise StepFailed(f"{machine.name}: {service} ended {count} times by itself")
    if failed := must(machine, "systemctl list-units --state=failed --plain --no-legend").strip():
        raise StepFailed(f"{machine.name}: failed units: {failed}")


def survives_restarts(machines: Sequence[Machine]) -> None:
    """Each service of each machine is started anew, and the cluster is healthy again. Raises StepFailed."""
    for machine in machines:
        for service in SERVICES:
            must(machine, f"systemctl restart {service}")
            healthy(machines)
            services_run(machine)


def ports_are(machine: Machine, allowed: set[int]) -> set[int]:
    """What listens beyond loopback. Raises StepFailed for what the table does not have."""
    said = must(machine, "ss --listening --tcp --udp --numeric --processes --no-header")
    found: dict[int, str] = {}
    for line in said.splitlines():
        match = _LISTENING.match(line)
        if match is None:
            raise StepFailed(f"{machine.name}: ss says what nobody understands: {line}")
        address = match["address"].strip("[]").partition("%")[0]
        if (match["kind"], address, int(match["port"])) == ("udp", machine.party.address, PROBE_PORT):
            continue  # of the network that the machines lie in
        if address == "*" or not ip_address(address).is_loopback:
            found[int(match["port"])] = line
    strangers = [line for port, line in found.items() if port not in allowed - {PLAIN}]
    if strangers:
        raise StepFailed("\n".join([f"{machine.name} listens beyond the table of ports:", *strangers]))
    return set(found)


def doors_are_locked(machine: Machine) -> None:
    """Whoever has no certificate learns nothing of ZooKeeper, and whoever has no token nothing of a node.

    Raises StepFailed.
    """
    shown = "-cert /etc/perenne/tls/certificate.pem -key /etc/perenne/tls/key.pem"
    token = "Authorization: Bearer $(cat /etc/perenne/http.token)\\r\\n"
    ask = "GET /status HTTP/1.0\\r\\n{}\\r\\n"
    for what, port, says, words, opened, wanted in (
        ("ZooKeeper without a certificate", 2281, "srvr\\n", "", "Mode: ", False),
        ("ZooKeeper with one", 2281, "srvr\\n", shown, "Mode: ", True),
        ("HTTP without the token", 8080, ask.format(""), "", "HTTP/1.1 200", False),
        ("HTTP with it", 8080, ask.format(token), "", "HTTP/1.1 200", True),
    ):
        tried = f"openssl s_client -quiet -CAfile /etc/perenne/tls/authority.pem {words}"
        command = f'printf "{says}" | timeout 30 {tried} -connect {machine.name}.pacs.example:{port} 2>&1 || true'
        said = machine.run(command, 60).stdout
        if (opened in said) != wanted:
            raise StepFailed(f"{machine.name}: {what} {'is shut' if wanted else 'stands open'}: {said}")


def rights_are_few(machine: Machine) -> list[str]:
    """What runs as root. Raises StepFailed when that is more than Debian itself, or when a service has privileges."""
    roots: set[str] = set()
    seen: set[str] = set()
    for process in machine.processes():
        try:
            name = (process / "comm").read_text().strip()
            facts = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
            unit = (process / "cgroup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        user = facts["Uid"].split()[0]
        if user == "0":
            roots.add(name)
        for service, program in OURS.items():
            if f"/{service}.service\n" in unit:
                seen.add(service)
                if user == "0" or int(facts["CapEff"], 16) or int(facts["CapBnd"], 16) or facts["NoNewPrivs"] != "1":
                    raise StepFailed(f"{machine.name}: {service} ({name}) has privileges: {facts}")
                if not name.startswith(program):
                    raise StepFailed(f"{machine.name}: {service} runs {name}")
    if seen != set(OURS):
        raise StepFailed(f"{machine.name}: of the services only {sorted(seen)} have processes")
    if strangers := roots - ROOTS:
        raise StepFailed(f"{machine.name}: as root run {sorted(strangers)}")
    return sorted(roots)
