"""Goal: one node with a bucket keeps what it acknowledged whatever becomes of its disk, and never shares the bucket.

Method: a node without ZooKeeper, a real SeaweedFS or a directory, kill -9, disks wiped, cloned and put back.
"""

import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from perenne.config import TierConfig
from perenne.config_tier import blocking_store
from perenne.local.cluster import LocalNode
from perenne.local.processes import free_ports, start, wait_until
from perenne.local.seaweedfs import ACCESS_KEY, SECRET_KEY, Store, start_store
from tests.integration import rig
from tests.integration.rig import made, signalled, store
from tests.moving.console import perenne

Image = tuple[str, bytes]


@dataclass
class Place:
    """A tier: its section, and how it goes away and comes back."""

    section: str
    server: Store | None
    mount: Path | None

    def away(self, gone: bool) -> None:
        if self.server is not None:
            self.server.running.signal(signal.SIGSTOP if gone else signal.SIGCONT)
        if self.mount is not None:
            mark, hidden = self.mount / ".perenne-tier", self.mount / ".hidden"
            (mark if gone else hidden).rename(hidden if gone else mark)


@pytest.fixture(params=["s3", "directory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    more = "attempt_timeout_ms = 500\ngive_up_ms = 1000\n"
    if request.param == "directory":
        mount = tmp_path / "san"
        mount.mkdir()
        blocking_store(TierConfig(kind="directory", directory=mount), {}).prepare()
        yield Place(f'[tier]\nkind = "directory"\ndirectory = "{mount}"\n{more}', None, mount)
        return
    server = start_store(tmp_path / "seaweedfs")
    try:
        credentials = tmp_path / "credentials"
        keys = f"aws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
        credentials.write_text(f"[default]\n{keys}")
        settings = TierConfig(endpoint=server.endpoint, bucket="perenne", credentials_file=credentials)
        blocking_store(settings, {}).prepare()
        where = f'endpoint = "{server.endpoint}"\nbucket = "perenne"\ncredentials_file = "{credentials}"\n'
        yield Place(f"[tier]\n{where}{more}", server, None)
    finally:
        server.kill()


@dataclass
class Machine:
    """A machine with one standalone node, which is started and killed."""

    node: LocalNode

    @classmethod
    def made(cls, directory: Path, place: Place, *, mode: str = "synchronous", solo: bool = False) -> "Machine":
        directory.mkdir()
        node = LocalNode("solo", directory, *free_ports(3))
        node.config.write_text(
            f'[node]\nid = "solo"\ndata_dir = "{node.data_dir}"\n'
            f"[peer]\nport = {node.peer_port}\n[dimse]\nport = {node.dicom_port}\n[http]\nport = {node.http_port}\n"
            f'{place.section}mode = "{mode}"\n[storage]\nreserve_bytes = 1048576\nspare_segments = 1\n'
            f"[cluster]\nsegment_bytes = 4194304\nacknowledge_timeout_ms = 3000\nallow_solo = {str(solo).lower()}\n"
        )
        return cls(node)

    def start(self) -> None:
        command = [sys.executable, "-m", "perenne.cli", "node", "--config", str(self.node.config)]
        self.node.running = start(command, self.node.directory / "node.log", self.node.directory)

    def ready(self) -> None:
        self.start()
        wait_until(self.node.ready, [signalled(self.node.running)], "the node takes stores")

    def kill(self) -> None:
        signalled(self.node.running).kill()

    def ended(self) -> str:
        """Wait until the process has ended by itself; return what it logged last."""
        running = signalled(self.node.running)

        def gone() -> bool:
            running.reap()
            return not running.alive

        wait_until(gone, [], "the node ends")
        return running.tail(30)

    def keeps(self, *images: Image) -> None:
        for uid, data in images:
            code, content = self.node.get(f"/instances/{uid}", timeout=15)
            assert code == 200 and content.endswith(data), (uid, code)

    def stores(self, *images: Image) -> None:
        assert [answer for answer, _ in store(self.node, *images)] == [0] * len(images)


def images(first: int, count: int) -> list[Image]:
    return [made(number, filler=bytes([number % 251]) * 20_000) for number in range(first, first + count)]


def test_what_was_acknowledged_outlives_the_process_and_the_disk(tmp_path: Path, place: Place) -> None:
    machine = Machine.made(tmp_path / "m", place)
    node = machine.node
    first, second, third = images(0, 20), images(100, 10), images(200, 5)
    try:
        machine.ready()
        machine.stores(*first)
        assert set(node.status()["in_sync"]) == {"solo", "tier"}

        machine.kill()
        machine.ready()
        machine.keeps(*first)
        machine.stores(*second)

        place.away(True)
        wait_until(lambda: not node.ready(), [signalled(node.running)], "it takes no stores")
        answers = store(node, third[0])
        assert answers[0][0] == 0xA700, answers
        machine.keeps(first[0])
        place.away(False)
        wait_until(node.ready, [signalled(node.running)], "the bucket is back")
        machine.stores(*third)
        machine.kill()

        shutil.move(node.data_dir, tmp_path / "lost")
        machine.start()
        said = machine.ended()
        assert "perenne restore --config FILE --cluster" in said and "a new log is not begun over it" in said
        assert not (node.data_dir / "node.json").exists()
        restored = perenne("restore", "--config", str(node.config), "--cluster")
        assert restored.exit_code == 0, restored.output
        machine.ready()
        machine.keeps(*first, *second, *third)
        machine.stores(*images(300, 3))
    finally:
        machine.kill()
