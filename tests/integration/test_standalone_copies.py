"""Goal: no old copy of a standalone node's disk, wherever it runs, takes from the tier what another one acknowledged.

Method: a node without ZooKeeper, a directory as tier that one of two machines does not see for a while, kill -9.
"""

import shutil
import signal
from pathlib import Path

from perenne.config import TierConfig
from perenne.config_tier import blocking_store
from perenne.local.processes import free_ports, wait_until
from perenne.local.zookeeper import serves, start_server
from tests.integration.rig import signalled
from tests.integration.test_standalone_tier import Machine, Place, images
from tests.moving.console import perenne


def test_a_copy_that_begins_without_the_tier_puts_nothing_over_what_another_acknowledges(tmp_path: Path) -> None:
    """Restored twice; the one that was left behind boots before its mount is there, time and again, until its epoch is
    above that of the other one. The other one's disk is lost then.
    """
    san, late_mount = tmp_path / "san", tmp_path / "late"
    san.mkdir()
    blocking_store(TierConfig(kind="directory", directory=san), {}).prepare()
    places = [Place(f'[tier]\nkind = "directory"\ndirectory = "{path}"\n', None, path) for path in (san, late_mount)]
    machine, left = (Machine.made(tmp_path / name, at) for name, at in zip(("m", "left"), places, strict=True))
    node = machine.node
    early, late = images(0, 2), images(100, 3)
    late_mount.symlink_to(san)
    try:
        machine.ready()
        machine.stores(*early)
        machine.kill()
        shutil.rmtree(node.data_dir)
        for one in (left, machine):
            assert perenne("restore", "--config", str(one.node.config), "--cluster").exit_code == 0
        machine.ready()
        machine.stores(*late)
        epoch = node.status()["epoch"]
        late_mount.unlink()
        while True:
            left.start()
            wait_until(lambda: leads(left), [signalled(left.node.running)], "it leads, alone and in vain")
            if left.node.status()["epoch"] > epoch:
                break
            left.kill()
        late_mount.symlink_to(san)
        assert "another standalone node has taken the tier over" in left.ended()
        machine.kill()
        shutil.rmtree(node.data_dir)
        restored = perenne("restore", "--config", str(node.config), "--cluster")
        assert restored.exit_code == 0, restored.output
        machine.ready()
        machine.keeps(*early, *late)
    finally:
        machine.kill()
        left.kill()


def leads(machine: Machine) -> bool:
    return machine.node.get("/livez")[0] == 200 and machine.node.status()["leader"] == "solo"


def test_a_disk_of_a_time_without_the_tier_is_not_led_by(tmp_path: Path) -> None:
    """One copy was allowed while the tier was away; what two replicas hold is not given up for such a disk."""
    san = tmp_path / "san"
    san.mkdir()
    blocking_store(TierConfig(kind="directory", directory=san), {}).prepare()
    place = Place(
        f'[tier]\nkind = "directory"\ndirectory = "{san}"\nattempt_timeout_ms = 1000\ngive_up_ms = 2000\n', None, san
    )
    machine = Machine.made(tmp_path / "m", place, solo=True)
    node = machine.node
    early, alone, late = images(0, 2), images(50, 2), images(100, 3)
    both = {"solo", "tier"}
    try:
        machine.ready()
        machine.stores(*early)
        wait_until(lambda: set(node.status()["in_sync"]) == both, [signalled(node.running)], "the tier is in")
        place.away(True)
        wait_until(lambda: node.status()["in_sync"] == ["solo"], [signalled(node.running)], "it is alone")
        machine.stores(*alone)
        running = signalled(node.running)
        running.signal(signal.SIGSTOP)
        shutil.copytree(node.data_dir, tmp_path / "snapshot")
        running.signal(signal.SIGCONT)
        place.away(False)
        wait_until(lambda: set(node.status()["in_sync"]) == both, [signalled(node.running)], "the tier is back")
        machine.stores(*late)
        wait_until(lambda: node.status()["tier"]["behind"] == 0, [signalled(node.running)], "it has everything")
        machine.kill()
        shutil.rmtree(node.data_dir)
        shutil.move(tmp_path / "snapshot", node.data_dir)
        machine.start()
        said = machine.ended()
        assert "this disk was put back from a copy" in said and "perenne restore --config FILE --cluster" in said
        shutil.rmtree(node.data_dir)
        assert perenne("restore", "--config", str(node.config), "--cluster").exit_code == 0
        machine.ready()
        machine.keeps(*early, *alone, *late)
    finally:
        machine.kill()


def test_a_node_whose_archive_became_a_clusters_acknowledges_nothing_more(tmp_path: Path) -> None:
    """Restored with ZooKeeper, by somebody who thought that it did not run."""
    san = tmp_path / "san"
    san.mkdir()
    blocking_store(TierConfig(kind="directory", directory=san), {}).prepare()
    place = Place(f'[tier]\nkind = "directory"\ndirectory = "{san}"\n', None, san)
    old, new = Machine.made(tmp_path / "old", place), Machine.made(tmp_path / "new", place)
    early, late = images(0, 3), images(100, 2)
    (port,) = free_ports(1)
    zookeeper = start_server(tmp_path / "zookeeper", port)
    with new.node.config.open("a") as file:
        file.write(f'[coordination]\nzookeeper = "127.0.0.1:{port}"\n')
    try:
        wait_until(lambda: serves(port), [zookeeper], "ZooKeeper serves")
        old.ready()
        old.stores(*early)
        restored = perenne("restore", "--config", str(new.node.config), "--cluster")
        assert restored.exit_code == 0 and "no standalone node has used" not in restored.output, restored.output
        assert "another standalone node has taken the tier over" in old.ended()
        new.ready()
        new.stores(*late)
        new.keeps(*early, *late)
    finally:
        old.kill()
        new.kill()
        zookeeper.kill()


def test_a_node_says_why_it_does_not_get_the_tier(tmp_path: Path) -> None:
    """The bucket of another archive is named: an operator who reads "no leader is known" alone would look for one."""
    sections: list[str] = []
    for name in ("own", "another"):
        (tmp_path / name).mkdir()
        blocking_store(TierConfig(kind="directory", directory=tmp_path / name), {}).prepare()
        sections.append(f'[tier]\nkind = "directory"\ndirectory = "{tmp_path / name}"\n')
    machine, other = (
        Machine.made(tmp_path / name, Place(section, None, None))
        for name, section in zip(("m", "other"), sections, strict=True)
    )
    node = machine.node
    try:
        for one in (machine, other):
            one.ready()
            one.kill()
        node.config.write_text(node.config.read_text().replace(sections[0], sections[1]))
        machine.start()
        wait_until(
            lambda: node.get("/livez")[0] == 200 and "belongs to cluster" in str(node.status()["reasons"]),
            [signalled(node.running)],
            "it says whose tier it is",
        )
    finally:
        machine.kill()
        other.kill()
