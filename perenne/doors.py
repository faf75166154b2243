"""Doors that stand open: what a configuration lets anybody do who reaches a port. None keeps a node from starting."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from perenne.config import Config
from perenne.config_material import log_material
from perenne.config_tls import is_loopback, servers_afar

_LOG: Final = logging.getLogger("perenne.node")
Note = tuple[str, str, str]
"""Key, what it means, next step."""


def open_doors(config: Config) -> Iterator[Note]:
    """What somebody should have decided on purpose, before others are let into the network of this node."""
    http = config.http
    if not is_loopback(http.host):
        if http.token_file is None:
            cause = f"whoever reaches port {http.port} reads every image and every name"
            yield "http.token_file", cause, "Give it a token, or keep the port inside (docs/security.md)."
        elif not http.tls:
            cause = f"the token and the images pass in plain text at port {http.port}"
            yield "http.tls", cause, "Write tls = true, with the certificates of `perenne certs`."
    if not is_loopback(config.peer.host) and not config.standalone and not config.tls.on:
        cause = f"whoever reaches port {config.peer.port} may pass for a node, and is given every image"
        yield "tls", cause, "Make certificates with `perenne certs`, and name them in [tls]."
    if afar := servers_afar(config):
        if config.coordination.credentials_file is None:
            cause = f"whoever reaches ZooKeeper at {afar[0]} may decide who leads, and who is a node"
            step = "Name a file with one line user:password before the cluster is made (docs/security.md)."
            yield "coordination.credentials_file", cause, step
        if not config.coordination.tls:
            cause = f"what nodes and ZooKeeper at {afar[0]} say to each other, the password too, passes in plain text"
            yield (
                "coordination.tls",
                cause,
                "Have ZooKeeper speak TLS (deploy/zookeeper/tls.cfg), and write tls = true.",
            )
    if not is_loopback(config.dimse.host) and not config.ae:
        cause = f"every calling AE that reaches port {config.dimse.port} may store"
        yield "ae", cause, "List the modalities in [[ae]], with their hosts, or leave that to the firewall."
    for key, path in (("tls.key_file", config.tls.key_file), ("dimse.tls_key_file", config.dimse.tls_key_file)):
        if path is not None and _readable_by_others(path):
            yield key, f"{path} can be read by other users of this machine", f"chmod 600 {path}"


def log_doors(config: Config) -> None:
    """At each start of a node: what others would refuse it for, and what it does not refuse."""
    log_material(config)
    for key, cause, step in open_doors(config):
        _LOG.warning("a door stands open", extra={"key": key, "reason": cause, "next_step": step})


def _readable_by_others(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & 0o007)
    except OSError:
        return False  # that is told elsewhere
