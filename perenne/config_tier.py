"""What the `[tier]` section must fulfil, and the store that it describes."""

import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final
from urllib.parse import urlsplit

from perenne.config import Config, TierConfig
from replication.evicting import Eviction
from replication.tier.directory import DirectoryStore
from replication.tier.port import BlockingStore, Refused
from replication.tier.retrying import Patience, RetryingStore

MODES: Final = ("synchronous", "standby", "off")
KINDS: Final = ("s3", "directory")
_ENCRYPTIONS: Final = ("", "AES256", "aws:kms")
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX: Final = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9._-]*/)*")
_S3_ALONE: Final = ("endpoint", "bucket", "prefix", "encryption", "kms_key", "object_lock_days", "storage_class")
_Finding = tuple[str, str, str]


def tier_findings(config: Config) -> Iterator[_Finding]:
    """Everything that cannot work, as (key, cause, next step). What is off need not be complete."""
    tier = config.tier
    if tier.mode not in MODES:
        yield "tier.mode", f"{tier.mode!r} is no mode", f"Use one of: {', '.join(MODES)}."
    if tier.kind not in KINDS:
        yield "tier.kind", f"{tier.kind!r} is no kind of tier", f"Use one of: {', '.join(KINDS)}."
    yield from _numbers(tier)
    yield from _s3_values(tier)
    if tier.kind == "directory":
        for key in _S3_ALONE:
            if getattr(tier, key):
                yield (
                    f"tier.{key}",
                    "is for a bucket, and the tier is a directory",
                    'Leave it out, or write kind = "s3".',
                )
    if tier.on:
        yield from missing(tier)
    yield from _eviction(config)


def no_second_copy(config: Config) -> str:
    """Why a directory tier is none; empty where nothing is known against it. So does a missing mount look."""
    directory, data_dir = config.tier.directory, config.node.data_dir.absolute()
    if not config.tier.on or config.tier.kind != "directory" or directory is None:
        return ""
    there = next((path for path in (data_dir, *data_dir.parents) if path.exists()), data_dir)
    try:
        same = directory.stat().st_dev == there.stat().st_dev
    except OSError:
        return ""  # that is told elsewhere
    return f"{directory} and {data_dir} lie on one file system: one lost disk loses both copies" if same else ""


def _eviction(config: Config) -> Iterator[_Finding]:
    storage = config.storage
    key, below = "storage.evict_below_free_bytes", storage.evict_below_free_bytes
    if below and not config.tier.on:
        yield key, "nothing can be evicted without a tier", "Describe the bucket or directory in [tier], or write 0."
    if below and below <= storage.reserve_bytes:
        step = "Use more than storage.reserve_bytes: below that the node refuses stores."
        yield key, f"{below} bytes come too late: the reserve is {storage.reserve_bytes}", step
    if below < 0 or storage.evict_cache_bytes < 1 << 20:
        yield "storage.evict_cache_bytes", "sizes cannot be so small", 'Use at least "1MiB"; "64MiB" is the default.'


def eviction(config: Config) -> Eviction:
    """What the keys of `[storage]` say of it."""
    storage = config.storage
    return Eviction(
        below_free_bytes=storage.evict_below_free_bytes,
        tier_alone=storage.evict_tier_alone,
        cache_bytes=storage.evict_cache_bytes,
    )


def missing(tier: TierConfig) -> Iterator[_Finding]:
    """What must be given before a store can be asked."""
    if tier.kind == "directory" and tier.directory is None:
        yield "tier.directory", "is missing", 'Write where it is mounted, such as directory = "/mnt/archive".'
    if tier.kind == "s3":
        if not tier.endpoint:
            yield "tier.endpoint", "is missing", 'Write endpoint = "https://HOST:PORT".'
        if not tier.bucket:
            yield "tier.bucket", "is missing", 'Write bucket = "NAME".'


