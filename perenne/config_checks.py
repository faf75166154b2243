"""What a configuration must fulfil beyond its types: values that cannot work, alone or together."""

import ipaddress
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from perenne.config import Config, Problem
from perenne.config_tier import tier_findings
from perenne.config_tls import tls_findings
from perenne.retention import retention_findings

_NODE_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")
_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\.?")
POLICIES: Final = ("keep-first", "newest", "refuse")
LEVELS: Final = ("debug", "info", "warning", "error")
SERVERS_STEP: Final = 'Write "host:port,host:port", for example "zk1:2181,zk2:2181,zk3:2181".'
_KIBIBYTE: Final = 1024
_FINDING = tuple[str, str, str]


def check(config: Config, where: Callable[[str], str], *, disk: bool) -> tuple[Problem, ...]:
    """Return everything that cannot work. `where` turns a key such as `dimse.port` into the place that set it."""
    parts = (_node, *((_data_dir,) if disk else ()), _cluster, _coordination, _ports, _dimse, _aes, _storage, _scrub)
    checks = (*parts, tier_findings, tls_findings, retention_findings, _log)
    return tuple(Problem(where(key), cause, next_step) for part in checks for key, cause, next_step in part(config))


def _node(config: Config) -> Iterator[_FINDING]:
    if not _NODE_ID.fullmatch(config.node.id) or config.node.id == "tier":
        step = 'Use letters, digits, "-", "_" and ".", at most 32, beginning with a letter or digit; not "tier".'
        yield "node.id", f"{config.node.id!r} cannot name a node", step


def _data_dir(config: Config) -> Iterator[_FINDING]:
    if cause := unusable_directory(config.node.data_dir):
        yield "node.data_dir", cause, "Name a directory that this user may write to, or make it."


def unusable_directory(path: Path) -> str | None:
    """Say why `path` is no directory that this process can use or make; None when it is. Makes nothing."""
    try:
        if path.exists():
            if not path.is_dir():
                return f"{path} is not a directory"
            return None if os.access(path, os.W_OK | os.X_OK) else f"{path} is not writable"
        parent = next(parent for parent in path.absolute().parents if parent.exists())
    except OSError as error:
        return f"{path} cannot be used: {error.strerror}"
    if not parent.is_dir():
        return f"{path} cannot be made: {parent} is not a directory"
    return None if os.access(parent, os.W_OK | os.X_OK) else f"{path} cannot be made in {parent}: not writable"


def _cluster(config: Config) -> Iterator[_FINDING]:
    cluster = config.cluster
    if cluster.copies_required < 1:
        yield "cluster.copies_required", f"{cluster.copies_required} is below 1", "Use 2, or more."
    if cluster.copies_required == 1 and not cluster.allow_solo:
        step = "Use 2, or say that one copy is enough with allow_solo = true."
        yield "cluster.copies_required", "1 copy can be lost with one disk", step
    if cluster.segment_bytes < 64 * _KIBIBYTE or cluster.segment_bytes % 4096:
        step = 'Use at least 64 KiB and a multiple of 4096; "256MiB" is the default.'
        yield "cluster.segment_bytes", f"{cluster.segment_bytes} cannot be a segment", step
    if cluster.acknowledge_timeout_ms < 100:
        step = "Use at least 100; 10000 is the default."
        yield "cluster.acknowledge_timeout_ms", f"{cluster.acknowledge_timeout_ms} ms is too short", step
    if cluster.conflict_policy not in POLICIES:
        yield "cluster.conflict_policy", f"{cluster.conflict_policy!r} is no policy", _one_of(POLICIES)


def _coordination(config: Config) -> Iterator[_FINDING]:
    for server in no_servers(config.coordination.zookeeper):
        yield "coordination.zookeeper", f"{server!r} is not host:port", SERVERS_STEP
    if not 1_000 <= config.coordination.session_timeout_ms <= 60_000:
        value = config.coordination.session_timeout_ms
        step = "Use 2000 to 10000; ZooKeeper itself allows 2 to 20 of its ticks."
        yield "coordination.session_timeout_ms", f"{value} ms is outside of 1000 to 60000", step
    if config.peer.stall_timeout_ms < 100:
        yield "peer.stall_timeout_ms", f"{config.peer.stall_timeout_ms} ms is too short", "Use at least 100."


def no_servers(zookeeper: str) -> list[str]:
    """Of `host:port,…`, with a path behind it or not, what is no host:port."""
    servers, slash, _ = zookeeper.partition("/")
    return [server.strip() for server in servers.split(",") if (servers or slash) and not _is_server(server.strip())]


def _is_server(server: str) -> bool:
    host, _, port = server.rpartition(":")
    return _is_host(host.strip("[]")) and port.isdecimal() and 0 < int(port) < 65536


