"""Waiting for a first session with coordination, as a node does that starts, and a verb that asks for something."""

import asyncio

from replication.coordination.port import SessionEvent


class SessionWaiter:
    """Waits for the first session."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    def session_changed(self, event: SessionEvent) -> None:
        if event is SessionEvent.CONNECTED:
            self.event.set()

    def state_changed(self) -> None: ...

    def nodes_changed(self) -> None: ...

    def operation_requested(self) -> None: ...
