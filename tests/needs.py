"""Programs that a test needs: `@pytest.mark.needs("promtool")`.

Where one is missing the test is skipped, and says what to install. In CI it fails: there script/setup has run, and a
test that nobody ran proves nothing. What a machine cannot give at all, such as the right to mount, is skipped with its
reason in CI too: `Unavailable` and `CannotContain` say it.
"""

import os
import shutil
from typing import Final

import pytest

PACKAGES: Final = {
    "bsdtar": "libarchive-tools",
    "dcmdump": "dcmtk",
    "dcmsend": "dcmtk",
    "echoscu": "dcmtk",
    "fusermount3": "fuse3",
    "haproxy": "haproxy",
    "ip": "iproute2",
    "keepalived": "keepalived",
    "nft": "nftables",
    "nsenter": "util-linux",
    "promtool": "prometheus",
    "setpriv": "util-linux",
    "storescp": "dcmtk",
    "storescu": "dcmtk",
    "systemd-analyze": "systemd",
    "tar": "tar",
}
"""Debian's, which script/setup installs unless every machine has them."""
ESSENTIAL: Final = frozenset({"tar", "util-linux"})
_NO: Final = frozenset({"", "0", "false", "no"})


def in_ci() -> bool:
    """As .ci/run says, and every service for continuous integration."""
    return os.environ.get("CI", "").lower() not in _NO


def program(name: str) -> str | None:
    """Where it lies, also where only root usually looks."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def require(*names: str) -> None:
    """Go on if all of them are here; else skip the test that runs, or in CI let it fail."""
    missing = [name for name in names if program(name) is None]
    if not missing:
        return
    packages = " ".join(sorted({PACKAGES[name] for name in missing}))
    why = f"{', '.join(missing)} missing: script/setup installs {packages}"
    if in_ci():
        pytest.fail(f"{why}; in CI nothing is skipped for that", pytrace=False)
    pytest.skip(why)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture."""
    for mark in item.iter_markers("needs"):
        require(*mark.args)
