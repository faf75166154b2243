"""DIMSE status codes that Perenne answers, and their comments (PS3.7 annex C, PS3.4 table B.2-1)."""

from typing import Final

SUCCESS: Final = 0x0000
PROCESSING_FAILURE: Final = 0x0110
DUPLICATE_INSTANCE: Final = 0x0111
CLASS_NOT_SUPPORTED: Final = 0x0122
NOT_AUTHORIZED: Final = 0x0124
UNRECOGNIZED_OPERATION: Final = 0x0211
OUT_OF_RESOURCES: Final = 0xA700
DATA_SET_MISMATCH: Final = 0xA900
CANNOT_UNDERSTAND: Final = 0xC000

COMMENT_LIMIT: Final = 64
"""Characters of an Error Comment (0000,0902), which is an LO."""


def comment_text(text: str) -> str:
    """Return `text` fit for an Error Comment: printable ASCII without backslash, at most 64 characters."""
    fit = "".join(char if " " <= char <= "~" and char != "\\" else "?" for char in text)
    return fit[:COMMENT_LIMIT]
