"""The names of objects in the tier: pure functions, one name per content.

```
log/<epoch>/<first>-<last>-<chain prefix>.tar   records first … last, all of one epoch, each with its payload
log/<epoch>/<first>-<last>-<chain prefix>_<stubs>-<form>.tar
                                                the same records, where the payloads of some were taken away (ADR 0014)
manifest/cluster.json                           which cluster this is; created once
manifest/<epoch>-<sequence>-<chain prefix>.json how far the bucket is complete, for a restore's first look
marker/<counter>-<change>                       a change of `state` that added the tier, put before it is counted
claim/<epoch>-<boot>                            a start of a standalone node leads (claims.py)
probe/<run>/…                                   scratch of the probe at start
```

A run is a single record, a group of them, or a sealed segment with its table: what it is, its first bytes say. Numbers
have twelve digits, so that LIST gives the log in its order; epochs and sequences that need more are refused. The chain
prefix is the first 8 bytes of the chain at `last`, in hexadecimal: it keeps branches apart, and proves nothing. The
number of stubs has six digits; the form says which they are: 8 bytes of BLAKE3 over their sequences. Names that are not
exactly what these functions write are somebody else's, and are left alone.
"""

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from blake3 import blake3

from storage.position import LogPoint, LogPosition

LOG: Final = "log/"
MANIFEST: Final = "manifest/"
MARKER: Final = "marker/"
CLAIM: Final = "claim/"
PROBE: Final = "probe/"
CLUSTER_KEY: Final = "manifest/cluster.json"
PREFIX_BYTES: Final = 8
NUMBER_LIMIT: Final = 10**12
STUBS_LIMIT: Final = 10**6
_POINT: Final = r"(\d{12})-(\d{12})-([0-9a-f]{16})"
_RUN: Final = re.compile(rf"log/(\d{{12}})/{_POINT}(?:_(\d{{6}})-([0-9a-f]{{16}}))?\.tar", re.ASCII)
_MANIFEST: Final = re.compile(rf"manifest/{_POINT}\.json", re.ASCII)
_MARKER: Final = re.compile(r"marker/(\d{12})-([0-9A-Za-z]{1,64})", re.ASCII)
_CLAIM: Final = re.compile(r"claim/(\d{12})-([0-9A-Za-z]{1,64})", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Form:
    """Which records of a run are stubs: of deleted instances whose payloads were taken away. digest: 8 bytes over their
    sequences; empty where there are none.
    """

    stubs: int = 0
    digest: bytes = b""


WHOLE: Final = Form()


def form_of(stubs: Iterable[int]) -> Form:
    """stubs: sequences, in order."""
    listed = [struct.pack(">Q", sequence) for sequence in stubs]
    return Form(len(listed), blake3(b"".join(listed)).digest(PREFIX_BYTES)) if listed else WHOLE


@dataclass(frozen=True, slots=True, order=True)
class Run:
    """The object that holds records `first` … `last` of one epoch. chain_prefix: 8 bytes of the chain at `last`."""

    epoch: int
    first: int
    last: int
    chain_prefix: bytes
    form: Form = WHOLE

    def __post_init__(self) -> None:
        if not (0 <= self.epoch < NUMBER_LIMIT and 0 < self.first <= self.last < NUMBER_LIMIT):
            raise ValueError(f"no object holds records {self.first} to {self.last} of epoch {self.epoch}")
        if len(self.chain_prefix) != PREFIX_BYTES:
            raise ValueError(f"a chain prefix has {PREFIX_BYTES} bytes")
        stubs, digest = self.form.stubs, self.form.digest
        if not 0 <= stubs < STUBS_LIMIT or len(digest) != (PREFIX_BYTES if stubs else 0):
            raise ValueError(f"no object has {stubs} stubs with the digest {digest.hex()!r}")

    @property
    def key(self) -> str:
        form = f"_{self.form.stubs:06d}-{self.form.digest.hex()}" if self.form.stubs else ""
        return f"{epoch_prefix(self.epoch)}{self.first:012d}-{self.last:012d}-{self.chain_prefix.hex()}{form}.tar"

    @property
    def end(self) -> LogPosition:
        """Of its last record."""
        return LogPosition(self.epoch, self.last)

    def covers(self, other: "Run") -> bool:
        """Whether it may replace `other`: wider, over all of it, in the same epoch. Only the chain can prove it."""
        wider = (self.first, self.last) != (other.first, other.last)
        return wider and self.epoch == other.epoch and self.first <= other.first and other.last <= self.last


def run_name(first: int, last: LogPoint, form: Form = WHOLE) -> Run:
    """Name the records from `first` to `last`. form: which of them are stubs.

    >>> run_name(7, LogPoint(LogPosition(3, 9), bytes.fromhex("00112233445566778899" + "00" * 22))).key
    'log/000000000003/000000000007-000000000009-0011223344556677.tar'
    """
    return Run(last.epoch, first, last.sequence, last.chain[:PREFIX_BYTES], form)


def parse_run(key: str) -> Run | None:
    """Return the run that a key names; None for every other key.

    >>> parse_run("log/000000000003/000000000007-000000000009-0011223344556677.tar").last
    9
    >>> parse_run("log/3/7-9-0011223344556677.tar")
    """
    found = _RUN.fullmatch(key)
    if found is None:
        return None
    form = Form(int(found[5]), bytes.fromhex(found[6])) if found[5] else WHOLE
    try:
        run = Run(int(found[1]), int(found[2]), int(found[3]), bytes.fromhex(found[4]), form)
    except ValueError:
        return None
    return run if run.key == key else None


def epoch_prefix(epoch: int) -> str:
    """What every run of an epoch begins with."""
    return f"{LOG}{epoch:012d}/"


def manifest_key(complete: LogPoint) -> str:
    """The manifest that says that the bucket is complete up to here."""
    return f"{MANIFEST}{complete.epoch:012d}-{complete.sequence:012d}-{complete.chain[:PREFIX_BYTES].hex()}.json"


def parse_manifest(key: str) -> LogPosition | None:
    found = _MANIFEST.fullmatch(key)
    return LogPosition(int(found[1]), int(found[2])) if found is not None else None


@dataclass(frozen=True, slots=True, order=True)
class Marker:
    """A change of `state` that the bucket has recorded: a higher counter than `state`'s means a lost ZooKeeper."""

    counter: int
    change: str

    @property
    def key(self) -> str:
        return _checked(_MARKER, f"{MARKER}{self.counter:012d}-{self.change}")


def parse_marker(key: str) -> Marker | None:
    found = _MARKER.fullmatch(key)
    return Marker(int(found[1]), found[2]) if found is not None else None


@dataclass(frozen=True, slots=True, order=True)
class Claim:
    """A standalone node's start. One that is not of a node's own history is another node's."""

    epoch: int
    boot: str

    @property
    def key(self) -> str:
        return _checked(_CLAIM, f"{CLAIM}{self.epoch:012d}-{self.boot}")


def parse_claim(key: str) -> Claim | None:
    found = _CLAIM.fullmatch(key)
    return Claim(int(found[1]), found[2]) if found is not None else None


def _checked(pattern: re.Pattern[str], key: str) -> str:
    if not pattern.fullmatch(key):
        raise ValueError(f"{key!r} would not be recognised again")
    return key
