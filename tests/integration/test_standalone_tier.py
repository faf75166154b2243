"""Goal: one node with a bucket keeps what it acknowledged whatever becomes of its disk, and never shares the bucket.

Method: a node without ZooKeeper, a real SeaweedFS or a directory, kill -9, disks wiped, cloned and put back.
"""

import json
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from perenne.config import TierConfig
from perenne.config_tier import blocking_store
from perenne.local.cluster import LocalNode
from perenne.local.processes import free_ports, start, wait_until
from perenne.local.seaweedfs import ACCESS_KEY, SECRET_KEY, Store, start_store
from tests.integration.rig import made, signalled, standalone, store
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
    more = "attempt_timeout_ms = 1000\ngive_up_ms = 2000\n"
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
        dicom, http, peer = free_ports(3)
        node = LocalNode("solo", directory, dicom, http, peer)
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
        """503 is "ask again": a node that has just started may take stores before it knows what is committed."""
        for uid, data in images:

            def answered(uid: str = uid, data: bytes = data) -> bool:
                code, content = self.node.get(f"/instances/{uid}", timeout=15)
                assert code == 503 or (code == 200 and content.endswith(data)), (uid, code)
                return code == 200

            wait_until(answered, [], f"{uid} is served")

    def stores(self, *images: Image) -> None:
        assert [answer for answer, _ in store(self.node, *images)] == [0] * len(images)


def standing(node: LocalNode) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(node.get("/standing")[1])
    return facts


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


def test_a_directory_on_the_command_line_is_enough_for_two_copies(tmp_path: Path) -> None:
    mount = tmp_path / "san"
    mount.mkdir()
    assert perenne("tier", "prepare", "--directory", str(mount)).exit_code == 0
    with standalone(tmp_path / "n", "[storage]\nreserve_bytes = 1048576\n", "--tier", str(mount)) as node:
        wait_until(node.ready, [signalled(node.running)], "the node takes stores")
        assert [status for status, _ in store(node, *images(0, 2))] == [0, 0]
        assert set(node.status()["in_sync"]) == {"solo", "tier"}
    assert perenne("tier", "prepare").exit_code == 2


def test_a_clone_takes_over_and_the_first_acknowledges_nothing_more(tmp_path: Path, place: Place) -> None:
    """Also what the first acknowledged after it was cloned is on the clone: it comes from the bucket."""
    first, clone = Machine.made(tmp_path / "first", place), Machine.made(tmp_path / "clone", place)
    early, late, after = images(0, 5), images(100, 5), images(200, 2)
    try:
        first.ready()
        first.stores(*early)
        running = signalled(first.node.running)
        running.signal(signal.SIGSTOP)
        shutil.copytree(first.node.data_dir, clone.node.data_dir)
        running.signal(signal.SIGCONT)
        first.stores(*late)

        clone.ready()
        clone.keeps(*early, *late)
        assert "another standalone node has taken the tier over" in first.ended()
        clone.stores(*after)
        first.start()
        assert "another standalone node has taken the tier over" in first.ended(), "it does not come back either"
        clone.keeps(*early, *late, *after)
        assert clone.node.ready()
    finally:
        first.kill()
        clone.kill()


def test_a_disk_that_was_put_back_is_filled_from_the_bucket(tmp_path: Path, place: Place) -> None:
    machine = Machine.made(tmp_path / "m", place)
    node = machine.node
    early, late = images(0, 5), images(100, 20)
    try:
        machine.ready()
        machine.stores(*early)
        running = signalled(node.running)
        running.signal(signal.SIGSTOP)
        shutil.copytree(node.data_dir, tmp_path / "snapshot")
        running.signal(signal.SIGCONT)
        machine.stores(*late)
        machine.kill()
        shutil.rmtree(node.data_dir)
        shutil.move(tmp_path / "snapshot", node.data_dir)
        machine.ready()
        machine.keeps(*early, *late)

        running = signalled(node.running)
        running.signal(signal.SIGSTOP)
        shutil.copytree(node.data_dir, tmp_path / "older")
        running.signal(signal.SIGCONT)
        machine.kill()
        machine.ready()
        machine.kill()
        shutil.rmtree(node.data_dir)
        shutil.move(tmp_path / "older", node.data_dir)
        machine.start()
        said = machine.ended()
        assert "put back from a copy" in said and "perenne restore --config FILE --cluster" in said
    finally:
        machine.kill()


