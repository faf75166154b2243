"""Association negotiation: what a peer asks for and is granted. What we say is encoded by pynetdicom's codecs; they
take up to 20 s for a request of 1 MiB and refuse it for an item that they do not know, so that it is decoded here.
"""

import enum
import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
)
from pynetdicom.presentation import PresentationContext

from perenne.dimse.pdu import ASSOCIATE_AC, AbortReason, PduError
from perenne.dimse.settings import AllowedAe
from perenne.dimse.uids import (
    APPLICATION_CONTEXT,
    EXPLICIT_LE,
    IMPLEMENTATION_CLASS,
    IMPLEMENTATION_VERSION,
    IMPLICIT_LE,
    VERIFICATION,
    choose_transfer_syntax,
    is_storage,
)

# Called and calling AE title in an association PDU, after its header (PS3.8 table 9-11).
_CALLED: Final = slice(4, 20)
_CALLING: Final = slice(20, 36)
_TITLES: Final = slice(4, 36)
_ITEMS: Final = 68
# Types of its items and of those within them.
_APPLICATION, _CONTEXT, _ABSTRACT_SYNTAX, _TRANSFER_SYNTAX = 0x10, 0x20, 0x30, 0x40
_USER_INFORMATION, _MAXIMUM_LENGTH = 0x50, 0x51
_MOST_CONTEXTS: Final = 128
_MOST_SYNTAXES: Final = 256
"""In one context: four times as many as there are. A request is read in the event loop, whoever sent it."""
_UID: Final = re.compile(r"[0-9.]{1,64}")
_ACCEPTED: Final = 0
_ABSTRACT_SYNTAX_REFUSED: Final = 3
_TRANSFER_SYNTAX_REFUSED: Final = 4


class Rejection(enum.Enum):
    """Result, source and reason of an A-ASSOCIATE-RJ (PS3.8 table 9-21)."""

    APPLICATION_CONTEXT = (1, 1, 2)
    CALLING_AE = (1, 1, 3)
    CALLED_AE = (1, 1, 7)
    PROTOCOL_VERSION = (1, 2, 2)
    DRAINING = (2, 3, 1)
    LIMIT = (2, 3, 2)


@dataclass(frozen=True, slots=True)
class ProposedContext:
    context_id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AssociationRequest:
    """max_length: the largest P-DATA-TF the peer can receive, 0 for no limit.

    titles: both AE titles as they came, to be sent back so.
    """

    protocol_version: int
    application_context: str
    called_ae: str
    calling_ae: str
    contexts: tuple[ProposedContext, ...]
    max_length: int
    titles: bytes


@dataclass(frozen=True, slots=True)
class AcceptedContext:
    context_id: int
    abstract_syntax: str
    transfer_syntax: str


@dataclass(frozen=True, slots=True)
class Decision:
    """result: per context as PS3.8 table 9-18 has it; `accepted` holds those with result 0."""

    results: tuple[tuple[ProposedContext, int, str], ...]
    accepted: Mapping[int, AcceptedContext]


class CallingPolicy:
    """Which calling AE titles may associate, and from where. Without entries, all may."""

    def __init__(self, aes: Sequence[AllowedAe], addresses_of: Mapping[str, Sequence[str]]) -> None:
        """addresses_of: the addresses of each host that is given by name."""
        self._networks: dict[str, list[ipaddress.IPv4Network | ipaddress.IPv6Network]] = {}
        for entry in aes:
            hosts = ["0.0.0.0/0", "::/0"] if entry.host is None else addresses_of.get(entry.host, [entry.host])
            networks = self._networks.setdefault(entry.title.strip(), [])
            networks += [ipaddress.ip_network(host, strict=False) for host in hosts]

    def allows(self, calling_ae: str, address: str) -> bool:
        if not self._networks:
            return True
        peer = ipaddress.ip_address(address.partition("%")[0])
        if isinstance(peer, ipaddress.IPv6Address) and peer.ipv4_mapped is not None:
            peer = peer.ipv4_mapped
        return any(peer in network for network in self._networks.get(calling_ae, ()))


def decode_request(body: bytes) -> AssociationRequest:
    """body: of an A-ASSOCIATE-RQ, after its header. Raises PduError."""
    if len(body) < _ITEMS:
        raise PduError(AbortReason.INVALID_PARAMETER, "association PDU: too short")
    application_context, contexts, max_length = "", list[ProposedContext](), 0
    for kind, item in _items(body, _ITEMS):
        if kind == _APPLICATION:
            application_context = _uid(item)
        elif kind == _CONTEXT:
            contexts.append(_context(item))
            if len(contexts) > _MOST_CONTEXTS:
                break
        elif kind == _USER_INFORMATION:
            lengths = [value for sub, value in _items(item) if sub == _MAXIMUM_LENGTH]
            max_length = int.from_bytes(lengths[0], "big") if lengths else 0
    ids = {context.context_id for context in contexts}
    if len(ids) != len(contexts) or any(context_id % 2 == 0 for context_id in ids):
        raise PduError(AbortReason.INVALID_PARAMETER, "presentation context identifiers repeat or are even")
    return AssociationRequest(
        protocol_version=int.from_bytes(body[:2], "big"),
        application_context=application_context,
        called_ae=_title(body[_CALLED]),
        calling_ae=_title(body[_CALLING]),
        contexts=tuple(contexts),
        max_length=max_length,
        titles=body[_TITLES],
    )


