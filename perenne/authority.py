"""A small private authority: makes the certificates by which the nodes of one cluster know each other (RFC 5280)."""

import errno
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY: Final = "authority.pem"
AUTHORITY_KEY: Final = "authority-key.pem"
CERTIFICATE: Final = "certificate.pem"
KEY: Final = "key.pem"
BOTH: Final = "key-and-certificate.pem"
AUTHORITY_DAYS: Final = 3653
_BACKDATED: Final = timedelta(hours=1)
"""Clocks differ a little."""
_Extension = tuple[x509.ExtensionType, bool]


class AuthorityUnusable(Exception):
    """What lies in the directory is no authority; the text says what, and what to do."""


@dataclass(frozen=True, slots=True)
class Authority:
    """Its certificate and key, both in `directory`."""

    directory: Path
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    fresh: bool

    def issue(self, name: str, hosts: tuple[str, ...], days: int) -> Path:
        """Make a certificate for `name`, below a directory of that name, in place of the one that was there.

        Returns the directory. Each file appears as a whole; a running node takes the pair up once both fit. Raises
        AuthorityUnusable.
        """
        own = self.directory / name
        make_directory(own)
        key = ec.generate_private_key(ec.SECP256R1())
        known = (name, *hosts, "localhost", "127.0.0.1", "::1")
        extensions: tuple[_Extension, ...] = (
            (x509.SubjectAlternativeName([_general(host) for host in dict.fromkeys(known)]), False),
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False),
        )
        made = _sign(name, key.public_key(), self.certificate.subject, self.key, days, extensions)
        private, public = _pem_key(key), made.public_bytes(serialization.Encoding.PEM)
        write_whole(own / BOTH, private + public, secret=True)
        write_whole(own / KEY, private, secret=True)
        write_whole(own / CERTIFICATE, public)
        write_whole(own / AUTHORITY, self.certificate.public_bytes(serialization.Encoding.PEM))
        return own


def authority_in(directory: Path) -> Authority:
    """The authority that lies there, or a new one. Raises AuthorityUnusable."""
    certificate, key = directory / AUTHORITY, directory / AUTHORITY_KEY
    try:
        return _found(directory, certificate, key) or _made(directory, certificate, key)
    except OSError as error:
        raise AuthorityUnusable(
            f"{error.filename or directory} cannot be read: {error.strerror}: run this as the user to whom it belongs,"
            " or name another directory"
        ) from error


def _found(directory: Path, certificate: Path, key: Path) -> Authority | None:
    """The one that lies there. Raises AuthorityUnusable, OSError."""
    if certificate.exists() != key.exists():
        lacking = key if certificate.exists() else certificate
        raise AuthorityUnusable(f"{lacking} is missing: bring it back, or name an empty directory")
    if certificate.exists():
        try:
            loaded = serialization.load_pem_private_key(key.read_bytes(), None)
            found = x509.load_pem_x509_certificate(certificate.read_bytes())
        except (ValueError, TypeError) as error:
            raise AuthorityUnusable(f"{directory} holds no authority that can be used: {error}") from error
        if not isinstance(loaded, ec.EllipticCurvePrivateKey) or loaded.public_key() != found.public_key():
            raise AuthorityUnusable(f"{key} is not the key of {certificate}")
        if (end := found.not_valid_after_utc) < datetime.now(UTC):
            step = "make another one in an empty directory, as docs/security.md says"
            raise AuthorityUnusable(f"{certificate} ended on {end:%Y-%m-%d}, and nobody believes what it signs: {step}")
        return Authority(directory, found, loaded, fresh=False)
    return None


def _made(directory: Path, certificate: Path, key: Path) -> Authority:
    """A new one. Raises AuthorityUnusable."""
    make_directory(directory)
    made = ec.generate_private_key(ec.SECP256R1())
    title = f"Perenne authority {os.urandom(4).hex()}"
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, title)])
    extensions: tuple[_Extension, ...] = (
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (usage, True),
        (x509.SubjectKeyIdentifier.from_public_key(made.public_key()), False),
    )
    own = _sign(title, made.public_key(), subject, made, AUTHORITY_DAYS, extensions)
    write_whole(key, _pem_key(made), secret=True)
    write_whole(certificate, own.public_bytes(serialization.Encoding.PEM))
    return Authority(directory, own, made, fresh=True)


def _sign(
    name: str,
    public: ec.EllipticCurvePublicKey,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    days: int,
    extensions: tuple[_Extension, ...],
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
        public_key=public,
        serial_number=x509.random_serial_number(),
        not_valid_before=now - _BACKDATED,
        not_valid_after=now + timedelta(days=days),
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(key, hashes.SHA256())


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def make_directory(directory: Path) -> None:
    """A directory for secrets. Raises AuthorityUnusable."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError as error:
        raise AuthorityUnusable(f"{directory} is a file: move it away, or name another directory") from error
    except OSError as error:
        raise _unwritable(directory, error) from error


def write_whole(file: Path, content: bytes, *, secret: bool = False) -> None:
    """Whole or not at all; a secret is never readable by others, not even for a moment. Raises AuthorityUnusable."""
    temporary = file.with_name(f".{file.name}.new")
    try:
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if secret else 0o644)
        with os.fdopen(descriptor, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(file)
    except OSError as error:
        raise _unwritable(file, error) from error


def _unwritable(path: Path, error: OSError) -> AuthorityUnusable:
    step = "make room on its disk" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "name a directory elsewhere"
    owner = ", or run this as the user to whom it belongs" if error.errno in (errno.EACCES, errno.EPERM) else ""
    return AuthorityUnusable(f"{path} cannot be written: {error.strerror}: {step}{owner}, and run this again")
