"""Stores to test with, each with a way to lose and to alter what it holds behind the adapter's back."""

import asyncio
import copy
import functools
import secrets
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from perenne.local.seaweedfs import ACCESS_KEY, SECRET_KEY
from replication.tier.directory import DirectoryStore
from replication.tier.measured import MeasuredStore
from replication.tier.port import BlockingStore
from replication.tier.retrying import Patience, RetryingStore
from replication.tier.s3 import Credentials, S3Settings, S3Store

_T = TypeVar("_T")
CREDENTIALS = Credentials(access_key=ACCESS_KEY, secret_key=SECRET_KEY)
CALM = Patience(give_up_s=20.0, pause_s=0.02)
"""For tests in which nothing is to be given up, on a machine that does much else."""
QUICK = Patience(give_up_s=0.8, pause_s=0.02)
"""For tests that wait until something is given up."""


@dataclass
class Reached:
    """One store behind the port, as a node has it.

    alter: replace what a key holds by other bytes of the same size, digest kept.
    """

    store: MeasuredStore
    blocking: BlockingStore
    alter: Callable[[str], None]
    pool: ThreadPoolExecutor

    def end(self) -> None:
        asyncio.run(self.store.close())
        self.pool.shutdown(wait=False, cancel_futures=True)


def reached_through(
    blocking: BlockingStore, alter: Callable[[str], None], patience: Patience = CALM, threads: int = 8
) -> Reached:
    pool = ThreadPoolExecutor(threads, "tier")
    return Reached(MeasuredStore(RetryingStore(blocking, pool, patience)), blocking, alter, pool)


def settings(endpoint: str, ca_file: Path | None = None, **changed: Any) -> S3Settings:
    """A bucket prefix nobody else uses, and a patient read time-out."""
    plain = S3Settings(endpoint=endpoint, bucket="perenne", prefix=f"{secrets.token_hex(8)}/", ca_file=ca_file)
    return replace(plain, **{"read_timeout_s": 10.0, **changed})


def s3_store(wanted: S3Settings) -> S3Store:
    """As `S3Store` makes it; but a client takes a third of a second, so stores that differ in the prefix share one."""
    store = copy.copy(_first(replace(wanted, prefix="")))
    store._settings = wanted  # pyright: ignore[reportPrivateUsage]
    return store


@functools.cache
def _first(wanted: S3Settings) -> S3Store:
    store = S3Store(wanted, CREDENTIALS)
    store.prepare()
    return store


def s3_reached(endpoint: str, ca_file: Path | None = None, patience: Patience = CALM, **changed: Any) -> Reached:
    """The bucket is made where there is none."""
    store = s3_store(settings(endpoint, ca_file, **changed))

    def alter(key: str) -> None:
        client: Any = store._client  # pyright: ignore[reportPrivateUsage]
        place = {"Bucket": "perenne", "Key": store._settings.prefix + key}  # pyright: ignore[reportPrivateUsage]
        found = client.get_object(**place)
        client.put_object(**place, Body=flipped(found["Body"].read()), Metadata=found["Metadata"])

    return reached_through(store, alter, patience)


def directory_reached(root: Path, patience: Patience = CALM) -> Reached:
    root.mkdir(parents=True, exist_ok=True)
    store = DirectoryStore(root)
    store.prepare()

    def alter(key: str) -> None:
        path = root / key
        path.write_bytes(flipped(path.read_bytes()))

    return reached_through(store, alter, patience)


def flipped(data: bytes) -> bytes:
    """One bit of it is another."""
    return bytes([data[0] ^ 1]) + data[1:]


def run(work: Coroutine[Any, Any, _T]) -> _T:
    return asyncio.run(work)
