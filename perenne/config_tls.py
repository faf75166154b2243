"""What the TLS keys of a configuration must fulfil, and the certificates that they describe."""

import asyncio
import ipaddress
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from perenne.config import Config
from perenne.tls import Keyring, TlsFiles, TlsUnusable
from perenne.tokens import TokenFile, token_fault
from replication.coordination.access import Access
from replication.doorman import Door

WAYS: Final = ("off", "beside", "only")
CLIENTS: Final = ("any", "known")
_Finding = tuple[str, str, str]


def tls_findings(config: Config) -> Iterator[_Finding]:
    """Everything that cannot work, as (key, cause, next step)."""
    tls, dimse = config.tls, config.dimse
    named = {"authority_file": tls.authority_file, "certificate_file": tls.certificate_file, "key_file": tls.key_file}
    if any(named.values()):
        for key, path in named.items():
            if path is None:
                yield (
                    f"tls.{key}",
                    "is missing, and the others are there",
                    "Give all three: `perenne certs` makes them.",
                )
    for section, on in (("coordination", config.coordination.tls), ("http", config.http.tls)):
        if on and not tls.on:
            yield f"{section}.tls", "there is no certificate", "Give the files of [tls]: `perenne certs` makes them."
    if dimse.tls not in WAYS:
        yield "dimse.tls", f"{dimse.tls!r} is no way", f"Use one of: {', '.join(WAYS)}."
    if dimse.tls_clients not in CLIENTS:
        yield "dimse.tls_clients", f"{dimse.tls_clients!r} is nobody", f"Use one of: {', '.join(CLIENTS)}."
    if (dimse.tls_certificate_file is None) != (dimse.tls_key_file is None):
        yield "dimse.tls_key_file", "a certificate and its key come together", "Give both, or neither."
    if dimse.tls in ("beside", "only"):
        if dimse.tls_certificate_file is None and not tls.on:
            yield "dimse.tls", "there is no certificate", "Give dimse.tls_certificate_file and its key, or [tls]."
        if dimse.tls_clients == "known" and dimse.tls_authority_file is None and tls.authority_file is None:
            yield "dimse.tls_clients", "nobody is known", "Give dimse.tls_authority_file."
    if not 0 <= dimse.tls_port < 65536:
        yield "dimse.tls_port", f"{dimse.tls_port} is not a port", "2762 is the registered one."
    files = {
        **{f"tls.{key}": path for key, path in named.items()},
        "dimse.tls_certificate_file": dimse.tls_certificate_file,
        "dimse.tls_key_file": dimse.tls_key_file,
        "dimse.tls_authority_file": dimse.tls_authority_file,
        "coordination.credentials_file": config.coordination.credentials_file,
        "http.token_file": config.http.token_file,
    }
    for key, path in files.items():
        if path is not None and (cause := _unreadable(path)):
            yield key, cause, "Check its path and permissions."
    yield from _secrets(config)
    yield from _reachable(config)


