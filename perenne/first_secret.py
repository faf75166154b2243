"""What a first deployment in Kubernetes needs to be locked, as the files of one secret (helm/perenne)."""

import secrets
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from perenne.authority import AUTHORITY, BOTH, CERTIFICATE, KEY, make_directory, write_whole

SECRET: Final = "secret"
TOKEN: Final = "token"
CREDENTIALS: Final = "credentials"
ZOOKEEPER_USER: Final = "perenne"


def fill_secret(directory: Path, made: Mapping[str, Path]) -> Path:
    """Write the authority's certificate, each node's files behind its name, a token and a user of ZooKeeper.

    made: what was issued just now, by name. Token and password are kept when they are there: a renewal exchanges
    neither, since nobody who knows them would learn of it. Returns the directory. Raises AuthorityUnusable.
    """
    whole = directory / SECRET
    make_directory(whole)
    for name, own in made.items():
        for part, secret in ((CERTIFICATE, False), (KEY, True), (BOTH, True)):
            write_whole(whole / secret_key(name, part), (own / part).read_bytes(), secret=secret)
    write_whole(whole / AUTHORITY, (directory / AUTHORITY).read_bytes())
    for name, text in ((TOKEN, secrets.token_hex(32)), (CREDENTIALS, f"{ZOOKEEPER_USER}:{secrets.token_hex(32)}")):
        if not (whole / name).exists():
            write_whole(whole / name, text.encode(), secret=True)
    return whole


def clashing(names: Iterable[str]) -> str | None:
    """What is wrong with the names of nodes beside each other in one directory, if anything."""
    parts = (CERTIFICATE, KEY, BOTH)
    files = Counter([AUTHORITY, *(secret_key(name, part) for name in names for part in parts)])
    twice = [file for file, times in files.items() if times > 1]
    return f"{SECRET}/{twice[0]} would be two files: name the nodes otherwise" if twice else None


def secret_key(name: str, part: str) -> str:
    """`n1.pem`, `n1-key.pem` and `n1-key-and-certificate.pem`."""
    return f"{name}.pem" if part == CERTIFICATE else f"{name}-{part}"
