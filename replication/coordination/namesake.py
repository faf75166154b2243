"""Another process that calls itself like this node: a leftover of one before it, or a copy that runs."""

import time
from typing import Final

from replication.coordination.port import CoordinationUnavailable, LiveNode, NodeRetired

SESSIONS: Final = 2
"""After so many time-outs of a session another one is no leftover."""


class Namesake:
    """Who held our name when it was to be announced."""

    def __init__(self) -> None:
        self._met = 0, 0.0
        """The session, and since when it was seen; monotonic."""

    def refuse_if_it_runs(self, other: LiveNode, owner: int, live: LiveNode, session_ms: int) -> None:
        """Let what is this process, or one before it in its place, be replaced; of all others the later gives way.

        owner: the other's session. Of a boot that ended without a word it lasts for a while longer, also after an
        outage of ZooKeeper. Raises CoordinationUnavailable as long as it may be that, NodeRetired then.
        """
        if other.identity.boot == live.identity.boot or other.is_at(live.host, live.peer_port, live.machine):
            return
        now = time.monotonic()
        if self._met[0] != owner:
            self._met = owner, now
        who = f"another process runs as {live.identity.id}, at {other.host}:{other.peer_port}"
        if now - self._met[1] < SESSIONS * session_ms / 1000:
            raise CoordinationUnavailable(f"{who}, or its session has not ended yet")
        raise NodeRetired(f"{who}: one of two copies of a machine or disk, or of two nodes with one id, must not run")
