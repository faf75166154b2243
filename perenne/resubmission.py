"""Offers what lies in lost+found to the cluster again, through C-STORE like any modality; and moves what was taken."""

import http.client
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from perenne.dimse.sender import AssociationAborted, AssociationRejected, Sender
from perenne.lostfound import Saved, data_set, set_aside
from perenne.lostobjects import is_object
from perenne.nodeaccess import NodeAccess

CONTEXTS: Final = 100
"""Presentation contexts asked for in one association; 128 are allowed."""
ASK_S: Final = 20.0
CALLING_AE: Final = "PERENNE-LOST"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the cluster said to one instance. problem: why it was not taken; None when it was."""

    saved: Saved
    problem: str | None


def held_back(address: str, access: NodeAccess, uid: str) -> str | None:
    """Why an instance is not to be offered again, as a node says: it was deleted, or that is not known now."""
    connection = access.connection(address, ASK_S)
    try:
        connection.request("HEAD", f"/instances/{uid}", headers=access.headers)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"{address} cannot say whether it was deleted: {error}"
    finally:
        connection.close()
    if status == http.client.GONE:
        return "it was deleted on purpose"
    known = status in (http.client.OK, http.client.NOT_FOUND)
    return None if known else f"{address} cannot say now whether it was deleted (HTTP {status})"


def associations(wanted: Sequence[Saved]) -> Iterator[list[Saved]]:
    """Split so that each part needs no more contexts than an association has, classes kept together."""
    ordered = sorted(wanted, key=lambda saved: (saved.sop_class_uid, saved.transfer_syntax_uid, saved.name, saved.at))
    part: list[Saved] = []
    kinds: set[tuple[str, str]] = set()
    for saved in ordered:
        kind = (saved.sop_class_uid, saved.transfer_syntax_uid)
        if kind not in kinds and len(kinds) == CONTEXTS:
            yield part
            part, kinds = [], set()
        kinds.add(kind)
        part.append(saved)
    if part:
        yield part


async def resubmit(
    data_dir: Path, wanted: Sequence[Saved], host: str, port: int, called_ae: str, said: Callable[[Outcome], None]
) -> None:
    """Send each, and move its file aside once it was answered with Success; `said` hears of each. An object of the
    tier stays where it is: whoever knows all that is in it moves it.

    Raises OSError, AssociationRejected, AssociationAborted: the rest is still where it was, and may be sent again.
    """
    for part in associations(wanted):
        contexts = sorted({(saved.sop_class_uid, saved.transfer_syntax_uid) for saved in part})
        asked = [(sop_class, [syntax]) for sop_class, syntax in contexts]
        sender = await Sender.associate(host, port, asked, called_ae=called_ae, calling_ae=CALLING_AE)
        async with sender:
            for saved in part:
                said(Outcome(saved, await _one(sender, data_dir, saved)))


async def _one(sender: Sender, data_dir: Path, saved: Saved) -> str | None:
    body = data_set(data_dir, saved)
    try:
        answer = await sender.store(saved.sop_class_uid, saved.sop_instance_uid, saved.transfer_syntax_uid, [body])
    except KeyError:
        return "the node does not take this class or transfer syntax"
    if answer.status is None:
        return "answered without a status"
    if answer.status != 0:
        return f"answered {answer.status:04X} {answer.comment}".rstrip()
    if not is_object(saved.name):
        set_aside(data_dir, saved.name)
    return None


def done_with(found: Sequence[Saved], outcomes: Sequence[Outcome]) -> list[str]:
    """Objects of the tier of which everything was taken, and nothing that might still be wanted is left."""
    taken = {(one.saved.name, one.saved.at) for one in outcomes if one.problem is None}
    left = {saved.name for saved in found if not saved.settled and (saved.name, saved.at) not in taken}
    return sorted({saved.name for saved in found if is_object(saved.name)} - left)


__all__ = ["AssociationAborted", "AssociationRejected", "Outcome", "associations", "done_with", "held_back", "resubmit"]
