"""One SeaweedFS for all tests of the tier, over http and https, and the three ways to reach a store."""

from collections.abc import Generator
from pathlib import Path

import pytest
import trustme

from perenne.local.seaweedfs import Store, start_store
from tests.tier.rig import Reached, directory_reached, s3_reached


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PEM file of the certificate authority that signed the server's certificate."""
    directory = tmp_path_factory.mktemp("certificates")
    ca = trustme.CA()
    server = ca.issue_cert("localhost", "127.0.0.1")
    ca.cert_pem.write_to_path(str(directory / "ca.pem"))
    server.private_key_pem.write_to_path(str(directory / "server.key"))
    (directory / "server.pem").write_bytes(b"".join(part.bytes() for part in server.cert_chain_pems))
    return directory / "ca.pem"


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory, authority: Path) -> Generator[Store]:
    """Shared: tests use prefixes of their own, and leave it running."""
    certificate = (authority.parent / "server.pem", authority.parent / "server.key")
    store = start_store(tmp_path_factory.mktemp("seaweedfs"), certificate)
    try:
        yield store
    finally:
        store.kill()


@pytest.fixture(params=["s3 over http", "s3 over https", "directory"])
def reached(request: pytest.FixtureRequest, tmp_path: Path, authority: Path) -> Generator[Reached]:
    """A store of each kind, empty."""
    if request.param == "directory":
        found = directory_reached(tmp_path / "mount")
    else:
        server: Store = request.getfixturevalue("seaweedfs")
        secure = request.param == "s3 over https"
        found = s3_reached(server.https_endpoint if secure else server.endpoint, authority if secure else None)
    try:
        yield found
    finally:
        found.end()
