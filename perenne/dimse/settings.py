"""What a node may decide about its DICOM port. Sizes in bytes, times in seconds."""

from dataclasses import dataclass
from typing import Final

MEBIBYTE: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class AllowedAe:
    """One `[[ae]]` entry. host: a name, an address or a network such as 10.1.0.0/16; None allows any."""

    title: str
    host: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DimseSettings:
    """port, tls_port: None where that way is closed; 0 takes any free one.
    ae_title: ours, checked against the called AE title only when `require_called_ae`.

    aes: when not empty, only these calling AE titles (and hosts) may associate.
    max_pdu: of the P-DATA-TF PDUs we are ready to receive (PS3.8 annex D.1), header not counted.
    association_bytes: unanswered bytes of one association above which its socket is not read while an
    earlier instance of it waits for its answer. total_bytes: the same for all together; beyond it only the
    association that has been receiving its instance for longest is read, so that one always makes progress.
    background_bytes: beyond this size an instance is hashed and written in a thread, not in the loop.
    artim_s: for the association request and for the peer to close the connection (PS3.8 section 9.1.4).
    idle_s: an association on which nothing arrives for so long is aborted. message_s: the same within a message,
    whose bytes are held and keep others waiting.
    """

    ae_title: str = "PERENNE"
    host: str = "127.0.0.1"
    port: int | None = 11112
    tls_port: int | None = None
    max_associations: int = 200
    max_pdu: int = 128 * 1024
    association_bytes: int = 64 * MEBIBYTE
    total_bytes: int = 256 * MEBIBYTE
    background_bytes: int = 4 * MEBIBYTE
    artim_s: float = 30.0
    idle_s: float = 3600.0
    message_s: float = 30.0
    aes: tuple[AllowedAe, ...] = ()
    require_called_ae: bool = False
