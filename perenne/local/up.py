"""`script/up` and `script/down`: a cluster to try things out with."""

import argparse
import fcntl
import shlex
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from perenne.local.cluster import AE_TITLE, FILE, LocalCluster, LocalNode, NotACluster
from perenne.local.processes import DidNotStart, taken

DEFAULT: Final = Path(__file__).resolve().parent.parent.parent / ".local" / "cluster"


class Busy(Exception):
    """Another script/up or script/down works on the same directory, or a port is another's; the text says it."""


@contextmanager
def locked(directory: Path) -> Generator[None]:
    """Hold the directory: two that start nodes at once would start each twice. Raises Busy, OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "up.lock").open("w") as file:  # closed in children: the cluster does not hold it
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            text = f"another script/up or script/down is at work in {directory}: wait until it has ended"
            raise Busy(text) from error
        yield


def main(words: Sequence[str] | None = None) -> int:
    """`up [--dir DIR] [--nodes N] [--tier DIRECTORY] [--watch]` or `down [--dir DIR]`."""
    parser = argparse.ArgumentParser(prog="script/up", description="Start or end a Perenne cluster on this machine.")
    parser.add_argument("what", choices=["up", "down"])
    parser.add_argument("--dir", type=Path, default=DEFAULT, help="where it lives (%(default)s)")
    parser.add_argument("--nodes", type=int, default=None, help="how many nodes (3, or as many as there were)")
    parser.add_argument("--tier", type=Path, default=None, help="a directory that holds everything once more")
    parser.add_argument("--watch", action="store_true", help="start Prometheus with the alert rules as well")
    arguments = parser.parse_args(words)
    directory: Path = arguments.dir.resolve()
    if arguments.nodes is not None and arguments.nodes < 2:
        parser.error("--nodes: two durable copies need at least 2 nodes")
    try:
        if arguments.what == "down" and not (directory / FILE).exists():
            return _nothing_to_end(directory, DEFAULT)
        with locked(directory):
            if arguments.what == "down":
                return _down(directory)
            return _up(directory, arguments.nodes, arguments.tier, watch=arguments.watch)
    except (DidNotStart, Busy, NotACluster) as error:
        _say(str(error))
        return 1
    except OSError as error:
        _say(
            f"{error.filename or directory} cannot be used: {error.strerror}: give --dir a directory that you may write"
            " to, on a disk with room, or one that can be made"
        )
        return 1
    except KeyboardInterrupt:
        _say(f"interrupted: what was started goes on running; {_down_command(directory, DEFAULT)} ends it")
        return 130


def _nothing_to_end(directory: Path, default: Path) -> int:
    """Where script/up was never told to begin, nothing is to be ended; another name is mistyped."""
    if directory == default:
        _say(f"nothing of {directory} was running")
        return 0
    _say(f"there is no cluster in {directory} ({FILE} is missing), and nothing was ended: give the --dir of script/up")
    return 1


def _down(directory: Path) -> int:
    cluster = LocalCluster.load(directory)
    ended = cluster.stop(_say)
    if ended:
        cluster.save()
    _say(f"ended {ended} processes of {directory}" if ended else f"nothing of {directory} was running")
    return 0


def _up(directory: Path, nodes: int | None, tier: Path | None, *, watch: bool) -> int:
    cluster = LocalCluster.load(directory)
    has = len(cluster.nodes)
    if nodes is not None and nodes < has:
        _say(
            f"the cluster in {directory} has {has} nodes, and none is taken away from it: leave out --nodes, or give"
            f" another --dir for a cluster of {nodes}. To be without a node for a while, end its process."
        )
        return 2
    _ports_are_free(cluster)
    if tier is not None:
        cluster.use_tier(tier.resolve())
    cluster.start(nodes or has or 3, _say)
    cluster.save()
    if watch or cluster.prometheus is not None:
        cluster.watch(_say)
    report(cluster, cluster.wait_ready())
    return 0


def _ports_are_free(cluster: LocalCluster) -> None:
    """What runs not yet finds its port as it was given. Raises Busy."""
    wanted: list[tuple[str, int]] = []
    if cluster.zookeeper is None or not cluster.zookeeper.alive:
        wanted.append(("ZooKeeper", cluster.zookeeper_port))
    for node in cluster.nodes:
        if not node.alive:
            ports = (("DICOM", node.dicom_port), ("HTTP", node.http_port), ("peer", node.peer_port))
            wanted += [(f"{node.id} ({name})", port) for name, port in ports]
    busy = [(who, port) for who, port in wanted if port and taken(port)]
    if busy:
        taken_by = ", ".join(f"{port} of {who}" for who, port in busy)
        raise Busy(
            f"another process has port {taken_by}: end it (`ss -ltnp 'sport = :{busy[0][1]}'` names it), or write"
            f" another port into {cluster.directory / FILE}; nothing was started"
        )


def _down_command(directory: Path, default: Path) -> str:
    return "script/down" if directory == default else f"script/down --dir {shlex.quote(str(directory))}"


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def report(cluster: LocalCluster, leader: LocalNode, *, default: Path = DEFAULT) -> None:
    """Say where everything is, what to try, and what ends it."""
    write = sys.stdout.write
    write(f"\nZooKeeper  127.0.0.1:{cluster.zookeeper_port}\n")
    for node in cluster.nodes:
        role = "leader" if node is leader else "follower"
        write(f"{node.id:10} {role:9} DICOM {AE_TITLE}@127.0.0.1:{node.dicom_port}  HTTP 127.0.0.1:{node.http_port}\n")
    if cluster.tier is not None:
        write(f"tier       {cluster.tier}\n")
    if cluster.prometheus is not None:
        write(f"Prometheus {cluster.prometheus.url}/alerts  (Grafana: monitoring/dashboards/perenne.json)\n")
    follower = next(node for node in cluster.nodes if node is not leader)
    write(
        "\nTry:\n"
        f"  dcmsend -aec {AE_TITLE} 127.0.0.1 {follower.dicom_port} FILE.dcm\n"
        f"  curl -o BACK.dcm http://127.0.0.1:{follower.http_port}/instances/SOP_INSTANCE_UID\n"
        f"  .venv/bin/perenne status --cluster {cluster.directory}/cluster.json\n"
        f"  kill -9 {leader.running.pid if leader.running else 0}    # the leader; then send again\n"
        f"\n{_down_command(cluster.directory, default)} ends it.\n"
    )


if __name__ == "__main__":
    sys.exit(main())
