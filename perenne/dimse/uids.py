"""Which SOP classes and transfer syntaxes Perenne accepts, and how it names itself."""

from collections.abc import Iterable
from typing import Final

from pydicom._uid_dict import UID_dictionary
from pynetdicom.sop_class import _STORAGE_CLASSES  # pyright: ignore[reportPrivateUsage] # no public list

VERIFICATION: Final = "1.2.840.10008.1.1"
APPLICATION_CONTEXT: Final = "1.2.840.10008.3.1.1.1"
IMPLICIT_LE: Final = "1.2.840.10008.1.2"
EXPLICIT_LE: Final = "1.2.840.10008.1.2.1"
EXPLICIT_BE: Final = "1.2.840.10008.1.2.2"

IMPLEMENTATION_CLASS: Final = "2.25.330785378479380744717726909736036095927"
IMPLEMENTATION_VERSION: Final = "PERENNE_0_1"
"""Both identify the software that composed a File Meta group (PS3.10 section 7.1)."""

# Their names say "Storage", but what they carry is no instance to keep.
_NOT_STORED: Final = frozenset(
    {"1.2.840.10008.1.3.10", "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.2", "1.2.840.10008.5.1.1.27"}
)
_WORSE_THAN_EXPLICIT_LE: Final = frozenset({IMPLICIT_LE, EXPLICIT_BE})


def _known_non_storage() -> frozenset[str]:
    storage = set(_STORAGE_CLASSES.values())
    return frozenset(
        uid
        for uid, (name, kind, *_) in UID_dictionary.items()
        if uid in _NOT_STORED or not (uid in storage or (kind == "SOP Class" and "Storage" in name))
    )


KNOWN_NON_STORAGE: Final = _known_non_storage()
KNOWN_TRANSFER_SYNTAXES: Final = frozenset(
    uid for uid, (_, kind, *_) in UID_dictionary.items() if kind == "Transfer Syntax"
)


def is_storage(abstract_syntax: str) -> bool:
    """Return whether instances of this class are stored: all but those known to be something else.

    Private and future storage classes cannot be told from their UID, so what is unknown counts as storage.
    """
    return bool(abstract_syntax) and abstract_syntax not in KNOWN_NON_STORAGE


def choose_transfer_syntax(offered: Iterable[str]) -> str | None:
    """Return the transfer syntax to receive in; None when none was offered.

    The first one offered that is registered with DICOM, else the first. Senders put first what they would
    rather send, often the encoding they hold. Two exceptions: Implicit VR Little Endian loses the VR of
    private elements and Explicit VR Big Endian is retired, so Explicit VR Little Endian goes before them.
    """
    candidates = [uid for uid in offered if uid]
    known = [uid for uid in candidates if uid in KNOWN_TRANSFER_SYNTAXES]
    for uid in known or candidates:
        return EXPLICIT_LE if uid in _WORSE_THAN_EXPLICIT_LE and EXPLICIT_LE in candidates else uid
    return None
