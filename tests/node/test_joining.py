"""What a node asks before it starts: an answer that does not come keeps nobody from starting."""

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from perenne import joining
from perenne.config_reading import load_config
from perenne.joining import ALONE_S, alone
from replication.coordination.zookeeper import ZooKeeperCoordination

CONFIG = """
[node]
id = "n1"
data_dir = "{directory}"
[coordination]
zookeeper = "127.0.0.1:{port}"
session_timeout_ms = 30000
"""


def test_a_zookeeper_that_does_not_answer_is_not_waited_for_as_long_as_a_session_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody listens there, and says nothing: a session is waited for as long as it would live, as it is closed."""
    asked: list[int] = []

    class Asked(ZooKeeperCoordination):
        def __init__(self, hosts: str, *, session_timeout_ms: int, **more: Any) -> None:
            asked.append(session_timeout_ms)
            super().__init__(hosts, session_timeout_ms=session_timeout_ms, **more)

    monkeypatch.setattr(joining, "ZooKeeperCoordination", Asked)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        file = tmp_path / "n1.toml"
        file.write_text(CONFIG.format(directory=tmp_path, port=listener.getsockname()[1]))
        assert asyncio.run(alone(load_config(file, {}), asyncio.Event()))
    assert asked == [ALONE_S * 1000]
