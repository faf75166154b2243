"""One cluster of two nodes for everything that moves archives in and out."""

from collections.abc import Generator

import pytest

from perenne.local.cluster import LocalCluster
from tests.integration.rig import running_cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Generator[LocalCluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster"), 2) as found:
        yield found
