"""`perenne await-in-sync` waits for the others of the set, and says why it gave up."""

import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from perenne.cli.commands import app


@contextmanager
def answering(*answers: dict[str, Any]) -> Generator[str]:
    """A node whose /status goes through these answers, and stays at the last."""
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(left.pop(0) if len(left) > 1 else left[0]).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["await-in-sync", *words])


def status(*in_sync: str, leader: str | None = "n1") -> dict[str, Any]:
    return {"node": "n1", "leader": leader, "in_sync": list(in_sync)}


def test_it_waits_until_enough_others_are_in_sync() -> None:
    with answering(status("n1", "n2"), status("n1", "n2", "n3", leader=None), status("n1", "n2", "n3")) as url:
        done = run(url, "--others=2", "--seconds=60")
    assert (done.exit_code, done.stdout) == (0, "in sync besides this node: n2, n3\n")


def test_the_tier_is_another_member_and_the_node_itself_is_none() -> None:
    with answering(status("n1", "tier")) as url:
        assert run(url, "--others=1", "--seconds=0").exit_code == 0
        assert run(url, "--others=2", "--seconds=0").exit_code == 1


def test_it_gives_up_and_names_who_is_there() -> None:
    with answering(status("n1", "n2")) as url:
        done = run(url, "--others=2", "--seconds=0")
    assert done.exit_code == 1
    assert "only n2 is in sync besides this node" in done.stderr


def test_the_configuration_says_where_the_node_is(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    with answering(status("n1", "n2", "n3")) as url:
        file.write_text(f'[http]\nhost = "0.0.0.0"\nport = {url.rsplit(":", 1)[1]}\n')
        assert run("--config", str(file), "--seconds=0").exit_code == 0


def test_somebody_must_be_named() -> None:
    done = run()
    assert done.exit_code == 2
    assert "which node?" in done.stderr


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "127.0.0.1:1"])
def test_a_node_that_does_not_answer_is_not_waited_for(url: str) -> None:
    done = run(url, "--seconds=60")
    assert done.exit_code == 1
    assert "there is nothing to wait for" in done.stderr
