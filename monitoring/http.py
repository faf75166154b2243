"""The HTTP port of one node: metrics, health for load balancers, status for people, instances by UID."""

import asyncio
import contextlib
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any, Final, Protocol

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from monitoring.bearer import Bearer
from monitoring.connections import Connection, Gate, Patience, connections
from monitoring.listing import BadQuery, max_lag, selection
from monitoring.metrics import CONTENT_TYPE
from monitoring.requests import Counted, RequestMetrics
from replication.api import InstanceAbsent, InstanceBytes, InstanceDeleted, InstanceUnavailable
from storage.index import Selection

_UID: Final = re.compile(r"[0-9.]{1,64}")


class Watched(Protocol):
    """What the port shows of its node."""

    def metrics(self) -> bytes: ...

    def why_not_live(self) -> str | None:
        """Why the event loop or the data path does not turn; None when both do. ZooKeeper is no part of it."""
        ...

    def why_not_ready(self) -> str | None:
        """Why a store would be refused now."""
        ...

    def is_leader(self) -> bool: ...

    def why_not_replica(self, most: int | None) -> str | None:
        """Why this node is no follower that is at most so many records behind (None: however many)."""
        ...

    async def status(self) -> dict[str, object]: ...

    async def standing(self) -> dict[str, object]:
        """What an operator's verbs need to know when the cluster cannot go on by itself."""
        ...

    async def read_instance(self, sop_instance_uid: str) -> InstanceBytes:
        """Raises InstanceAbsent, InstanceDeleted, InstanceUnavailable."""
        ...

    async def list_instances(self, where: Selection) -> dict[str, object]:
        """A page of what is indexed here, as `monitoring.listing.page` makes it."""
        ...


def application(node: Watched) -> Starlette:
    """Every route answers GET and HEAD."""

    def health(why_not: Callable[[], str | None]) -> Callable[[Request], Any]:
        async def answer(_: Request) -> Response:
            return _health(why_not())

        return answer

    async def metrics(_: Request) -> Response:
        return Response(node.metrics(), media_type=CONTENT_TYPE)

    async def replica(request: Request) -> Response:
        try:
            why = node.why_not_replica(max_lag(request.query_params))
        except BadQuery as error:
            return PlainTextResponse(f"{error}\n", status_code=400)
        return _health(why)

    async def status(_: Request) -> Response:
        return JSONResponse(await node.status())

    async def instances(request: Request) -> Response:
        try:
            return JSONResponse(await node.list_instances(selection(request.query_params)))
        except BadQuery as error:
            return PlainTextResponse(f"{error}\n", status_code=400)

    async def standing(_: Request) -> Response:
        return JSONResponse(await node.standing())

    async def instance(request: Request) -> Response:
        return await _instance(node, request.path_params["uid"])

    routes = [
        Route("/metrics", metrics),
        Route("/livez", health(node.why_not_live)),
        Route("/readyz", health(node.why_not_ready)),
        Route("/leader", health(lambda: None if node.is_leader() else "this node does not lead")),
        Route("/replica", replica),
        Route("/status", status),
        Route("/instances", instances),
        Route("/standing", standing),
        Route("/instances/{uid}", instance),
    ]
    return Starlette(routes=routes)


def _health(why_not: str | None) -> Response:
    return PlainTextResponse(f"{why_not or 'ok'}\n", status_code=503 if why_not else 200)


async def _instance(node: Watched, uid: str) -> Response:
    if not _UID.fullmatch(uid):
        return PlainTextResponse("a SOP Instance UID has digits and dots, at most 64\n", status_code=400)
    try:
        found = await node.read_instance(uid)
    except InstanceDeleted:
        return PlainTextResponse("it was deleted\n", status_code=410)
    except InstanceAbsent:
        return PlainTextResponse("there is no such instance\n", status_code=404)
    except InstanceUnavailable as error:
        return PlainTextResponse(f"{error}\n", status_code=503, headers={"Retry-After": "2"})

    async def body() -> AsyncIterator[bytes]:
        parts = found.parts()
        while (part := await asyncio.to_thread(next, parts, None)) is not None:
            yield bytes(part)

    headers = {"Content-Length": str(found.size), "Cache-Control": "private, no-cache"}
    return StreamingResponse(body(), media_type="application/dicom", headers=headers)


class _Server(uvicorn.Server):
    """Leaves signals to the node."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


class HttpServer:
    """uvicorn in the node's own loop."""

    def __init__(
        self,
        node: Watched,
        *,
        host: str,
        port: int,
        patience: Patience | None = None,
        secure: ssl.SSLContext | None = None,
        token: Callable[[], str | None] = lambda: None,
        open_metrics: bool = True,
        requests: RequestMetrics | None = None,
    ) -> None:
        """secure: speak https. token(): what everything but the probes wants now, `open_metrics` aside.

        requests: counts them.
        """
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._address = (host, port)
        asked: ASGIApp = Bearer(Gate(application(node)), token, open_metrics=open_metrics)
        config = uvicorn.Config(
            Counted(asked, requests) if requests is not None else asked,
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=20,
            timeout_graceful_shutdown=2,
        )
        config.load()
        config.ssl = secure
        self._server = _Server(config)
        self._patience = patience or Patience()
        self._task: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises OSError when the port is taken."""
        try:
            self._socket.bind(self._address)
        except OSError as error:
            self._socket.close()
            host, port = self._address
            raise OSError(error.errno, f"{host} port {port}: {error.strerror}") from error
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._server.serve(sockets=[self._socket]))
        self._looking = loop.create_task(self._look())

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(self._patience.look)
            for connection in connections(self._server.server_state):
                connection.look(self._patience)

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    async def close(self) -> None:
        self._server.should_exit = True
        if self._task is not None:
            await self._task
        if self._looking is not None:
            self._looking.cancel()
        self._socket.close()
