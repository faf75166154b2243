"""TLS material that does not fit, found before somebody is turned away for it: keys, dates, signers, purposes, names.

Whether others would believe a certificate is not guessed: the node shakes hands with itself, in memory, with the very
contexts that it has when it runs. What the files say by themselves is looked at before that, to name the cause.
"""

import logging
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from perenne.config import Config
from perenne.nodeaccess import own_address
from perenne.tls import Keyring, TlsFiles, TlsUnusable

_LOG: Final = logging.getLogger("perenne.tls")
_Finding = tuple[str, str, str]
_SERVER: Final = (ExtendedKeyUsageOID.SERVER_AUTH, "serverAuth", "cannot show it to callers")
_CLIENT: Final = (ExtendedKeyUsageOID.CLIENT_AUTH, "clientAuth", "cannot show it when it calls others")
_ANEW: Final = "Make new ones: `perenne certs` once more, with the same directory and names; copy them here."
_PUBLIC: Final = "Give a PEM file, with -----BEGIN CERTIFICATE-----."
_UNSIGNED: Final = frozenset({2, 18, 19, 20, 21})
"""What OpenSSL answers (X509_V_ERR_…) when no authority that it was given signed a certificate."""
_NAMELESS: Final = frozenset({62, 64})


@dataclass(frozen=True, slots=True)
class _Shown:
    """A certificate, its key, and the section that names them. calls: it is shown to those that are called, too."""

    prefix: str
    certificate: Path
    key: Path
    calls: bool


def material_findings(config: Config) -> Iterator[_Finding]:
    """What cannot work, as (key, cause, next step). Files that are not there, or say nothing, are told elsewhere."""
    tls, dimse = config.tls, config.dimse
    if tls.certificate_file is not None and tls.key_file is not None:
        own = _Shown("tls.", tls.certificate_file, tls.key_file, calls=not config.standalone)
        found = [*_alone(own), *_named(config, own)]
        yield from found
        authority = tls.authority_file
        if not found and authority is not None and not list(_authority("", authority)):
            yield from _believed(config, own, authority)
    if dimse.tls != "off" and dimse.tls_certificate_file is not None and dimse.tls_key_file is not None:
        yield from _alone(_Shown("dimse.tls_", dimse.tls_certificate_file, dimse.tls_key_file, calls=False))
    authorities = (
        ("tls.authority_file", tls.authority_file),
        ("dimse.tls_authority_file", dimse.tls_authority_file),
        ("tier.ca_file", config.tier.ca_file),
    )
    for key, path in authorities:
        if path is not None:
            yield from _authority(key, path)


def log_material(config: Config) -> None:
    """For a node that starts all the same: its files may be mended while it runs, and other doors may be sound."""
    for key, cause, next_step in material_findings(config):
        _LOG.error("others will refuse this node in TLS", extra={"key": key, "reason": cause, "next_step": next_step})


def _alone(shown: _Shown) -> Iterator[_Finding]:
    """What a certificate and its key say by themselves."""
    where = f"{shown.prefix}certificate_file"
    own = _certificates(shown.certificate)
    private = _content(shown.key)
    if own is None or private is None:
        return
    if not own:
        yield where, f"{shown.certificate} holds no certificate in PEM", _PUBLIC
        return
    yield from _dated(where, shown.certificate, own[0])
    for identifier, name, effect in (_SERVER, _CLIENT) if shown.calls else (_SERVER,):
        if identifier not in _purposes(own[0]):
            cause = f"{shown.certificate} is not for {name}: the node {effect}"
            yield where, cause, f"Have one made with {name} in its extended key usage; `perenne certs` does so."
    yield from _paired(shown, own[0], private)


def _paired(shown: _Shown, own: x509.Certificate, private: bytes) -> Iterator[_Finding]:
    where = f"{shown.prefix}key_file"
    try:
        fits = serialization.load_pem_private_key(private, None).public_key() == own.public_key()
    except UnsupportedAlgorithm:
        return  # OpenSSL may know it: the handshake tells
    except TypeError:
        yield where, f"{shown.key} has a password, and a node cannot be asked for it", "Give the key without one."
    except ValueError:
        yield where, f"{shown.key} holds no private key in PEM", "Give a PEM file, with -----BEGIN PRIVATE KEY-----."
    else:
        if not fits:
            cause = f"{shown.key} is not the key of {shown.certificate}"
            yield where, cause, "Copy both from the same directory of `perenne certs`."


