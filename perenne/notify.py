"""Tells systemd that the node runs, turns and stops: sd_notify in a few lines (see its manual page)."""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Final

_LOG: Final = logging.getLogger("perenne.notify")


class Notifier:
    """Says nothing where nobody listens, as outside of systemd."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        mine = environment.get("WATCHDOG_PID", "") in ("", str(os.getpid()))
        self.watchdog_s = int(environment.get("WATCHDOG_USEC", "0")) / 1_000_000 if self._address and mine else 0.0
        """How long systemd waits for a sign of life before it kills the node; 0 for ever."""

    def say(self, *lines: str) -> None:
        if not self._address:
            return
        name = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
                sender.sendto("\n".join(lines).encode(), name)
        except OSError as error:  # whoever supervises is ill; the node is not
            _LOG.warning("systemd cannot be told", extra={"line": lines[0], "reason": str(error)})


@contextlib.asynccontextmanager
async def notified(why_not_live: Callable[[], str | None]) -> AsyncGenerator[None]:
    """Ready at the beginning and stopping at the end; in between a sign of life, as long as there is one."""
    notifier = Notifier(os.environ)
    notifier.say("READY=1")
    signs = asyncio.create_task(_signs(notifier, why_not_live)) if notifier.watchdog_s else None
    try:
        yield
    finally:
        if signs is not None:
            signs.cancel()
        notifier.say("STOPPING=1")


async def _signs(notifier: Notifier, why_not_live: Callable[[], str | None]) -> None:
    while True:
        why = why_not_live()
        notifier.say(*([f"STATUS={why}"] if why else ["WATCHDOG=1", "STATUS="]))
        await asyncio.sleep(notifier.watchdog_s / 3)
