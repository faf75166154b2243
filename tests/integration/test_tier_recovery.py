"""Goal: the recipes of docs/recovery.md for a tier that lost something, and for the last disk, do what they say.

Method: real nodes, a directory as the tier in which objects are removed and cut, and the commands as they stand there.
"""

import json
import shutil
import subprocess
from pathlib import Path

from perenne.config import TierConfig
from perenne.config_tier import blocking_store
from perenne.local.cluster import LocalCluster, LocalNode
from storage.dataset import read_meta
from storage.digest import part10_meta_length
from tests.integration import rig
from tests.integration.test_eviction import capacity, served
from tests.integration.test_healing import NEVER

COUNT = 200


def ask(cluster: LocalCluster, *command: str) -> subprocess.CompletedProcess[str]:
    return rig.perenne(*command, "--cluster", str(cluster.directory / "cluster.json"))


def reasons(cluster: LocalCluster) -> str:
    """What `perenne status` complains of, but for the room that is never enough here for the node that evicts."""
    done = ask(cluster, "status", "--json")
    said = [why for node in json.loads(done.stdout)["nodes"] for why in node["reasons"]]
    assert done.returncode == (1 if said else 0)
    return " ".join(why for why in said if not why.startswith("too little room"))


def hand_over(cluster: LocalCluster, to: LocalNode) -> None:
    done = ask(cluster, "switchover", "--to", to.id)
    assert done.returncode == 0, done.stderr
    cluster.wait_for(lambda: to.leads() and to.ready(), f"{to.id} leads")


def compare(cluster: LocalCluster, node: LocalNode) -> None:
    """What happens once a day by itself."""
    done = ask(cluster, "scrub", "--light", "--node", node.id)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_the_tier_lost_or_has_of_another_length_is_put_again(tmp_path: Path) -> None:
    """docs/recovery.md: the tier fails or is behind."""
    mount, files = tmp_path / "san", tmp_path / "in"
    mount.mkdir()
    blocking_store(TierConfig(kind="directory", directory=mount), {}).prepare()
    rig.slices(files, COUNT, first=10_000)
    tier = f'[tier]\nkind = "directory"\ndirectory = "{mount}"\n'
    with rig.running_cluster(tmp_path / "cluster", nodes=2, extra=tier + NEVER) as cluster:
        keeps, evicts = rig.leader(cluster), rig.follower(cluster)
        rig.signalled(evicts.running).kill()
        evicts.extra = "evict_below_free_bytes = 1000000000000000\n"  # the section before it is [storage]
        cluster.start_node(evicts)
        cluster.wait_for(lambda: rig.in_sync(cluster) == {keeps.id, evicts.id}, "the follower is back")
        sending = rig.Sending(files, keeps.dicom_port, tmp_path / "report.txt")
        sending.finish()
        assert len(sending.acknowledged()) == COUNT
        cluster.wait_for(lambda: capacity(evicts)["tier_only_segments"] > 0, "the follower evicts")
        cluster.wait_for(lambda: not reasons(cluster), "all is well")

        # Lost, and evicted on the node that leads: it cannot put it again, and says so.
        hand_over(cluster, evicts)
        gone, *_, other = sorted(mount.glob("log/*/*.tar"))
        content = gone.read_bytes()
        gone.unlink()
        compare(cluster, evicts)
        cluster.wait_for(lambda: "cannot put them again" in reasons(cluster), "it says what is lost")
        assert not gone.exists()
        hand_over(cluster, keeps)
        cluster.wait_for(gone.exists, "the node that kept it puts it again")
        assert gone.read_bytes() == content
        cluster.wait_for(lambda: not reasons(cluster), "all is well again")
        assert all(served(evicts, uid) == sent for uid, sent in rig.as_sent(files, tmp_path / "witness").items())

        # Of another length: nothing is put over it before somebody takes it away.
        content = other.read_bytes()
        other.write_bytes(content[:-512])
        compare(cluster, keeps)
        cluster.wait_for(
            lambda: "not as long as the records in it: 1 object of the tier" in reasons(cluster),
            "it says which is not whole",
        )
        assert other.read_bytes() == content[:-512]
        other.rename(tmp_path / "copied-away")
        compare(cluster, keeps)
        cluster.wait_for(other.exists, "it is put again")
        assert other.read_bytes() == content
        cluster.wait_for(lambda: not reasons(cluster), "all is well again")


def test_one_disk_is_left(tmp_path: Path) -> None:
    """docs/recovery.md: everything is gone but one disk."""
    sent = dict(rig.made(number, filler=bytes([number]) * 3000) for number in range(1, 30))
    with rig.running_cluster(tmp_path / "cluster", nodes=2) as cluster:
        assert {status for status, _ in rig.store(rig.leader(cluster), *sent.items())} == {0}
        follower = rig.follower(cluster)
        cluster.wait_for(lambda: rig.instances(follower) == len(sent), "both have indexed them")
        disk = shutil.copytree(follower.data_dir, tmp_path / "disk")
    shutil.rmtree(tmp_path / "cluster")  # the nodes and ZooKeeper with them
    done = rig.perenne("log", "verify", str(disk))
    assert done.returncode == 0, done.stdout + done.stderr
    done = rig.perenne("export", str(tmp_path / "out"), "--from", str(disk), "--all")
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, bytes] = {}
    for path in (tmp_path / "out").rglob("*.dcm"):
        content = path.read_bytes()
        found[read_meta(content).sop_instance_uid] = content[part10_meta_length(content) :]
    assert found == sent
    untarred = tmp_path / "tar"
    untarred.mkdir()
    for segment in sorted((disk / "log").glob("*.tar")):
        subprocess.run(["tar", "xf", str(segment)], cwd=untarred, check=True)
    assert len(list(untarred.rglob("*.dcm"))) == len(sent)
