"""What TLS costs: a cluster of two in plain text and one with mutual TLS between its nodes, side by side."""

import ssl
import statistics
import tempfile
from pathlib import Path

import uvloop

from perenne.authority import AUTHORITY, CERTIFICATE, KEY, authority_in
from perenne.bench.cluster import cluster_of
from perenne.bench.load import SIZES, rate
from perenne.bench.results import Results, say
from perenne.local.cluster import AE_TITLE, LocalCluster, LocalNode
from perenne.local.processes import free_ports

PLAIN, BETWEEN_NODES, EVERYWHERE = "all in plain text", "mutual TLS between nodes", "and DICOM TLS"
ASSOCIATIONS = (1, 4)


def tls(seconds: float, repeat: int) -> Results:
    """Instances per second at the leader, in turns: all meet the same disturbances. Two copies before each Success."""
    rates: Results = {PLAIN: {}, BETWEEN_NODES: {}, EVERYWHERE: {}}
    ratios: Results = {f"{name} / plain": {} for name in (BETWEEN_NODES, EVERYWHERE)}
    with tempfile.TemporaryDirectory(prefix="perenne-bench-") as name:
        work = Path(name)
        authority = authority_in(work / "ca")
        locked = LocalCluster(work / "locked")
        try:
            tls_ports = _lock(locked, authority.directory, [authority.issue(n, (), 5) for n in ("n1", "n2")])
            with cluster_of(work / "plain", 2) as plain:
                locked.start(2)
                leader, other = locked.wait_ready(), plain.wait_ready()
                known = ssl.create_default_context(cafile=str(authority.directory / AUTHORITY))
                doors = {
                    PLAIN: (other.dicom_port, None),
                    BETWEEN_NODES: (leader.dicom_port, None),
                    EVERYWHERE: (tls_ports[leader.id], known),
                }
                for label, (sop_class, size) in SIZES.items():
                    for many in ASSOCIATIONS:
                        found: dict[str, list[float]] = {door: [] for door in doors}
                        for _ in range(repeat):
                            for door, (port, context) in doors.items():
                                work_rate = rate(
                                    port, AE_TITLE, sop_class, size, associations=many, seconds=seconds, tls=context
                                )
                                found[door].append(uvloop.run(work_rate))
                        _note(f"{label} x{many} per s", found, rates, ratios)
        finally:
            locked.kill()
    return rates | ratios


def _lock(cluster: LocalCluster, authority: Path, directories: list[Path]) -> dict[str, int]:
    """Give each node its certificate, and a port for DICOM TLS beside the plain one. Returns these ports."""
    cluster.directory.mkdir(parents=True)
    cluster.plan(len(directories))
    ports: dict[str, int] = {}
    for node, own, port in zip(cluster.nodes, directories, free_ports(len(directories)), strict=True):
        ports[node.id] = port
        _give(node, own, authority, port)
    return ports


def _give(node: LocalNode, own: Path, authority: Path, tls_port: int) -> None:
    facts = {
        "TLS__AUTHORITY_FILE": authority / AUTHORITY,
        "TLS__CERTIFICATE_FILE": own / CERTIFICATE,
        "TLS__KEY_FILE": own / KEY,
        "DIMSE__TLS": "beside",
        "DIMSE__TLS_PORT": tls_port,
    }
    node.wrapper = ("env", *(f"PERENNE_{key}={value}" for key, value in facts.items()))


def _note(key: str, found: dict[str, list[float]], rates: Results, ratios: Results) -> None:
    for door, measured in found.items():
        rates[door][key] = statistics.median(measured)
    for door in (BETWEEN_NODES, EVERYWHERE):
        ratios[f"{door} / plain"][key] = statistics.median(
            a / b for a, b in zip(found[door], found[PLAIN], strict=True)
        )
    shown = ", ".join(f"{name} {ratio[key]:.2f}" for name, ratio in ratios.items())
    say(f"{key}: {rates[PLAIN][key]:.1f} in plain text; {shown}")