def test_of_two_new_nodes_on_one_bucket_one_begins(tmp_path: Path, place: Place) -> None:
    machines = [Machine.made(tmp_path / name, place) for name in ("one", "two")]
    try:
        for machine in machines:
            machine.start()
        wait_until(
            lambda: any(m.node.ready() for m in machines) or not any(map(alive, machines)), [], "one of them begins"
        )
        winners = [machine for machine in machines if alive(machine) and machine.node.ready()]
        assert len(winners) <= 1
        for machine in machines:
            if machine not in winners:
                said = machine.ended()
                assert "perenne restore" in said or "Give this cluster a bucket" in said, said
        if winners:
            winners[0].stores(*images(0, 3))
    finally:
        for machine in machines:
            machine.kill()


def alive(machine: Machine) -> bool:
    running = signalled(machine.node.running)
    running.reap()
    return running.alive


@pytest.mark.parametrize("mode", ["standby", "synchronous"])
def test_where_one_copy_is_allowed_stores_go_on_without_the_bucket(tmp_path: Path, place: Place, mode: str) -> None:
    machine = Machine.made(tmp_path / "m", place, mode=mode, solo=True)
    node = machine.node
    early, late = images(0, 3), images(100, 3)
    try:
        machine.ready()
        machine.stores(*early)
        wait_until(
            lambda: set(node.status()["in_sync"]) == ({"solo"} if mode == "standby" else {"solo", "tier"}),
            [signalled(node.running)],
            "the set is what the mode says",
        )
        place.away(True)
        wait_until(lambda: node.status()["in_sync"] == ["solo"], [signalled(node.running)], "it is alone")
        machine.stores(*late)
        place.away(False)
        wait_until(lambda: node.status()["tier"]["behind"] == 0, [signalled(node.running)], "the bucket has everything")
        machine.kill()
        shutil.rmtree(node.data_dir)
        assert perenne("restore", "--config", str(node.config), "--cluster").exit_code == 0
        machine.ready()
        machine.keeps(*early, *late)
    finally:
        machine.kill()


def test_a_bucket_that_is_lost_is_given_up_and_another_one_filled(tmp_path: Path, place: Place) -> None:
    """docs/recovery.md: the disk alone is left."""
    machine = Machine.made(tmp_path / "m", place)
    node = machine.node
    kept = images(0, 5)
    whole = node.config.read_text()
    try:
        machine.ready()
        machine.stores(*kept)
        # Without the bucket the node leads nobody, and serves what it knew to be committed when it was killed
        wait_until(lambda: standing(node)["floor"] == standing(node)["end"], [signalled(node.running)], "it is noted")
        machine.kill()
        if place.mount is not None:  # it answers, and is empty
            for entry in place.mount.iterdir():
                if entry.is_dir():
                    shutil.rmtree(entry)
        else:
            place.away(True)
        machine.start()
        wait_until(lambda: node.get("/livez")[0] == 200, [signalled(node.running)], "it answers")
        if place.mount is not None:
            wait_until(
                lambda: "the tier does not give back" in str(node.status()["not_standing"]),
                [signalled(node.running)],
                "it says why it does not lead",
            )
        wait_until(
            lambda: node.get(f"/instances/{kept[0][0]}", timeout=15)[0] == 200,
            [signalled(node.running)],
            "what is stored can be read without the bucket",
        )
        assert not node.ready()
        machine.kill()

        node.config.write_text(
            whole.replace('mode = "synchronous"', 'mode = "off"').replace("allow_solo = false", "allow_solo = true")
        )
        machine.ready()
        machine.keeps(*kept)
        assert node.status()["in_sync"] == ["solo"]
        machine.kill()
        mount = tmp_path / "another"
        mount.mkdir()
        blocking_store(TierConfig(kind="directory", directory=mount), {}).prepare()
        section = f'[tier]\nkind = "directory"\ndirectory = "{mount}"\n'
        node.config.write_text(whole.replace(place.section, section))
        machine.ready()
        machine.stores(*images(100, 2))
        machine.keeps(*kept)
        machine.kill()
        shutil.rmtree(node.data_dir)
        assert perenne("restore", "--config", str(node.config), "--cluster").exit_code == 0
        machine.ready()
        machine.keeps(*kept, *images(100, 2))
    finally:
        machine.kill()
        if place.server is not None:
            place.away(False)
