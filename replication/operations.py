"""What an operator asks of the cluster through the coordination service, carried out by whoever leads."""

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from replication.coordination.port import Operation
from replication.core import effects as fx
from replication.core import events as ev
from replication.core.values import ReplicaId
from replication.orders import Orders

if TYPE_CHECKING:
    from replication.replicator import Replicator


def void(_: str) -> None:
    """Nobody listens yet."""


REPAIR_S: Final = 20.0
"""Whoever asked for a repair is told what is left after so long."""


class Scrub(Protocol):
    """Of `replication.scrubber`. Raises ValueError for what is no depth."""

    def __call__(self, depth: str, *, begin: bool) -> dict[str, Any]: ...


class Operations:
    """Of one node."""

    def __init__(self, replicator: "Replicator") -> None:
        self._replicator = replicator
        self._underway: Operation | None = None
        self._repairing = ""
        self._handed_over = asyncio.Event()
        self._orders = Orders(replicator)
        self._retiring: Operation | None = None
        self._scrubbing = ""
        self.scrub: Scrub | None = None
        """Begins a pass, or says how far it is; None on a node that has no scrub."""
        self.when_retired: Callable[[str], None] = void
        """Called with the reason once this node is off the register, and is to end."""

    async def hand_over(self, seconds: float) -> None:
        """Give the lead away before the node stops; returns at once on a follower."""
        self._handed_over.clear()
        replicator = self._replicator
        replicator.feed(ev.HandOverRequested(None, replicator.runtime.wall_us(), final=True))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._handed_over.wait()

    def requested(self, operation: Operation) -> None:
        """An operator asked for something; the leader does it, or the node that it is about."""
        if self._orders.requested(operation):
            return
        replicator = self._replicator
        if operation.verb == "retire":
            self._retire(operation)
            return
        if operation.verb == "repair" and operation.arguments.get("node") == replicator.me.id:
            if operation.id != self._repairing:  # it may be announced more than once
                self._repairing = operation.id
                replicator.spawn(self._repair(operation))
            return
        if operation.verb == "scrub" and operation.arguments.get("node", replicator.me.id) == replicator.me.id:
            self._scrub(operation)
            return
        leadership = replicator.core.leadership
        if operation.verb != "switchover" or self._underway is not None or leadership is None:
            return
        if operation.arguments.get("epoch", str(leadership.epoch)) != str(leadership.epoch):
            return  # asked of the leader before, who may be at it still, or have done it
        self._underway = operation
        to = operation.arguments.get("to")
        replicator.feed(ev.HandOverRequested(ReplicaId(to) if to else None, replicator.runtime.wall_us(), final=False))

    def _scrub(self, operation: Operation) -> None:
        """Answer at once: a pass takes hours, and goes on by itself."""
        if operation.id == self._scrubbing or self.scrub is None:
            return  # it may be announced more than once
        self._scrubbing, asked = operation.id, operation.arguments
        try:
            facts = self.scrub(asked.get("depth", ""), begin=asked.get("look") != "only")
        except ValueError as error:
            facts = {"error": str(error)}
        self._replicator.coordinator.finish(operation, json.dumps({"node": self._replicator.me.id} | facts))

    def _retire(self, operation: Operation) -> None:
        me, asked = self._replicator.me, operation.arguments
        if (asked.get("node"), asked.get("incarnation")) == (me.id, me.incarnation) and self._retiring is None:
            self._retiring = operation
            self._replicator.feed(ev.RetireRequested())

    def left(self) -> None:
        """This node is not in sync any more, and stays out: the others hold everything without it."""
        if self._retiring is not None:
            self._replicator.coordinator.retire(self._retiring, f"{self._replicator.me.id} is retired")

    def off_the_register(self, reason: str) -> None:
        """This node may not take part any more."""
        self.when_retired(reason)

    async def _repair(self, operation: Operation) -> None:
        """Try to mend what is known to be damaged now, and say what is left."""
        replicator = self._replicator
        before = replicator.log.damage.known
        if operation.arguments.get("look") != "only":
            await replicator.mender.mended(before, REPAIR_S)
        left = sorted(replicator.log.damage.known)
        facts = {"damaged": len(before), "repaired": len(before.difference(left)), "left": left[:100]}
        replicator.coordinator.finish(operation, json.dumps(facts))

    def done(self, effect: fx.HandOverDone) -> None:
        self._handed_over.set()
        operation, self._underway = self._underway, None
        if operation is not None:
            result = f"{effect.to} leads" if effect.to else f"failed: {effect.reason}"
            self._replicator.coordinator.finish(operation, result)
