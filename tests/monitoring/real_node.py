"""One real node in this process, with everything switched on that a standalone node has: for what it exports."""

import asyncio
import contextlib
import ssl
import urllib.request
from collections.abc import AsyncGenerator
from pathlib import Path

from perenne.authority import AUTHORITY, CERTIFICATE, KEY, authority_in
from perenne.config_reading import load_config
from perenne.joining import identified
from perenne.node import Node
from replication.coordination.standalone import FileCoordination
from storage.disk import RealDisk

CONFIG = """
[node]
id = "n1"
data_dir = "data"
[cluster]
allow_solo = true
segment_bytes = 4194304
[storage]
reserve_bytes = 1048576
spare_segments = 1
[peer]
port = 0
[dimse]
port = 0
tls = "beside"
tls_port = 0
[http]
port = 0
tls = true
[tls]
authority_file = "ca/n1/{authority}"
certificate_file = "ca/n1/{certificate}"
key_file = "ca/n1/{key}"
[[ae]]
title = "CT1"
"""


@contextlib.asynccontextmanager
async def node_in(directory: Path) -> AsyncGenerator[Node]:
    """A standalone node that runs, with certificates at every door and one configured calling AE."""
    authority_in(directory / "ca").issue("n1", (), 30)
    file = directory / "node.toml"
    file.write_text(CONFIG.format(authority=AUTHORITY, certificate=CERTIFICATE, key=KEY))
    config = load_config(file, {})
    config.node.data_dir.mkdir()
    disk = RealDisk(config.node.data_dir)
    identity, cluster = await identified(config, disk, None, asyncio.Event())
    assert identity is not None, "a standalone node asks nobody"
    node = Node(config, disk, FileCoordination(disk), identity, cluster, None)
    try:
        await node.start()
        yield node
    finally:
        await node.stop()


async def scraped(node: Node, directory: Path) -> str:
    """The very answer that Prometheus gets."""
    trust = ssl.create_default_context(cafile=str(directory / "ca" / AUTHORITY))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust))

    def ask() -> str:
        with opener.open(f"https://127.0.0.1:{node.http.port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    return await asyncio.to_thread(ask)
