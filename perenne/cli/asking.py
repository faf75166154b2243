"""Puts one operation to one running node, and waits for what it answers."""

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from perenne.cli.orders import Desk
from replication.coordination.port import CoordinationUnavailable, Operation

PAUSE_S: Final = 0.1


async def answer_of(
    desk: Desk,
    verb: str,
    node: str,
    wishes: dict[str, str],
    seconds: float,
    ended: Callable[[], Awaitable[str]] | None = None,
) -> dict[str, Any]:
    """The answer; or `error` in it, saying why there is none. node: "" where there is but one. wishes: arguments of
    the operation. ended: asked again and again, says why no answer will come, once none can.
    """
    until = str(int((time.time() + seconds) * 1_000_000))
    arguments = wishes | {"until_us": until} | ({"node": node} if node else {})
    operation = Operation(verb, secrets.token_hex(8), arguments)
    try:
        async with asyncio.timeout(seconds):
            await desk.request_operation(operation)
            while True:
                for one in await desk.operations():
                    if one.id == operation.id and one.result is not None:
                        answer: dict[str, Any] = json.loads(one.result)
                        return answer
                if ended is not None and (why := await ended()):
                    return {"error": why}
                await asyncio.sleep(PAUSE_S)
    except (TimeoutError, CoordinationUnavailable) as error:
        return {"error": str(error) or f"did not answer within {seconds:.0f} s; see perenne status"}
