"""Locked inner doors on real processes: every link in TLS, ZooKeeper with an owner, HTTP with a token."""

import json
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import NoAuthError

from perenne.authority import AUTHORITY, CERTIFICATE, KEY, authority_in
from perenne.local import zookeeper
from perenne.local.cluster import LocalCluster
from perenne.local.processes import free_ports, start, wait_until
from tests.integration import rig

TOKEN = "a-token-that-nobody-guesses"
OWNER = "perenne:a-password-that-nobody-guesses"


class SecureCluster:
    """Three nodes that speak nothing but TLS, with certificates made by `perenne certs`."""

    def __init__(self, directory: Path) -> None:
        self.authority = directory / "ca"
        made = rig.perenne("certs", str(self.authority), "n1=127.0.0.1", "n2", "n3", "zk", "modality")
        assert made.returncode == 0, made.stderr
        self.token, self.owner = directory / "token", directory / "owner"
        self.token.write_text(TOKEN + "\n")
        self.owner.write_text(OWNER + "\n")
        self.trust = ssl.create_default_context(cafile=str(self.authority / AUTHORITY))
        self.cluster = LocalCluster(directory / "cluster")
        self.cluster.session_timeout_ms = 2000
        self.cluster.extra = rig.SMALL
        self.tls_ports: dict[str, int] = {}

    def start(self) -> None:
        cluster = self.cluster
        keeper = cluster.directory / "zookeeper"
        cluster.zookeeper_port = free_ports(1)[0]
        config = zookeeper.configure(keeper, cluster.zookeeper_port, identity=self.authority / "zk")
        cluster.zookeeper = start(zookeeper.command(config), keeper / "zookeeper.log", keeper)
        cluster.plan(3)
        for node, port in zip(cluster.nodes, free_ports(3), strict=True):
            self.tls_ports[node.id] = port
            own = self.authority / node.id
            facts = {
                "TLS__AUTHORITY_FILE": own / AUTHORITY,
                "TLS__CERTIFICATE_FILE": own / CERTIFICATE,
                "TLS__KEY_FILE": own / KEY,
                "COORDINATION__TLS": "true",
                "COORDINATION__CREDENTIALS_FILE": self.owner,
                "HTTP__TLS": "true",
                "HTTP__TOKEN_FILE": self.token,
                "DIMSE__TLS": "only",
                "DIMSE__TLS_PORT": port,
                "DIMSE__TLS_CLIENTS": "known",
            }
            node.wrapper = ("env", *(f"PERENNE_{key}={value}" for key, value in facts.items()))
            node.scheme, node.opener = "https", self.opener(TOKEN)
            cluster.start_node(node)
        cluster.wait_ready()
        everybody = {node.id for node in cluster.nodes}
        cluster.wait_for(lambda: rig.in_sync(cluster) == everybody, "all nodes are in sync")

    def opener(self, token: str | None) -> urllib.request.OpenerDirector:
        handler = urllib.request.HTTPSHandler(context=self.trust)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), handler)
        if token is not None:
            opener.addheaders = [("Authorization", f"Bearer {token}")]
        return opener

    def storescu(self, node_id: str, file: Path, name: str | None) -> subprocess.CompletedProcess[str]:
        """DCMTK's sender in TLS; `name`: whose certificate it shows."""
        own = self.authority / (name or "")
        shown = ["+tls", str(own / KEY), str(own / CERTIFICATE)] if name is not None else ["+tla"]
        trusted = ["+cf", str(self.authority / AUTHORITY)]
        port = str(self.tls_ports[node_id])
        return subprocess.run(
            ["storescu", *shown, *trusted, "-to", "10", "-aec", "PERENNE", "127.0.0.1", port, str(file)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Generator[SecureCluster]:
    found = SecureCluster(tmp_path_factory.mktemp("secure"))
    try:
        found.start()
        yield found
    finally:
        found.cluster.kill()


@pytest.mark.needs("storescu")
def test_a_known_modality_stores_and_every_node_has_it(secure: SecureCluster, tmp_path: Path) -> None:
    rig.slices(tmp_path, 1, 77_000)
    (file,) = tmp_path.glob("*.dcm")
    follower = rig.follower(secure.cluster)
    sent = secure.storescu(follower.id, file, "modality")
    assert sent.returncode == 0, sent.stderr
    secure.cluster.wait_for(
        lambda: all(rig.instances(node) >= 1 for node in secure.cluster.nodes), "every node has indexed it"
    )


@pytest.mark.needs("storescu")
def test_an_unknown_modality_stores_nothing(secure: SecureCluster, tmp_path: Path) -> None:
    rig.slices(tmp_path, 1, 78_000)
    (file,) = tmp_path.glob("*.dcm")
    assert secure.storescu("n1", file, None).returncode != 0
    stranger = authority_in(tmp_path / "other").issue("modality", (), 5)
    (secure.authority / "stranger").mkdir(exist_ok=True)
    for name in (KEY, CERTIFICATE):
        (secure.authority / "stranger" / name).write_bytes((stranger / name).read_bytes())
    assert secure.storescu("n1", file, "stranger").returncode != 0


def test_the_token_opens_all_but_the_probes(secure: SecureCluster) -> None:
    node = secure.cluster.nodes[0]
    for token in (None, "wrong", TOKEN[:-1]):
        node.opener = secure.opener(token)
        assert node.get("/readyz")[0] == 200
        assert node.get("/metrics")[0] == 200
        assert node.get("/status")[0] == 401
        assert node.get("/instances/1.2.3")[0] == 401
    node.opener = secure.opener(TOKEN)
    assert node.get("/instances/1.2.3")[0] == 404
    plain = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with pytest.raises((OSError, urllib.error.URLError)):
        plain.open(f"http://127.0.0.1:{node.http_port}/readyz", timeout=3)


def test_strangers_at_the_peer_port_get_nothing_and_are_counted(secure: SecureCluster) -> None:
    node = secure.cluster.nodes[0]

    def strangers() -> float:
        lines = node.get("/metrics")[1].decode().splitlines()
        return float(next(line for line in lines if line.startswith("perenne_peer_strangers_total")).split()[1])

    before = strangers()
    with socket.create_connection(("127.0.0.1", node.peer_port), timeout=10) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert len(connection.recv(4096)) <= 7, "an alert of TLS at most"
    secure.cluster.wait_for(lambda: strangers() > before, "the stranger is counted")


def test_what_is_in_zookeeper_belongs_to_the_cluster(secure: SecureCluster) -> None:
    own = secure.authority / "n1"

    def client(credentials: str | None) -> Any:  # kazoo has no types
        return KazooClient(
            hosts=f"127.0.0.1:{secure.cluster.zookeeper_port}",
            use_ssl=True,
            ca=str(own / AUTHORITY),
            certfile=str(own / CERTIFICATE),
            keyfile=str(own / KEY),
            auth_data=[("digest", credentials)] if credentials is not None else [],
        )

    for credentials in (None, "perenne:wrong"):
        stranger = client(credentials)
        stranger.start(timeout=15)
        with pytest.raises(NoAuthError):
            stranger.get("/perenne/state")
        with pytest.raises(NoAuthError):
            stranger.delete("/perenne/nodes/n1")
        stranger.stop()
        stranger.close()
    owner = client(OWNER)
    owner.start(timeout=15)
    assert json.loads(owner.get("/perenne/state")[0])
    owner.stop()
    owner.close()


def test_no_secret_in_logs_status_or_command_lines(secure: SecureCluster) -> None:
    for node in secure.cluster.nodes:
        assert node.running is not None
        said = node.running.log.read_text() + json.dumps(node.status())
        said += Path(f"/proc/{node.running.pid}/cmdline").read_text()
        assert TOKEN not in said
        assert OWNER.partition(":")[2] not in said
        assert "PRIVATE KEY" not in said


def test_a_switchover_is_asked_for_with_the_nodes_own_configuration(secure: SecureCluster, tmp_path: Path) -> None:
    target = rig.follower(secure.cluster)
    command = [*target.wrapper, *rig.PERENNE, "switchover", "--config", str(target.config), "--to", target.id]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert target.running is not None
    wait_until(target.leads, [target.running], "the target leads")


def test_the_verbs_of_membership_and_rescue_get_through_with_the_nodes_own_configuration(secure: SecureCluster) -> None:
    node = secure.cluster.nodes[0]
    other = rig.follower(secure.cluster)

    def asked(*words: str) -> dict[str, Any]:
        command = [*node.wrapper, *rig.PERENNE, *words, "--config", str(node.config), "--json", "--dry-run"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    assert asked("node", "retire", other.id)["retires"]["node"] == other.id
    surveyed = asked("coordination", "rebuild")
    assert len(surveyed["nodes"]) == 3
    assert "nothing is lost" in surveyed["reasons"][0]


def test_a_restore_asks_the_locked_zookeeper_with_the_nodes_own_configuration(
    secure: SecureCluster, tmp_path: Path
) -> None:
    node, san = secure.cluster.nodes[0], tmp_path / "san"
    san.mkdir()
    assert rig.perenne("tier", "prepare", "--directory", str(san)).returncode == 0
    tier = (f"PERENNE_TIER__DIRECTORY={san}", "PERENNE_TIER__KIND=directory", f"PERENNE_NODE__DATA_DIR={tmp_path}/data")
    for whole, why in ((["--cluster"], "nodes of this cluster run: n1, n2, n3"), ([], "")):
        words = ("restore", *whole, "--config", str(node.config), "--json", "--dry-run")
        command = [*node.wrapper, *tier, *rig.PERENNE, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert json.loads(done.stdout)["refused"].partition(". ")[0] == why, done.stdout + done.stderr


def test_status_is_shown_to_whoever_has_a_nodes_configuration(secure: SecureCluster) -> None:
    node = secure.cluster.nodes[0]
    command = [*node.wrapper, *rig.PERENNE, "status", "--json", "--config", str(node.config)]
    shown = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert [found["node"] for found in json.loads(shown.stdout)["nodes"]] == [node.id]
    refused = rig.perenne("status", f"https://127.0.0.1:{node.http_port}")
    assert refused.returncode == 2
    assert "certificate" in refused.stdout


def test_a_certificate_is_exchanged_without_a_restart(secure: SecureCluster) -> None:
    node = secure.cluster.nodes[1]

    def expiry() -> float:
        lines = node.get("/metrics")[1].decode().splitlines()
        name = 'perenne_tls_certificate_expiry_timestamp_seconds{listener="peer"}'
        return float(next(line for line in lines if line.startswith(name)).split()[1])

    def shown() -> bytes:
        with (
            socket.create_connection(("127.0.0.1", node.http_port), timeout=10) as connection,
            secure.trust.wrap_socket(connection, server_hostname="127.0.0.1") as secured,
        ):
            return secured.getpeercert(binary_form=True) or b""

    before, certificate = expiry(), shown()
    made = rig.perenne("certs", str(secure.authority), "n2", "--days", "1000")
    assert made.returncode == 0, made.stderr
    secure.cluster.wait_for(lambda: expiry() > before and shown() != certificate, "the new certificate is shown")
    assert node.running is not None
    assert node.running.alive


def test_a_token_is_exchanged_without_a_restart(secure: SecureCluster) -> None:
    node = secure.cluster.nodes[2]
    new = "another-token-that-nobody-guesses"
    kept = node.opener
    try:
        secure.token.write_text(f"{new}\n")
        node.opener = secure.opener(new)
        secure.cluster.wait_for(lambda: node.get("/status")[0] == 200, "the new token opens the door")
        node.opener = kept
        assert node.get("/status")[0] == 401, "and the old one does not"
    finally:
        secure.token.write_text(f"{TOKEN}\n")
    secure.cluster.wait_for(lambda: node.get("/status")[0] == 200, "the first one is back")
