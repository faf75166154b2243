"""A way of some length to a server on this machine: `python -m perenne.bench.delay PORT TARGET_PORT MILLISECONDS`.

Whatever comes is passed on so many milliseconds later, in each direction and in order; nothing is lost or slowed down.
"""

import asyncio
import sys
from collections import deque

import uvloop

PIECE = 256 * 1024


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    waiting: deque[tuple[float, bytes]] = deque()
    more = asyncio.Event()

    async def deliver() -> None:
        while True:
            while not waiting:
                more.clear()
                await more.wait()
            due, data = waiting.popleft()
            if (early := due - loop.time()) > 0:
                await asyncio.sleep(early)
            if not data:
                writer.close()
                return
            writer.write(data)
            await writer.drain()

    delivering = loop.create_task(deliver())
    try:
        while data := await reader.read(PIECE):
            waiting.append((loop.time() + seconds, data))
            more.set()
        waiting.append((loop.time() + seconds, b""))
        more.set()
        await delivering
    except OSError:
        writer.close()  # the other end is gone: so is the way
    finally:
        delivering.cancel()


async def serve(port: int, target: int, seconds: float) -> None:
    """Forward until cancelled."""

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(_pass_on(reader, forth, seconds), _pass_on(back, writer, seconds))

    async with await asyncio.start_server(accepted, "127.0.0.1", port, limit=PIECE) as server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) / 1000))
