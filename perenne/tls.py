"""Certificates of this node: read from their files, and again when a file changes, without a restart.

BCP 195 (RFC 9325): TLS 1.2 at least, with authenticated ciphers and forward secrecy; between nodes TLS 1.3 alone.
"""

import logging
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509

_LOG: Final = logging.getLogger("perenne.tls")
CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"


class TlsUnusable(Exception):
    """A file that cannot be read, or is not what it is named for; the text says which, and what to do."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files. authority: who signs those that may come in; None where nobody is asked for a certificate."""

    certificate: Path
    key: Path
    authority: Path | None


class Keyring:
    """What the files hold."""

    def __init__(
        self,
        files: TlsFiles,
        *,
        clients: ssl.VerifyMode = ssl.CERT_REQUIRED,
        least: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
    ) -> None:
        """clients: whether a caller must show a certificate. Raises TlsUnusable."""
        self.files = files
        self._clients = clients
        self._least = least
        self._stamps = self._look()
        self._server = self._make(ssl.PROTOCOL_TLS_SERVER)
        self._client = self._make(ssl.PROTOCOL_TLS_CLIENT)
        own = _own(files.certificate)
        self.expires, self._name = own.not_valid_after_utc, own.subject
        self.authority_expires = _first_end(files.authority)

    def server(self) -> ssl.SSLContext:
        """For whoever comes in from now on."""
        return self._server

    def lasting(self) -> ssl.SSLContext:
        """For a server that asks for it once: whoever comes in is shown the certificate that is in use then.

        Whom it lets in stays as it was. Raises TlsUnusable.

        Nothing is loaded into a context that may be in use: that is done in a thread, and OpenSSL locks nothing.
        """
        context = self._make(ssl.PROTOCOL_TLS_SERVER)
        context.sni_callback = self._show  # called whether or not a name was asked for
        return context

    def _show(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = self._server

    def client(self) -> ssl.SSLContext:
        """For calling others. Their certificate must be the authority's; whose it is, the caller looks at himself."""
        return self._client

    def refresh(self) -> bool:
        """Read the files again if one changed; return whether that was so. What cannot be used changes nothing, nor
        does another node's certificate: it is logged once, and the certificate in use stays.
        """
        try:
            stamps = self._look()
            if stamps == self._stamps:
                return False
            self._stamps = stamps
            server, client = self._make(ssl.PROTOCOL_TLS_SERVER), self._make(ssl.PROTOCOL_TLS_CLIENT)
            own, authority_expires = self._successor(), _first_end(self.files.authority)
        except TlsUnusable as error:
            _LOG.error("a new certificate cannot be used; the one in use stays", extra={"reason": str(error)})
            return False
        self._server, self._client = server, client
        self.expires, self.authority_expires = own.not_valid_after_utc, authority_expires
        _LOG.info("took up a new certificate", extra={"expires": self.expires.isoformat()})
        return True

    def _successor(self) -> x509.Certificate:
        """What would be shown from now on. Raises TlsUnusable."""
        own = _own(self.files.certificate)
        if own.subject != self._name:
            raise TlsUnusable(
                f"{self.files.certificate} is for {own.subject.rfc4514_string()}, and the one in use for"
                f" {self._name.rfc4514_string()}: copy this node's own, or restart it if its name was changed"
            )
        if own.not_valid_after_utc < datetime.now(UTC):
            raise TlsUnusable(f"{self.files.certificate} ended on {own.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
        return own

    def _look(self) -> tuple[tuple[int, int, int], ...]:
        files = (self.files.certificate, self.files.key, self.files.authority)
        found: list[tuple[int, int, int]] = []
        for file in files:
            if file is None:
                continue
            try:
                facts = file.stat()
            except OSError as error:
                raise TlsUnusable(f"{file} cannot be read: {error.strerror}; see [tls]") from error
            found.append((facts.st_mtime_ns, facts.st_ino, facts.st_size))
        return tuple(found)

    def _make(self, side: ssl._SSLMethod) -> ssl.SSLContext:  # pyright: ignore[reportPrivateUsage] - its only name
        context = ssl.SSLContext(side)
        context.minimum_version = self._least
        context.set_ciphers(CIPHERS)
        context.check_hostname = False  # a node is known by the name in its certificate, not by where it was found
        context.verify_mode = ssl.CERT_REQUIRED if side is ssl.PROTOCOL_TLS_CLIENT else self._clients
        try:
            context.load_cert_chain(self.files.certificate, self.files.key, password=_no_password)
        except (OSError, ValueError) as error:
            raise TlsUnusable(
                f"{self.files.certificate} and {self.files.key} are no certificate with its key ({error}): "
                "`perenne certs` makes them"
            ) from error
        if self.files.authority is not None:
            try:
                context.load_verify_locations(self.files.authority)
            except (OSError, ValueError) as error:
                raise TlsUnusable(f"{self.files.authority} holds no certificate of an authority ({error})") from error
        return context


def _no_password() -> str:
    raise ValueError("the key has a password: a node cannot be asked for it")


def _first_end(authority: Path | None) -> datetime | None:
    """When the first of the authorities in a file ends; what it signed is then believed no more. None without one, and
    where that cannot be read from what TLS itself takes: then it is said, and the node goes on.
    """
    if authority is None:
        return None
    try:
        found = x509.load_pem_x509_certificates(authority.read_bytes())
    except (OSError, ValueError) as error:
        _LOG.warning("it is not known when an authority ends", extra={"file": str(authority), "reason": str(error)})
        return None
    return min(certificate.not_valid_after_utc for certificate in found)


def _own(certificate: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError) as error:
        raise TlsUnusable(f"{certificate} is no certificate in PEM: {error}") from error
