"""Association negotiation: what a peer asks for and is granted. The bytes are done by pynetdicom's codecs."""

import enum
import ipaddress
from collections.abc import Collection, Iterable, Mapping, Sequence
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

from perenne.dimse.pdu import ASSOCIATE_AC, ASSOCIATE_RQ, AbortReason, PduError
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
_ANY_TITLE: Final = b"ANY".ljust(16)
_APPLICATION, _CONTEXT, _USER_INFORMATION, _MAXIMUM_LENGTH = 0x10, 0x20, 0x50, 0x51
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
    pdu = A_ASSOCIATE_RQ()
    # The codec refuses titles that are empty, not ASCII or have a backslash. Who may call is not for it to say.
    fixed = body[: _TITLES.start] + _ANY_TITLE * 2 + body[_TITLES.stop : _ITEMS]
    _decode(pdu, ASSOCIATE_RQ, fixed + _used(body[_ITEMS:], {_APPLICATION, _CONTEXT, _USER_INFORMATION}))
    contexts = tuple(
        ProposedContext(
            item.context_id or 0,
            str(item.abstract_syntax or ""),
            tuple(str(uid) for uid in item.transfer_syntax if uid),
        )
        for item in pdu.presentation_context
    )
    ids = {context.context_id for context in contexts}
    if len(ids) != len(contexts) or any(context_id % 2 == 0 for context_id in ids):
        raise PduError(AbortReason.INVALID_PARAMETER, "presentation context identifiers repeat or are even")
    information = pdu.user_information
    return AssociationRequest(
        protocol_version=pdu.protocol_version,
        application_context=str(pdu.application_context_name or ""),
        called_ae=_title(body[_CALLED]),
        calling_ae=_title(body[_CALLING]),
        contexts=contexts,
        max_length=(information.maximum_length or 0) if information is not None else 0,
        titles=body[_TITLES],
    )


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
    _decode(pdu, ASSOCIATE_AC, body)
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


def _used(items: bytes, kinds: Collection[int]) -> bytes:
    """Return the items of these kinds, of the user information the maximum length alone. For any other that it does not
    know or like the codec would refuse the request, and an acceptor is to pass over it (PS3.8 annex D.2).

    Raises PduError.
    """
    kept: list[bytes] = []
    while items:
        length = int.from_bytes(items[2:4], "big")
        value, rest = items[4 : 4 + length], items[4 + length :]
        if len(items) < 4 or len(value) < length:
            raise PduError(AbortReason.INVALID_PARAMETER, "association PDU: an item is cut short")
        if items[0] == _USER_INFORMATION:
            value = _used(value, {_MAXIMUM_LENGTH})
        if items[0] in kinds:
            kept += (items[:2], len(value).to_bytes(2, "big"), value)
        items = rest
    return b"".join(kept)


def _decode(pdu: A_ASSOCIATE_RQ | A_ASSOCIATE_AC, kind: int, body: bytes) -> None:
    try:
        pdu.decode(b"%c\0%b%b" % (kind, len(body).to_bytes(4, "big"), body))
    except Exception as error:  # the codec raises whatever its struct, str or assertions raise
        raise PduError(AbortReason.INVALID_PARAMETER, f"association PDU: {type(error).__name__}") from error
