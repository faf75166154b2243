"""What a node asks before it starts: an answer that does not come keeps nobody from starting."""

import asyncio
import socket
import time
from pathlib import Path

from perenne.config_reading import load_config
from perenne.joining import ALONE_S, alone

CONFIG = """
[node]
id = "n1"
data_dir = "{directory}"
[coordination]
zookeeper = "127.0.0.1:{port}"
session_timeout_ms = 30000
"""


def test_a_zookeeper_that_does_not_answer_is_not_waited_for_as_long_as_a_session_lives(tmp_path: Path) -> None:
    """Somebody listens there, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        file = tmp_path / "n1.toml"
        file.write_text(CONFIG.format(directory=tmp_path, port=listener.getsockname()[1]))
        begun = time.monotonic()
        assert asyncio.run(alone(load_config(file, {}), asyncio.Event()))
    assert time.monotonic() - begun < 3 * ALONE_S
