"""The token that HTTP wants to be shown: read from its file, and again when it changes, without a restart."""

import logging
import re
from pathlib import Path
from typing import Final

_LOG: Final = logging.getLogger("perenne.http")
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""RFC 6750 section 2.1. Whatever else a token held, some client or proxy would send it altered."""


def token_fault(file: Path, text: str) -> str | None:
    """Why nobody could show what the file holds. Nothing of it is repeated, but a character that cannot be there."""
    text = text.strip()
    kept = _TOKEN.match(text)
    good = kept.end() if kept is not None else 0
    if not text:
        return f"{file} holds no token"
    return (
        f"{file} holds {text[good]!r} as character {good + 1}, and no token can (RFC 6750)"
        if good < len(text)
        else None
    )


class TokenFile:
    """current: what is to be shown now."""

    def __init__(self, file: Path) -> None:
        """Raises OSError."""
        self.file = file
        self._seen: str | None = self._read()
        self.current: str = self._seen.strip()

    def _read(self) -> str:
        return self.file.read_text(errors="surrogateescape")

    def refresh(self) -> bool:
        """Read the file again; return whether there is a new token. The old one is worth nothing from then on.

        What cannot be a token changes nothing, least of all does a file that is empty or gone open the door: it is
        logged once, and the token in use stays.
        """
        try:
            text, fault = self._read(), None
        except OSError as error:
            text, fault = None, f"{self.file} cannot be read: {error.strerror}"
        if text == self._seen:
            return False
        self._seen = text
        if text is not None:
            fault = token_fault(self.file, text)
        if text is None or fault is not None:
            _LOG.error("a new token cannot be used; the one in use stays", extra={"reason": fault})
            return False
        if text.strip() == self.current:
            return False
        self.current = text.strip()
        _LOG.info("took up a new token")
        return True