def _named(config: Config, own: _Shown) -> Iterator[_Finding]:
    """Other nodes let in the node that the certificate names."""
    found = _certificates(own.certificate)
    if not found or config.standalone:
        return
    names = [str(name.value) for name in found[0].subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if names[:1] != [config.node.id]:
        cause = f"{own.certificate} names {' and '.join(map(repr, names)) or 'nobody'}, and this node is"
        step = f"Copy the files that `perenne certs DIRECTORY {config.node.id}` made."
        yield "tls.certificate_file", f"{cause} {config.node.id!r}", step


def _authority(key: str, path: Path) -> Iterator[_Finding]:
    found = _certificates(path)
    if found is None:
        return
    if not found:
        yield key, f"{path} holds no certificate in PEM", _PUBLIC
    elif all(list(_dated(key, path, one)) for one in found):
        yield from _dated(key, path, found[0])


def _dated(key: str, path: Path, one: x509.Certificate) -> Iterator[_Finding]:
    now = datetime.now(UTC)
    if one.not_valid_after_utc < now:
        yield key, f"{path} ended on {one.not_valid_after_utc:%Y-%m-%d %H:%M} UTC", _ANEW
    elif one.not_valid_before_utc > now:
        cause = f"{path} begins on {one.not_valid_before_utc:%Y-%m-%d %H:%M} UTC, and it is {now:%Y-%m-%d %H:%M} here"
        yield key, cause, "Set the clock of this machine, or wait."


def _believed(config: Config, own: _Shown, authority: Path) -> Iterator[_Finding]:
    """What other nodes would say of it, and whoever asks over https."""
    if not _certificates(authority):
        return
    clients = ssl.CERT_REQUIRED if own.calls else ssl.CERT_NONE
    try:
        ring = Keyring(TlsFiles(own.certificate, own.key, authority), clients=clients, least=ssl.TLSVersion.TLSv1_3)
    except TlsUnusable as error:
        yield "tls.certificate_file", str(error), _ANEW
        return
    refusal = _refusal(ring.server(), ring.client(), None)
    if refusal is not None:
        yield "tls.certificate_file", _cause(own.certificate, authority, refusal), _step(authority, refusal)
    elif config.http.tls:
        trust = ssl.create_default_context(cafile=str(authority))
        trust.load_cert_chain(own.certificate, own.key)  # this port of the node asks nobody for one; the peer port does
        hosts = (urlsplit(own_address(config)).hostname or "", "" if config.standalone else config.peer.advertise_host)
        for host in dict.fromkeys(hosts):
            if host and (refusal := _refusal(ring.server(), trust, host)) is not None:
                cause = f"{own.certificate} is not for {host}, where this node is asked over https"
                if _code(refusal) not in _NAMELESS:
                    cause = _cause(own.certificate, authority, refusal)
                step = f"Make it anew with that name: `perenne certs DIRECTORY {config.node.id}=NAME,{host}`."
                yield "tls.certificate_file", cause, step


def _refusal(server: ssl.SSLContext, client: ssl.SSLContext, host: str | None) -> ssl.SSLError | None:
    """Let both shake hands; return why one refused the other. host: what the caller wants to have reached."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    waiting = [
        client.wrap_bio(to_client, to_server, server_hostname=host),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    while waiting:
        for side in tuple(waiting):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError as error:
                return error
            waiting.remove(side)
    return None


def _code(refusal: ssl.SSLError) -> int | None:
    return refusal.verify_code if isinstance(refusal, ssl.SSLCertVerificationError) else None


def _cause(certificate: Path, authority: Path, refusal: ssl.SSLError) -> str:
    if _code(refusal) not in _UNSIGNED:
        why = refusal.verify_message if isinstance(refusal, ssl.SSLCertVerificationError) else refusal.reason
        return f"{certificate} is not believed with {authority}: {why}"
    signer = (_certificates(certificate) or [])[-1].issuer.rfc4514_string()
    held = ", ".join(one.subject.rfc4514_string() for one in _certificates(authority) or ())
    return f"{certificate} is not signed by {authority}: {signer} signed it, and the file holds {held}"


def _step(authority: Path, refusal: ssl.SSLError) -> str:
    if _code(refusal) in _UNSIGNED:
        return "Copy all three files from the same directory of `perenne certs`, or name the authority that signed it."
    return f"Look at {authority.name} with `openssl x509 -text`; `perenne certs` makes files that fit."


def _purposes(certificate: x509.Certificate) -> frozenset[x509.ObjectIdentifier]:
    """What it may be used for; both when it does not say (RFC 5280 section 4.2.1.12)."""
    try:
        return frozenset(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):  # OpenSSL judges what is malformed
        return frozenset((_SERVER[0], _CLIENT[0]))


def _certificates(path: Path) -> list[x509.Certificate] | None:
    """None: there is nothing to read. Empty: it is something else."""
    content = _content(path)
    if content is None:
        return None
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError:
        return []


def _content(path: Path) -> bytes | None:
    """None where `tls_findings` and `tier_findings` say why."""
    try:
        return path.read_bytes() or None
    except OSError:
        return None
