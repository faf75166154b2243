"""`perenne switchover`: asks through coordination, so that it works from anywhere, whoever leads."""

import asyncio
import secrets

from perenne.node import SessionWaiter
from replication.coordination.port import Operation
from replication.coordination.zookeeper import ZooKeeperCoordination


def ask(hosts: str, to: str, seconds: float) -> str:
    """Return what became of it."""
    return asyncio.run(_ask(hosts, to, seconds))


async def _ask(hosts: str, to: str, seconds: float) -> str:
    coordination = ZooKeeperCoordination(hosts, session_timeout_ms=6000)
    waiter = SessionWaiter()
    await coordination.start(waiter)
    operation = Operation("switchover", secrets.token_hex(8), {"to": to} if to else {})
    try:
        async with asyncio.timeout(seconds):
            await waiter.event.wait()
            await coordination.request_operation(operation)
            while True:
                for found in await coordination.operations():
                    if found.id == operation.id and found.result is not None:
                        return found.result
                await asyncio.sleep(0.05)
    except TimeoutError:
        return f"failed: no leader carried it out within {seconds:.0f} s; see `perenne status`"
    finally:
        await coordination.close()