def _ports(config: Config) -> Iterator[_FINDING]:
    taken: dict[int, str] = {}
    for section, host, port in (
        ("peer", config.peer.host, config.peer.port),
        ("dimse", config.dimse.host, config.dimse.port),
        ("http", config.http.host, config.http.port),
    ):
        if not 0 <= port < 65536:
            yield f"{section}.port", f"{port} is not a port", "Use 1 to 65535, or 0 for any free one."
        elif port and port in taken:
            yield f"{section}.port", f"{port} is also [{taken[port]}] port", "Give each its own."
        taken.setdefault(port, section)
        if not _is_host(host):
            yield (
                f"{section}.host",
                f"{host!r} is neither a name nor an address",
                'Use "0.0.0.0" for every interface.',
            )
    advertised = config.peer.advertise_host
    if advertised and (not _is_host(advertised) or advertised in ("0.0.0.0", "::")):
        step = "Use the name or address under which the other nodes reach this one."
        yield "peer.advertise_host", f"{advertised!r} reaches nobody", step


def _dimse(config: Config) -> Iterator[_FINDING]:
    dimse = config.dimse
    if cause := ae_problem(dimse.ae_title):
        yield (
            "dimse.ae_title",
            cause,
            'Use up to 16 printable ASCII characters, such as "PERENNE" (PS3.5 VR AE).',
        )
    if dimse.max_associations < 1:
        yield "dimse.max_associations", f"{dimse.max_associations} lets nobody in", "Use at least 1."
    if not 4096 <= dimse.max_pdu_bytes <= 16 * 1024 * _KIBIBYTE:
        yield (
            "dimse.max_pdu_bytes",
            f"{dimse.max_pdu_bytes} is outside of 4 KiB to 16 MiB",
            "131072 is the default.",
        )
    if dimse.association_bytes < dimse.max_pdu_bytes:
        yield "dimse.association_bytes", "is smaller than one PDU", "Use at least max_pdu_bytes."
    if dimse.total_bytes < dimse.association_bytes:
        yield "dimse.total_bytes", "is smaller than association_bytes", "Use at least as much."
    if dimse.background_bytes < 0:
        yield "dimse.background_bytes", f"{dimse.background_bytes} is negative", "4194304 is the default."
    timeouts = (dimse.artim_timeout_ms, dimse.idle_timeout_ms, dimse.message_timeout_ms)
    for key, value in zip(("artim", "idle", "message"), timeouts, strict=True):
        if value < 1000:
            yield f"dimse.{key}_timeout_ms", f"{value} ms is too short", "Use at least 1000."


def _aes(config: Config) -> Iterator[_FINDING]:
    for number, entry in enumerate(config.ae, 1):
        if cause := ae_problem(entry.title):
            yield f"ae[{number}].title", cause, "Use up to 16 printable ASCII characters (PS3.5 VR AE)."
        if entry.host is not None and not _is_host_or_network(entry.host):
            step = "Use a name, an address, or a network such as 10.1.0.0/16."
            yield f"ae[{number}].host", f"{entry.host!r} is no name, address or network", step


def ae_problem(title: str) -> str | None:
    """Say why `title` is no AE title (PS3.5 section 6.2); None when it is one."""
    if not title.strip():
        return "an AE title cannot be empty"
    if len(title) > 16:
        return f"{title!r} has {len(title)} characters"
    if not all(" " <= char <= "~" and char != "\\" for char in title):
        return f"{title!r} has characters that an AE title cannot have"
    return None


def _storage(config: Config) -> Iterator[_FINDING]:
    storage = config.storage
    if storage.reserve_bytes < 0:
        yield "storage.reserve_bytes", f"{storage.reserve_bytes} is negative", 'Use "1GiB", or more.'
    if not 1 <= storage.spare_segments <= 64:
        yield "storage.spare_segments", f"{storage.spare_segments} is outside of 1 to 64", "2 is the default."
    if storage.memory_instance_bytes < 64 * _KIBIBYTE:
        step = "Use at least 64 KiB."
        yield "storage.memory_instance_bytes", f"{storage.memory_instance_bytes} is too small", step
    if storage.staging_pool_bytes < storage.memory_instance_bytes:
        yield "storage.staging_pool_bytes", "is smaller than memory_instance_bytes", "Use at least as much."


def _scrub(config: Config) -> Iterator[_FINDING]:
    scrub = config.scrub
    for key, value in (("light_every_ms", scrub.light_every_ms), ("deep_every_ms", scrub.deep_every_ms)):
        if value and not 1_000 <= value <= 366 * 86_400_000:
            step = "Use 0 for never, or 1000 to a year; 86400000 is a day, 604800000 a week."
            yield f"scrub.{key}", f"{value} ms cannot be", step
    if scrub.per_second_bytes and scrub.per_second_bytes < 1024 * _KIBIBYTE:
        step = 'Use at least "1MiB", or 0 for no limit; "100MiB" is the default.'
        yield "scrub.per_second_bytes", f"{scrub.per_second_bytes} would take for ever", step


def _log(config: Config) -> Iterator[_FINDING]:
    if config.log.level not in LEVELS:
        yield "log.level", f"{config.log.level!r} is no level", _one_of(LEVELS)
    if config.log.format not in ("json", "text"):
        yield "log.format", f"{config.log.format!r} is no format", _one_of(("json", "text"))


def _one_of(values: tuple[str, ...]) -> str:
    return f"Use one of: {', '.join(values)}."


def _is_host(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return bool(_HOST.fullmatch(text))
    return True


def _is_host_or_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return bool(_HOST.fullmatch(text))
    return True
