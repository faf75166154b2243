"""Goal: the address that senders know moves to the other machine when HAProxy of the first one is gone.

Method: HAProxy and keepalived with the very files of deploy/, each pair in a network namespace of its own, in front of
a node in a third. Under load, and with machines that are cut off, it is for script/rehearse-routing.
"""

import contextlib
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from perenne.local.cluster import LocalNode
from perenne.local.processes import Running, start, wait_until
from tests.deploy.balancers import ADDRESSES, NAMES, VIRTUAL, Balancer
from tests.faults import namespaces
from tests.faults.arena import Unavailable
from tests.faults.namespaces import Network, Party

FREE = 200
"""The last part of an address that nobody has."""


@pytest.fixture
def network() -> Generator[Network]:
    try:
        made = Network(["node", *ADDRESSES])
    except Unavailable as why:
        pytest.skip(str(why))
    with contextlib.closing(made), made.hub.entered():
        yield made


def started(party: Party, directory: Path) -> Running:
    """A node that is alone, and ready."""
    directory.mkdir()
    config = directory / "node.toml"
    config.write_text(
        f'[node]\ndata_dir = "{directory}/data"\n[cluster]\nallow_solo = true\n[storage]\nreserve_bytes = 1048576\n'
        '[dimse]\nhost = "0.0.0.0"\n[http]\nhost = "0.0.0.0"\n'
    )
    command = [*party.namespace.wrapper, sys.executable, "-m", "perenne.cli", "node", "--config", str(config)]
    return start(command, directory / "node.log", directory)


@pytest.mark.needs("haproxy", "keepalived", *namespaces.TOOLS)
def test_the_address_moves_when_haproxy_is_gone(network: Network, tmp_path: Path) -> None:
    node = network.party("node")
    balancers: dict[str, Balancer] = {}
    for name in ADDRESSES:
        (tmp_path / name).mkdir()
        hosts = dict.fromkeys(NAMES, node.address)
        balancers[name] = Balancer(name, network.party(name), tmp_path / name, hosts)
    first, second = balancers["lb1"], balancers["lb2"]
    virtual = f"{first.party.address.rsplit('.', 1)[0]}.{FREE}"
    addresses = {VIRTUAL: virtual, **{ADDRESSES[name]: one.party.address for name, one in balancers.items()}}
    entry = LocalNode("behind", tmp_path, 11112, 8080, 0, host=virtual)
    running = started(node, tmp_path / "node")

    def holders() -> list[str]:
        return [name for name, balancer in balancers.items() if balancer.has(virtual)]

    try:
        wait_until(LocalNode("node", tmp_path, 0, 8080, 0, host=node.address).ready, [running], "the node is ready")
        for balancer in balancers.values():
            balancer.start_haproxy("any-node.cfg")
        # One after the other: whoever sees a node first has the address, and keeps it.
        first.start_keepalived(addresses)
        wait_until(lambda: holders() == ["lb1"], [running], "lb1 has the address")
        second.start_keepalived(addresses)
        wait_until(entry.ready, [running], "the address answers")
        first.lose_haproxy()
        wait_until(lambda: holders() == ["lb2"], [running], "lb2 alone has the address")
        wait_until(entry.ready, [running], "the address answers again")
        assert second.haproxy is not None
        assert second.haproxy.alive
    finally:
        for balancer in balancers.values():
            balancer.end()
        running.kill()
