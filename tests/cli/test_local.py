"""Goal: script/up and script/down do what one expects of them, and say so. Method: the scripts, without a cluster."""

import socket
import subprocess
import threading
from pathlib import Path

import pytest

from perenne.local import up
from perenne.local.cluster import LocalCluster, LocalNode

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
    with up.locked(tmp_path):
        assert called("down", "--dir", str(tmp_path)) == 1
    assert "another script/up or script/down" in capsys.readouterr().err
    assert called("down", "--dir", str(tmp_path)) == 0


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
