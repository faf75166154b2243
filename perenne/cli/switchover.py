"""`perenne switchover`: asks through coordination, so that it works from anywhere, whoever leads."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Final

from perenne.cli.status import described
from perenne.session import SessionWaiter
from replication.coordination.access import Access
from replication.coordination.port import Coordination, CoordinationUnavailable, Operation
from replication.coordination.zookeeper import ZooKeeperCoordination
from replication.core.values import ClusterState

WITHDRAW_S: Final = 2.0
COULD: Final = "could take over (nothing was changed)"


def zookeeper_of(cluster: Path) -> str:
    """The address in a cluster.json. Raises NoCluster."""
    return str(described(cluster)["zookeeper"]["address"])


def ask(hosts: str, to: str, seconds: float, access: Access | None = None, *, dry_run: bool = False) -> str:
    """Return what became of it, or would with dry_run."""
    return asyncio.run(_connected(hosts, to, seconds, access or Access(), dry_run=dry_run))


def done(result: str) -> bool:
    """Whether a result says that the wanted node leads, or could."""
    return result.endswith(("leads", COULD))


async def _connected(hosts: str, to: str, seconds: float, access: Access, *, dry_run: bool) -> str:
    coordination = ZooKeeperCoordination(hosts, session_timeout_ms=6000, access=access)
    waiter = SessionWaiter()
    await coordination.start(waiter)
    began = time.monotonic()
    try:
        async with asyncio.timeout(seconds):
            await waiter.event.wait()
            if dry_run:
                return await foreseen(coordination, to)
        return await carried_out(coordination, to, seconds - (time.monotonic() - began))
    except CoordinationUnavailable as error:
        return f"failed: {error}"
    except TimeoutError:
        return f"failed: ZooKeeper at {hosts} does not answer"
    finally:
        await coordination.close()


async def foreseen(coordination: Coordination, to: str) -> str:
    """What would be asked of the leader, which may still find a reason against it. Raises CoordinationUnavailable."""
    seen = await coordination.read_state()
    state, live = seen.state if seen else None, await coordination.live_nodes()
    if why := why_not(state, live, to):
        return why
    assert state is not None and state.leader is not None, "else there is a reason"
    others = sorted(member.id for member in state.in_sync if member.id in live and member.id != state.leader.id)
    return f"{state.leader.id} leads; {to or ' or '.join(others)} {COULD}"


async def carried_out(coordination: Coordination, to: str, seconds: float) -> str:
    """Ask the leader, and see that it does not happen later: it has a deadline, and is withdrawn at the end."""
    arguments = {"until_us": str(int((time.time() + seconds) * 1_000_000))} | ({"to": to} if to else {})
    operation = Operation("switchover", secrets.token_hex(8), arguments)
    asked, result = False, None
    try:
        async with asyncio.timeout(seconds):
            seen = await coordination.read_state()
            if why := why_not(seen.state if seen else None, await coordination.live_nodes(), to):
                return why
            if seen is not None:
                # Asked of this leader, not of its successor: that one must not hand over once more.
                operation = replace(operation, arguments={**arguments, "epoch": str(seen.state.epoch)})
            asked = True
            await coordination.request_operation(operation)
            while True:
                if (result := await _result(coordination, operation)) is not None:
                    return result
                await asyncio.sleep(0.05)
    except CoordinationUnavailable as error:
        return f"failed: {error}"
    except TimeoutError:
        return f"failed: no leader carried it out within {seconds:.0f} s; withdrawn, see `perenne status`"
    finally:
        if asked and result is None:  # also after Ctrl-C; the deadline holds where even this fails
            with contextlib.suppress(TimeoutError, CoordinationUnavailable):
                async with asyncio.timeout(WITHDRAW_S):
                    await coordination.finish_operation(operation, "failed: withdrawn")


async def _result(coordination: Coordination, operation: Operation) -> str | None:
    found = [one.result for one in await coordination.operations() if one.id == operation.id]
    return found[0] if found else None


def why_not(state: ClusterState | None, live: Collection[str], to: str) -> str | None:
    """Say which node cannot take over, and why; None when there is one that can."""
    if state is None or state.leader is None:
        return "failed: nobody leads; see `perenne status`"
    names = sorted(member.id for member in state.in_sync)
    if to and to == state.leader.id:
        return f"{to} already leads"
    if to and to not in live and to not in names:
        return f"failed: {to} is unknown: running are {', '.join(sorted(live))}"
    if to and to not in live:
        return f"failed: {to} does not run"
    if to and to not in names:
        return f"failed: {to} is not in sync: in sync are {', '.join(names)}"
    if not to and not any(name in live for name in names if name != state.leader.id):
        return f"failed: no other node is in sync and runs: in sync are {', '.join(names)}"
    return None
