"""Goal: script/up and script/down do what one expects of them, and say so. Method: the scripts, without a cluster."""

import socket
import subprocess
import threading
from pathlib import Path

import pytest

from perenne.local import up
from perenne.local.cluster import LocalCluster, LocalNode
from perenne.local.processes import DidNotStart, free_ports

ROOT = Path(__file__).parent.parent.parent


def called(*arguments: str) -> int:
    return up.main(list(arguments))


def three(directory: Path) -> LocalCluster:
    cluster = LocalCluster(directory)
    directory.mkdir(parents=True, exist_ok=True)
    cluster.plan(3)
    cluster.save()
    return cluster


def test_a_relative_directory_is_taken_from_where_one_stands(tmp_path: Path) -> None:
    three(tmp_path / "mine")
    script = ROOT / "script" / "down"
    done = subprocess.run([str(script), "--dir", "mine"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert str(tmp_path / "mine") in done.stderr


def test_help_installs_nothing(tmp_path: Path) -> None:
    """A copy of the scripts without a virtual environment still explains itself."""
    scripts = tmp_path / "script"
    scripts.mkdir()
    for name in ("up", "down", "setup"):
        (scripts / name).write_bytes((ROOT / "script" / name).read_bytes())
        (scripts / name).chmod(0o755)
    for name in ("up", "down", "setup"):
        done = subprocess.run([str(scripts / name), "--help"], capture_output=True, text=True, timeout=10, check=False)
        assert done.returncode == 0, done.stderr
        assert "script/" in done.stdout
    assert not (tmp_path / ".venv").exists()


def test_fewer_nodes_than_there_are_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    three(tmp_path)
    assert called("up", "--dir", str(tmp_path), "--nodes", "2") == 2
    said = capsys.readouterr().err
    assert "has 3 nodes" in said
    assert "another --dir" in said


def test_two_at_once_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    three(tmp_path)
    with up.locked(tmp_path):
        assert called("down", "--dir", str(tmp_path)) == 1
    assert "another script/up or script/down" in capsys.readouterr().err
    assert called("down", "--dir", str(tmp_path)) == 0


def unharmed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What is said by a call that does nothing."""
    assert called(*arguments) == 1
    said = capsys.readouterr().err
    assert "Errno" not in said
    return said


def test_a_directory_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")
    for wrong, why in (
        (Path("/proc/x"), "No such file or directory"),
        (tmp_path / "file", "File exists"),
        (tmp_path / "file" / "below", "Not a directory"),
    ):
        said = unharmed(capsys, "up", "--dir", str(wrong))
        assert f"{wrong} cannot be used: {why}: give --dir a directory that you may write to" in said
    said = unharmed(capsys, "up", "--dir", str(tmp_path / "new"), "--tier", str(tmp_path / "file"))
    assert f"the tier {tmp_path / 'file'} cannot be made: File exists: name a directory for --tier" in said


def test_what_is_no_cluster_is_not_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")
    for wrong in (tmp_path, tmp_path / "absent", tmp_path / "file", Path("/proc")):
        said = unharmed(capsys, "down", "--dir", str(wrong))
        assert (
            f"there is no cluster in {wrong} (cluster.json is missing), and nothing was ended: give the --dir" in said
        )
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "not even a lock"


@pytest.mark.parametrize("text", ["not JSON", "[]", "{}", '{"zookeeper": {"address": "x"}}'])
def test_a_cluster_json_of_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    (tmp_path / "cluster.json").write_text(text)
    for what in ("up", "down"):
        said = unharmed(capsys, what, "--dir", str(tmp_path))
        assert f"{tmp_path / 'cluster.json'} is not what script/up writes" in said
        assert "move the file away" in said
    assert (tmp_path / "cluster.json").read_text() == text


def test_ports_that_others_have_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cluster = three(tmp_path)
    cluster.zookeeper_port = free_ports(1)[0]
    cluster.save()
    with (
        socket.create_server(("127.0.0.1", cluster.zookeeper_port)),
        socket.create_server(("127.0.0.1", cluster.nodes[1].http_port)),
    ):
        said = unharmed(capsys, "up", "--dir", str(tmp_path))
    assert f"port {cluster.zookeeper_port} of ZooKeeper, {cluster.nodes[1].http_port} of n2 (HTTP): end it" in said
    assert f"ss -ltnp 'sport = :{cluster.zookeeper_port}'" in said
    assert str(tmp_path / "cluster.json") in said
    assert not (tmp_path / "zookeeper").exists(), "nothing was started"


def test_another_zookeeper_at_the_same_port_is_not_taken_for_ours(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    other = LocalCluster(tmp_path / "other")
    other.zookeeper_port = port
    cluster = three(tmp_path / "mine")
    cluster.zookeeper_port = port
    try:
        other.start_zookeeper()
        with pytest.raises(DidNotStart, match=f"another process has port {port}"):
            cluster.start_zookeeper()
    finally:
        other.kill()
        cluster.kill()


def test_the_report_ends_with_the_command_that_ends_this_cluster(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = three(tmp_path / "here")
    up.report(cluster, cluster.nodes[0])
    said = capsys.readouterr().out
    assert said.rstrip().splitlines()[-1] == f"script/down --dir {tmp_path / 'here'} ends it."
    assert "/instances/" in said
    up.report(cluster, cluster.nodes[0], default=tmp_path / "here")
    assert capsys.readouterr().out.rstrip().splitlines()[-1] == "script/down ends it."


def test_a_node_that_dies_in_the_middle_of_an_answer_has_not_answered(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def die_after_the_head() -> None:
            with listening.accept()[0] as connection:
                connection.recv(65_536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 550\r\n\r\n")

        dying = threading.Thread(target=die_after_the_head)
        dying.start()
        node = LocalNode("n1", tmp_path, 0, listening.getsockname()[1], 0)
        assert node.get("/instances/1.2.3") == (0, b"")
        dying.join()


def test_what_a_person_changed_in_a_node_toml_is_kept_and_said(tmp_path: Path) -> None:
    cluster = three(tmp_path)
    said: list[str] = []

    def started(node: LocalNode) -> str:
        """Start a process that ends at once: there is no ZooKeeper; what counts is the file."""
        node.wrapper = ("true",)
        cluster.start_node(node, said.append)
        return node.config.read_text()

    first, second, _ = cluster.nodes
    assert "stall_timeout_ms" not in started(first)
    cluster.extra = "[peer]\nstall_timeout_ms = 1234\n"
    assert "stall_timeout_ms = 1234" in started(first), "nobody changed it: it is written anew"
    assert said == []
    started(second)
    mine = second.config.read_text().replace("[dimse]", "[dimse]\nmax_associations = 7")
    second.config.write_text(mine)
    assert started(second) == mine
    assert "changed by hand and is kept" in said[0]
    assert str(second.config) in said[0]


def test_a_tier_is_given_when_the_cluster_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cluster = LocalCluster(tmp_path / "new")
    cluster.directory.mkdir()
    cluster.use_tier(tmp_path / "san")
    assert (tmp_path / "san" / ".perenne-tier").exists()
    cluster.plan(2)
    cluster.save()
    again = LocalCluster.load(tmp_path / "new")
    assert f'[tier]\nkind = "directory"\ndirectory = "{tmp_path}/san"' in again.configuration(again.nodes[0])
    assert called("up", "--dir", str(tmp_path / "new"), "--tier", str(tmp_path / "other")) == 1
    assert f"is {tmp_path}/san" in capsys.readouterr().err
    three(tmp_path / "old")
    assert called("up", "--dir", str(tmp_path / "old"), "--tier", str(tmp_path / "san")) == 1
    assert "was made without a tier" in capsys.readouterr().err
