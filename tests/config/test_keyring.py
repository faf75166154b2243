"""Goal: every new certificate is shown, also by a server that was given its context once, and no context that a
handshake may be using is written to: a thread reads the files, and OpenSSL locks nothing.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import uvloop
from cryptography import x509

from monitoring.http import HttpServer
from perenne.authority import authority_in
from perenne.tls import Keyring, TlsFiles
from tests.replication.test_tls import files

RENEWALS = 3


def http_ring(directory: Path) -> Keyring:
    found = files(directory, "a")
    return Keyring(TlsFiles(found.certificate, found.key, None), clients=ssl.CERT_NONE)


async def shown(port: int, name: str) -> x509.Certificate:
    """What a caller sees. name: whom it asks for; nobody where it is empty."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
            break
        except ConnectionRefusedError:  # uvloop listens in its own time
            await asyncio.sleep(0.01)
    found: Any = writer.get_extra_info("ssl_object")
    writer.close()
    return x509.load_der_x509_certificate(found.getpeercert(binary_form=True))


@pytest.mark.parametrize("name", ["", "node-a.example"], ids=["by-address", "by-name"])
def test_each_new_certificate_is_shown_by_a_server_that_was_given_its_context_once(tmp_path: Path, name: str) -> None:
    ring = http_ring(tmp_path / "ca")
    node: Any = MagicMock()

    async def renewed() -> None:
        server = HttpServer(node, host="127.0.0.1", port=0, secure=ring.lasting())
        await server.start()
        try:
            for days in range(40, 40 + RENEWALS):
                authority_in(tmp_path / "ca").issue("a", (), days)
                assert await asyncio.to_thread(ring.refresh)
                certificate = await shown(server.port, name)
                assert certificate.not_valid_after_utc == ring.expires
        finally:
            await server.close()

    uvloop.run(bounded(renewed))


async def bounded(scene: Callable[[], Awaitable[None]]) -> None:
    async with asyncio.timeout(30):
        await scene()


def test_no_context_in_use_is_written_to(tmp_path: Path) -> None:
    ring = http_ring(tmp_path / "ca")
    used = [ring.server(), ring.client(), ring.lasting()]
    written: list[ssl.SSLContext] = []
    load = ssl.SSLContext.load_cert_chain

    class Noting(ssl.SSLContext):
        def load_cert_chain(self, *files: Any, **more: Any) -> None:
            written.append(self)
            load(self, *files, **more)

    for context in used:
        context.__class__ = Noting
    authority_in(tmp_path / "ca").issue("a", (), 40)
    assert ring.refresh()
    assert not written