def _unreadable(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return None if file.read(1) else f"{path} is empty"
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"


def _secrets(config: Config) -> Iterator[_Finding]:
    """What the files of one line say. Nothing of them is repeated, but a character that cannot be there."""
    owner, shown = config.coordination.credentials_file, config.http.token_file
    if owner is not None and _unreadable(owner) is None:
        text = owner.read_text(errors="surrogateescape").strip()
        user, colon, password = text.partition(":")
        if not (user and colon and password) or len(text.splitlines()) != 1:
            step = "Write one line, user:password, for example perenne:$(openssl rand -hex 32)."
            yield "coordination.credentials_file", f"{owner} is not one line user:password", step
    if shown is not None and _unreadable(shown) is None:
        step = "Write one line of letters, digits and -._~+/, for example that of `openssl rand -hex 32`."
        if (cause := token_fault(shown, shown.read_text(errors="surrogateescape"))) is not None:
            yield "http.token_file", cause, step


def _reachable(config: Config) -> Iterator[_Finding]:
    """Nodes elsewhere cannot call a node that listens on its own loopback alone."""
    afar = servers_afar(config)
    if afar and is_loopback(config.peer.host):
        step = 'Write the address of this machine, or "0.0.0.0" for every interface.'
        yield "peer.host", f"nodes elsewhere cannot reach {config.peer.host}, and ZooKeeper is at {afar[0]}", step


def servers_afar(config: Config) -> list[str]:
    """Hosts of ZooKeeper that are not this machine."""
    servers = config.coordination.zookeeper.partition("/")[0].split(",")
    return [host for host in (s.strip().rpartition(":")[0].strip("[]") for s in servers if s) if not is_loopback(host)]


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in ("localhost", "ip6-localhost")


RENEWAL_S: Final = 5.0


@dataclass
class Keyrings:
    """The certificates of one node, by the port that shows them, and the token that HTTP wants to be shown."""

    peer: Keyring | None = None
    http: Keyring | None = None
    dicom: Keyring | None = None
    token: TokenFile | None = None

    def shown(self) -> str | None:
        """The token in use now."""
        return self.token.current if self.token is not None else None

    def all(self) -> dict[str, Keyring]:
        found = {"peer": self.peer, "http": self.http, "dicom": self.dicom}
        return {name: keyring for name, keyring in found.items() if keyring is not None}

    def expiries(self) -> dict[str, float]:
        """When each certificate ends, in Unix seconds."""
        return {name: keyring.expires.timestamp() for name, keyring in self.all().items()}

    def authority_expiries(self) -> dict[str, float]:
        """When the first authority ends that each believes, in Unix seconds."""
        ends = {name: keyring.authority_expires for name, keyring in self.all().items()}
        return {name: end.timestamp() for name, end in ends.items() if end is not None}

    async def renew(self) -> None:
        """Look for new files for ever."""
        while True:
            await asyncio.sleep(RENEWAL_S)
            for keyring in self.all().values():
                await asyncio.to_thread(keyring.refresh)
            if self.token is not None:
                await asyncio.to_thread(self.token.refresh)


def door(keyring: Keyring | None) -> Door | None:
    """The port that shows a certificate."""
    return Door(keyring.server, keyring.client) if keyring is not None else None


def token(config: Config) -> str | None:
    """What HTTP wants to be shown."""
    file = config.http.token_file
    return file.read_text().strip() if file is not None else None


def keyrings(config: Config) -> Keyrings:
    """Read every certificate that the configuration names, and the token. Raises TlsUnusable."""
    tls, dimse, found = config.tls, config.dimse, Keyrings()
    if config.http.token_file is not None:
        try:
            found.token = TokenFile(config.http.token_file)
        except OSError as error:
            raise TlsUnusable(f"{config.http.token_file} cannot be read: {error.strerror}; see [http]") from error
    if tls.certificate_file is not None and tls.key_file is not None:
        own = TlsFiles(tls.certificate_file, tls.key_file, tls.authority_file)
        found.peer = Keyring(own, least=ssl.TLSVersion.TLSv1_3)
        if config.http.tls:
            found.http = Keyring(TlsFiles(own.certificate, own.key, None), clients=ssl.CERT_NONE)
    if dimse.tls != "off":
        certificate, key = dimse.tls_certificate_file or tls.certificate_file, dimse.tls_key_file or tls.key_file
        assert certificate is not None and key is not None, "checked"
        known = dimse.tls_clients == "known"
        authority = dimse.tls_authority_file or tls.authority_file if known else None
        clients = ssl.CERT_REQUIRED if known else ssl.CERT_NONE
        found.dicom = Keyring(TlsFiles(certificate, key, authority), clients=clients)
    return found


def zookeeper_access(config: Config) -> Access:
    """How ZooKeeper is spoken to."""
    coordination, tls = config.coordination, config.tls
    secret = coordination.credentials_file
    return Access(
        authority=tls.authority_file if coordination.tls else None,
        certificate=tls.certificate_file if coordination.tls else None,
        key=tls.key_file if coordination.tls else None,
        credentials=secret.read_text().strip() if secret is not None else "",
    )
