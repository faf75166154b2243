"""A drill's last step: whether nodes serve the very bytes that came back from the tier."""

import http.client
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from perenne.moving.remote import contents
from perenne.nodeaccess import NodeAccess, told
from storage.digest import digests_of
from storage.position import RecordHeader

TIMEOUT_S: Final = 20.0


@dataclass(slots=True)
class Compared:
    """One node. wanted: instances that were to be compared; compared: those of which it said what it serves.

    differs: what it does not serve with these bytes. silent: why it said nothing of the others, empty when there are
    none. That says nothing of what was restored.
    """

    node: str
    wanted: int
    compared: int = 0
    differs: list[str] = field(default_factory=list[str])
    silent: str = ""

    def document(self) -> dict[str, Any]:
        return {"node": self.node, "compared": self.compared, "of": self.wanted, "silent": self.silent}

    def text(self) -> str:
        count = f"{self.compared} of {self.wanted} instances"
        if self.silent:
            return f"NOT COMPARED: {self.node} {self.silent}; {count} could be compared with what it serves"
        return f"{count} compared with what {self.node} serves"


def compared_with(
    nodes: Sequence[str], instances: Sequence[RecordHeader], access: NodeAccess | None = None
) -> tuple[Compared, ...]:
    """Ask every node for the instances. What was deleted since (410) is no difference."""
    return tuple(_compared(node, instances, access or NodeAccess()) for node in nodes)


def _compared(node: str, instances: Sequence[RecordHeader], access: NodeAccess) -> Compared:
    result = Compared(node, len(instances))
    address = node if "://" in node else f"http://{node}"
    connection = access.connection(address, TIMEOUT_S)
    try:
        for header in instances:
            try:
                why = _differs(address, connection, access, header)
            except _Unable as error:  # it may be able to say of the next one
                result.silent = result.silent or str(error)
                continue
            result.compared += 1
            if why:
                result.differs.append(f"{header.path} at {node}: {why}")
    except (OSError, http.client.HTTPException) as error:
        result.silent = f"did not answer ({told(error)})"
    except _NotAllowed as error:
        result.silent = str(error)
    finally:
        connection.close()
    return result


class _NotAllowed(Exception):
    """The node wants another token than ours; the text says so."""


class _Unable(Exception):
    """The node cannot say now what it has; the text says so."""


def _differs(address: str, connection: http.client.HTTPConnection, access: NodeAccess, header: RecordHeader) -> str:
    """Empty where the node serves these bytes; or holds them beside those that it serves, under a UID that came with
    several contents.
    """
    uid = header.path.rsplit("/", 1)[-1].removesuffix(".dcm").split(".v")[0]
    connection.request("GET", f"/instances/{uid}", headers=access.headers)
    answer = connection.getresponse()
    body = answer.read()
    if answer.status == HTTPStatus.GONE:
        return ""
    if answer.status == HTTPStatus.UNAUTHORIZED:
        raise _NotAllowed("says 401: it wants the token of [http] token_file, in the file that --config names")
    if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise _Unable(f"says {answer.status} {body[:200].decode(errors='replace').strip()}".rstrip())
    if answer.status != HTTPStatus.OK:
        return f"it says {answer.status}"
    served = digests_of(header.kind, [body]).digest
    if served == header.digest or {served, header.digest} <= contents(address, access, uid):
        return ""
    return "it serves other bytes"
