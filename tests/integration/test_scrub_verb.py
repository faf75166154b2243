"""`perenne scrub`: running nodes read their logs again when asked. Real nodes, which would not by themselves."""

import json
import signal
import subprocess
from pathlib import Path

from perenne.local.processes import wait_until
from tests.integration import rig
from tests.integration.rig import damaged, rot, running_cluster, standalone, store
from tests.integration.test_damage import big, other
from tests.integration.test_healing import NEVER, scrub

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
SLOW = NEVER + "per_second_bytes = 1048576\n"


def large(number: int) -> tuple[str, bytes]:
    """A pass takes twenty seconds for each, at the lowest rate that may be set."""
    return rig.made(number, filler=bytes([number]) * 20_000_000)


def test_a_scrub_that_is_asked_for_finds_what_rotted_and_has_it_mended(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "c", nodes=2, extra=NEVER) as cluster:
        first = rig.leader(cluster)
        second = other(cluster, first)
        sent = [big(number) for number in range(1, 20)]
        assert {status for status, _ in store(first, *sent)} == {0}
        cluster.wait_for(lambda: all(rig.instances(node) == 19 for node in cluster.nodes), "both have indexed them")
        where = ("--cluster", str(cluster.directory / "cluster.json"))
        end = first.status()["positions"]["end"]
        rot(second, sent[2][1])
        done = rig.perenne("scrub", *where, "--light")
        said = "".join(f"{name}: read again up to record {end}; nothing is damaged\n" for name in ("n1", "n2"))
        assert (done.returncode, done.stdout) == (0, said), "payloads are not its concern"
        assert scrub(second)["light_age_seconds"] < scrub(second)["deep_age_seconds"]
        done = rig.perenne("scrub", *where, "--node", second.id, "--json")
        found = json.loads(done.stdout)
        assert set(found) == {second.id} and found[second.id]["found"] == 1
        assert (found[second.id]["running"], found[second.id]["upto"]) == (False, end)
        cluster.wait_for(lambda: scrub(second)["repaired"] == 1 and damaged(second) == 0, "and mended")
        done = rig.perenne("scrub", *where, "--node", "n9")
        assert done.returncode == 2 and "no node n9 is registered: there are" in done.stderr


def test_ctrl_c_ends_the_watching_and_the_same_again_joins_the_pass(tmp_path: Path) -> None:
    """A standalone node is asked through its data directory."""
    with standalone(tmp_path / "n", rig.SOLO + SLOW) as node:
        wait_until(node.ready, [rig.signalled(node.running)], "it takes stores")
        assert {status for status, _ in store(node, *(large(number) for number in range(3)))} == {0}
        asked = (*rig.PERENNE, "scrub", "--config", str(node.config))
        watching = subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_until(lambda: scrub(node)["underway"] == "deep", [rig.signalled(node.running)], "the pass has begun")
        watching.send_signal(signal.SIGINT)
        out, error = watching.communicate(timeout=60)
        assert (watching.returncode, out) == (130, "")
        assert error == "perenne: what was begun goes on in the nodes; type the same again to watch it\n"
        assert scrub(node)["underway"] == "deep"
        done = rig.perenne("scrub", "--config", str(node.config), "--no-wait")
        assert done.returncode == 0 and "solo: a pass is under way" in done.stdout
        log = (node.directory / "node.log").read_text()
        assert log.count("a scrub was asked for") == 1, "joined, not begun again"
        done = rig.perenne("scrub", "--config", str(node.config), "--node", "solo")
        assert done.returncode == 2 and "standalone" in done.stderr
