"""A real ZooKeeper server, or an ensemble, from Debian's jar: on loopback, in a directory of its own."""

import shutil
import socket
from pathlib import Path
from typing import Final

from perenne.authority import AUTHORITY, BOTH
from perenne.local.processes import DidNotStart, Running, free_ports, start

JARS: Final = tuple(
    f"/usr/share/java/{name}.jar"
    for name in (
        "zookeeper",
        "slf4j-simple",
        # What Debian's jar does not name, and TLS needs.
        "netty-codec",
        "netty-resolver",
        "netty-transport-native-unix-common",
    )
)


def command(config: Path) -> list[str]:
    """Raises DidNotStart when Java or the jar is missing."""
    java = shutil.which("java")
    if java is None or not Path(JARS[0]).exists():
        raise DidNotStart("ZooKeeper needs openjdk-17-jre-headless and libzookeeper-java: run script/setup")
    return [
        java,
        "-Xmx96m",
        "-XX:+UseSerialGC",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        "-cp",
        ":".join(JARS),
        "org.apache.zookeeper.server.quorum.QuorumPeerMain",
        str(config),
    ]


def configure(
    directory: Path,
    port: int,
    *,
    servers: tuple[str, ...] = (),
    number: int = 0,
    host: str = "127.0.0.1",
    identity: Path | None = None,
) -> Path:
    """Write zoo.cfg; `servers` are the lines `host:peer:election` of an ensemble, `number` is this one's, from 1.

    identity: a directory made by `perenne certs`; then `port` speaks TLS alone, and wants to see certificates.
    """
    data = directory / "data"
    data.mkdir(parents=True, exist_ok=True)
    lines = [
        "tickTime=200",
        "initLimit=50",
        "syncLimit=20",
        "minSessionTimeout=400",
        "maxSessionTimeout=60000",
        f"dataDir={data}",
        f"clientPortAddress={host}",
        f"clientPort={port}",
        "admin.enableServer=false",
        "4lw.commands.whitelist=srvr,ruok",
        "autopurge.purgeInterval=1",
    ]
    if identity is not None:
        lines = [line for line in lines if not line.startswith("clientPort")]
        lines += [
            f"secureClientPort={port}",
            f"secureClientPortAddress={host}",
            "serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory",
            f"ssl.keyStore.location={identity / BOTH}",
            "ssl.keyStore.type=PEM",
            f"ssl.trustStore.location={identity / AUTHORITY}",
            "ssl.trustStore.type=PEM",
            "ssl.clientAuth=need",
        ]
    lines += [f"server.{n}={server}" for n, server in enumerate(servers, 1)]
    if number:
        (data / "myid").write_text(f"{number}\n")
    config = directory / "zoo.cfg"
    config.write_text("\n".join(lines) + "\n")
    return config


def serves(port: int, host: str = "127.0.0.1") -> bool:
    """Whether the server answers, with a quorum behind it."""
    try:
        with socket.create_connection((host, port), timeout=1) as connection:
            connection.sendall(b"srvr")
            answer = b""
            while piece := connection.recv(4096):
                answer += piece
    except OSError:
        return False
    return b"Mode:" in answer


def start_server(directory: Path, port: int) -> Running:
    """Start a single server; wait for it with `serves`."""
    return start(command(configure(directory, port)), directory / "zookeeper.log", directory)


def start_ensemble(directory: Path, size: int = 3) -> tuple[list[Running], list[int]]:
    """Start `size` servers that know each other; return them and their client ports."""
    ports = free_ports(size * 3)
    clients = ports[:size]
    servers = tuple(f"127.0.0.1:{ports[size + n]}:{ports[2 * size + n]}" for n in range(size))
    running: list[Running] = []
    for number, port in enumerate(clients, 1):
        own = directory / f"server-{number}"
        config = configure(own, port, servers=servers, number=number)
        running.append(start(command(config), own / "zookeeper.log", own))
    return running, clients
