"""`script/up` and `script/down`: a cluster to try things out with."""

import argparse
import sys
from pathlib import Path

from perenne.local.cluster import AE_TITLE, LocalCluster, LocalNode
from perenne.local.processes import DidNotStart


def main() -> int:
    """`up [--dir DIR] [--nodes N]` or `down [--dir DIR]`."""
    parser = argparse.ArgumentParser(prog="script/up", description="Start or end a Perenne cluster on this machine.")
    parser.add_argument("what", choices=["up", "down"])
    parser.add_argument("--dir", type=Path, default=Path(".local/cluster"), help="where it lives (%(default)s)")
    parser.add_argument("--nodes", type=int, default=None, help="how many nodes (3, or as many as there were)")
    arguments = parser.parse_args()
    cluster = LocalCluster.load(arguments.dir)
    try:
        if arguments.what == "down":
            ended = cluster.stop(_say)
            cluster.save() if ended else None
            _say(f"ended {ended} processes" if ended else f"nothing of {arguments.dir} was running")
            return 0
        nodes = arguments.nodes or len(cluster.nodes) or 3
        if nodes < 2:
            parser.error("--nodes: two durable copies need at least 2 nodes")
        cluster.start(nodes, _say)
        cluster.save()
        _report(cluster, cluster.wait_ready())
    except DidNotStart as error:
        _say(str(error))
        return 1
    except KeyboardInterrupt:
        _say("interrupted: what was started goes on running; script/down ends it")
        return 130
    return 0


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _report(cluster: LocalCluster, leader: LocalNode) -> None:
    write = sys.stdout.write
    write(f"\nZooKeeper  127.0.0.1:{cluster.zookeeper_port}\n")
    for node in cluster.nodes:
        role = "leader" if node is leader else "follower"
        write(f"{node.id:10} {role:9} DICOM {AE_TITLE}@127.0.0.1:{node.dicom_port}  HTTP 127.0.0.1:{node.http_port}\n")
    follower = next(node for node in cluster.nodes if node is not leader)
    write(
        "\nTry:\n"
        f"  dcmsend -aec {AE_TITLE} 127.0.0.1 {follower.dicom_port} FILE.dcm\n"
        f"  .venv/bin/perenne status --cluster {cluster.directory}/cluster.json\n"
        f"  kill -9 {leader.running.pid if leader.running else 0}    # the leader; then send again\n"
        "\nscript/down ends it.\n"
    )


if __name__ == "__main__":
    sys.exit(main())
