"""How ZooKeeper's servers are spoken to, and to whom belongs what is made there."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kazoo import security

_SECURITY: Any = security  # kazoo has no types


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How servers are spoken to. The three PEM files come together: TLS, with the node's certificate for a name.

    credentials: "user:password"; then all that is made belongs to that user (digest ACL). Empty: to anybody.
    """

    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    credentials: str = field(default="", repr=False)

    def options(self) -> dict[str, Any]:
        """For kazoo."""
        found: dict[str, Any] = {}
        if self.authority is not None:
            found |= {
                "use_ssl": True,
                "verify_certs": True,
                "check_hostname": False,
                "ca": str(self.authority),
                "certfile": str(self.certificate),
                "keyfile": str(self.key),
            }
        if self.credentials:
            user, _, password = self.credentials.partition(":")
            owned = _SECURITY.make_digest_acl(user, password, all=True)
            found |= {"auth_data": [("digest", self.credentials)], "default_acl": [owned]}
        return found