def _items(data: bytes, at: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield type and value of each item. Whoever does not know a type passes over it (PS3.8 annex D.2)."""
    end = len(data)
    while at < end:
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if at + 4 + length > end:
            raise PduError(AbortReason.INVALID_PARAMETER, "association PDU: an item is cut short")
        yield data[at], data[at + 4 : at + 4 + length]
        at += 4 + length


def _context(item: bytes) -> ProposedContext:
    if len(item) < 4:
        raise PduError(AbortReason.INVALID_PARAMETER, "association PDU: a presentation context is cut short")
    abstract_syntax, transfer_syntaxes = "", list[str]()
    for kind, value in _items(item, 4):
        if kind == _ABSTRACT_SYNTAX:
            abstract_syntax = _uid(value)
        elif kind == _TRANSFER_SYNTAX:
            transfer_syntaxes.append(_uid(value))
            if len(transfer_syntaxes) > _MOST_SYNTAXES:
                raise PduError(AbortReason.INVALID_PARAMETER, "a presentation context with too many transfer syntaxes")
    return ProposedContext(item[0], abstract_syntax, tuple(syntax for syntax in transfer_syntaxes if syntax))


def _uid(value: bytes) -> str:
    """Empty for what is no UID: its context is refused, and the others are not."""
    uid = value.decode("latin-1").strip(" \0")
    return uid if _UID.fullmatch(uid) else ""


def decide(contexts: Iterable[ProposedContext]) -> Decision:
    """Accept Verification and all that may be storage, in the syntax `choose_transfer_syntax` picks."""
    results: list[tuple[ProposedContext, int, str]] = []
    accepted: dict[int, AcceptedContext] = {}
    for proposed in contexts:
        syntax = choose_transfer_syntax(proposed.transfer_syntaxes)
        if not (proposed.abstract_syntax == VERIFICATION or is_storage(proposed.abstract_syntax)):
            results.append((proposed, _ABSTRACT_SYNTAX_REFUSED, syntax or IMPLICIT_LE))
        elif syntax is None:
            results.append((proposed, _TRANSFER_SYNTAX_REFUSED, IMPLICIT_LE))
        else:
            results.append((proposed, _ACCEPTED, syntax))
            accepted[proposed.context_id] = AcceptedContext(proposed.context_id, proposed.abstract_syntax, syntax)
    return Decision(tuple(results), accepted)


def encode_acceptance(request: AssociationRequest, decision: Decision, max_pdu: int) -> bytes:
    """Return the A-ASSOCIATE-AC. Sub-items that we do not answer are thereby declined (PS3.7 annex D.3.3)."""
    primitive = _primitive("ANY", "ANY", max_pdu)
    primitive.result = 0
    primitive.result_source = 1
    answers: list[PresentationContext] = []
    for proposed, result, syntax in decision.results:
        answer = PresentationContext()
        answer.context_id = proposed.context_id
        answer.transfer_syntax = [syntax]
        answer.result = result
        answers.append(answer)
    primitive.presentation_context_definition_results_list = answers
    pdu = A_ASSOCIATE_AC()
    pdu.from_primitive(primitive)
    encoded = pdu.encode()
    header = len(encoded) - int.from_bytes(encoded[2:6], "big")
    return encoded[: header + _TITLES.start] + request.titles + encoded[header + _TITLES.stop :]


def encode_request(*, called_ae: str, calling_ae: str, contexts: Sequence[ProposedContext], max_pdu: int) -> bytes:
    """Return an A-ASSOCIATE-RQ, for our own sender."""
    primitive = _primitive(called_ae, calling_ae, max_pdu)
    proposals: list[PresentationContext] = []
    for context in contexts:
        proposal = PresentationContext()
        proposal.context_id = context.context_id
        proposal.abstract_syntax = context.abstract_syntax
        proposal.transfer_syntax = list(context.transfer_syntaxes or (EXPLICIT_LE,))
        proposals.append(proposal)
    primitive.presentation_context_definition_list = proposals
    pdu = A_ASSOCIATE_RQ()
    pdu.from_primitive(primitive)
    return pdu.encode()


def decode_acceptance(body: bytes) -> tuple[Mapping[int, str], int]:
    """Return the transfer syntax of each accepted context, and the acceptor's maximum length.

    Raises PduError.
    """
    pdu = A_ASSOCIATE_AC()
    try:
        pdu.decode(b"%c\0%b%b" % (ASSOCIATE_AC, len(body).to_bytes(4, "big"), body))
    except Exception as error:  # the codec raises whatever its struct, str or assertions raise
        raise PduError(AbortReason.INVALID_PARAMETER, f"association PDU: {type(error).__name__}") from error
    accepted = {
        item.context_id: str(item.transfer_syntax)
        for item in pdu.presentation_context
        if item.context_id is not None and item.result == _ACCEPTED
    }
    information = pdu.user_information
    return accepted, (information.maximum_length or 0) if information is not None else 0


def _primitive(called_ae: str, calling_ae: str, max_pdu: int) -> A_ASSOCIATE:
    primitive = A_ASSOCIATE()
    primitive.application_context_name = APPLICATION_CONTEXT
    primitive.called_ae_title = called_ae
    primitive.calling_ae_title = calling_ae
    length = MaximumLengthNotification()
    length.maximum_length_received = max_pdu
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = IMPLEMENTATION_CLASS
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = IMPLEMENTATION_VERSION
    primitive.user_information = cast(Any, [length, implementation, version])
    return primitive


def _title(field: bytes) -> str:
    """Return an AE title of any bytes, without padding; what cannot be printed would forge lines of a log."""
    text = field.decode("latin-1").strip(" \0")
    return text if text.isprintable() else "".join(char if char.isprintable() else "\ufffd" for char in text)