def _numbers(tier: TierConfig) -> Iterator[_Finding]:
    if not 100 <= tier.attempt_timeout_ms <= 60_000:
        value = tier.attempt_timeout_ms
        yield "tier.attempt_timeout_ms", f"{value} ms is outside of 100 to 60000", "3000 is the default."
    if not tier.attempt_timeout_ms <= tier.give_up_ms <= 600_000:
        step = "Use at least attempt_timeout_ms; 5000 is the default."
        yield "tier.give_up_ms", f"{tier.give_up_ms} ms is shorter than one attempt, or absurd", step
    if not 1 <= tier.connections <= 256:
        yield "tier.connections", f"{tier.connections} is outside of 1 to 256", "8 is the default."
    if not (tier.pack_rate_bytes == 0 or 1 << 20 <= tier.pack_rate_bytes <= 1 << 40):
        step = 'Use 0 for no limit, or at least "1MiB"; "64MiB" is the default.'
        yield "tier.pack_rate_bytes", f"{tier.pack_rate_bytes} bytes a second cannot be", step
    if not 0 <= tier.object_lock_days <= 36_500:
        step = "Use 0 for none. In compliance mode nobody can shorten it, the store's administrator included."
        yield "tier.object_lock_days", f"{tier.object_lock_days} days cannot be", step


def _s3_values(tier: TierConfig) -> Iterator[_Finding]:
    if tier.endpoint and not _is_endpoint(tier.endpoint):
        step = 'Write "https://HOST:PORT", without a path and without credentials.'
        yield "tier.endpoint", "it is no address of a server", step
    if tier.bucket and not _BUCKET.fullmatch(tier.bucket):
        step = "Use 3 to 63 small letters, digits, dots and hyphens."
        yield "tier.bucket", f"{tier.bucket!r} cannot name a bucket", step
    if len(tier.prefix) > 256 or not _PREFIX.fullmatch(tier.prefix):
        step = 'Write it with a "/" at the end, such as "perenne/".'
        yield "tier.prefix", f"{tier.prefix!r} cannot begin a key", step
    if tier.encryption not in _ENCRYPTIONS:
        step = 'Use "AES256", "aws:kms", or leave it out.'
        yield "tier.encryption", f"{tier.encryption!r} is no server-side encryption", step
    if tier.kms_key and tier.encryption != "aws:kms":
        yield "tier.kms_key", "is used with aws:kms alone", 'Write encryption = "aws:kms", or leave it out.'
    for key, path in (("ca_file", tier.ca_file), ("credentials_file", tier.credentials_file)):
        if path is not None and not (path.is_file() and os.access(path, os.R_OK)):
            yield f"tier.{key}", f"{path} cannot be read", "Check its path and permissions."


def _is_endpoint(text: str) -> bool:
    """An address of which nothing needs to be quoted in an error: no user, no password, no path."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    plain = parts.path in ("", "/") and not parts.query and not parts.fragment and parts.username is None
    return parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0 and plain


def blocking_store(tier: TierConfig, environment: Mapping[str, str]) -> BlockingStore:
    """The store that the section describes; nothing is asked of it yet. Raises Refused, which names what is missing."""
    if tier.kind == "s3" and not (tier.directory or tier.endpoint or tier.bucket):
        raise Refused("no tier is configured", "Write a [tier] section: docs/tier.md shows one.")
    for key, cause, next_step in missing(tier):
        raise Refused(f"{key} {cause}", next_step)
    if tier.kind == "directory":
        assert tier.directory is not None
        return DirectoryStore(tier.directory)
    from replication.tier.s3 import S3Settings, S3Store, read_credentials  # boto3 takes a third of a second to import

    settings = S3Settings(
        endpoint=tier.endpoint,
        bucket=tier.bucket,
        prefix=tier.prefix,
        region=tier.region,
        ca_file=tier.ca_file,
        encryption=tier.encryption,
        kms_key=tier.kms_key,
        lock_days=tier.object_lock_days,
        storage_class=tier.storage_class,
        connections=tier.connections,
        connect_timeout_s=min(1.0, tier.attempt_timeout_ms / 1000),
        read_timeout_s=tier.attempt_timeout_ms / 1000,
    )
    return S3Store(settings, read_credentials(tier.credentials_file, environment))


def patient_store(tier: TierConfig, blocking: BlockingStore) -> RetryingStore:
    """The same for the event loop, with threads of its own."""
    pool = ThreadPoolExecutor(tier.connections, "perenne-tier")
    return RetryingStore(blocking, pool, Patience(give_up_s=tier.give_up_ms / 1000))
