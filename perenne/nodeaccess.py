"""How commands ask a node over HTTP: in plain text, or as its configuration says, with TLS and a token."""

import http.client
import json
import ssl
import urllib.parse
from dataclasses import dataclass, field
from typing import Any

from perenne.config import Config
from perenne.config_tls import token


@dataclass(frozen=True, slots=True)
class NodeAccess:
    """trust: for https; None trusts the public authorities. headers: sent with every request."""

    trust: ssl.SSLContext | None = None
    headers: dict[str, str] = field(default_factory=dict[str, str], repr=False)

    @classmethod
    def of(cls, config: Config) -> "NodeAccess":
        """What a node with this configuration, and any other of its cluster, wants to be shown."""
        shown = token(config)
        headers = {"Authorization": f"Bearer {shown}"} if shown is not None else {}
        if not config.http.tls or config.tls.authority_file is None:
            return cls(None, headers)
        return cls(ssl.create_default_context(cafile=str(config.tls.authority_file)), headers)

    def connection(self, address: str, timeout: float) -> http.client.HTTPConnection:
        """To `http://HOST:PORT` or `https://HOST:PORT`; no proxy is asked."""
        parsed = urllib.parse.urlsplit(address)
        if parsed.scheme == "https":
            return http.client.HTTPSConnection(parsed.hostname or "", parsed.port, timeout=timeout, context=self.trust)
        return http.client.HTTPConnection(parsed.hostname or "", parsed.port, timeout=timeout)

    def json(self, address: str, path: str, timeout: float) -> dict[str, Any]:
        """Raises OSError, http.client.HTTPException, ValueError; each text says why."""
        connection = self.connection(address, timeout)
        try:
            connection.request("GET", path, headers=self.headers)
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise ValueError(f"HTTP {answer.status}: {body[:200].decode(errors='replace').strip()}")
        facts: dict[str, Any] = json.loads(body)
        return facts


def told(error: Exception) -> str:
    """Why a node did not answer, and what to try where that lies with who asks."""
    text = str(error) or type(error).__name__
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{text}; give --config of one of its nodes, which names their authority"
    if isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
        return f"{text}; it may speak plain http: ask http://HOST:PORT"
    if isinstance(error, (http.client.RemoteDisconnected, http.client.BadStatusLine)):
        return f"{text}; it may speak https: ask https://HOST:PORT, or give --config of one of its nodes"
    if isinstance(error, ValueError) and text.startswith("HTTP 401"):
        return f"{text}; it wants a token: give --config of one of its nodes"
    return text


def own_address(config: Config) -> str:
    """Where the node of this configuration answers on this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(config.http.host, config.http.host)
    return f"{'https' if config.http.tls else 'http'}://{host}:{config.http.port}"
