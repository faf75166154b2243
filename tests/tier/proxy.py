"""A store that misbehaves: an HTTP proxy in user space before a real server, told per request what to do.

Signatures hold, for the Host header passes as it came. So a lie is the proxy's own answer, or none.
"""

import http.client
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True, slots=True)
class Request:
    """key: the path behind the bucket, with its prefix, empty for a LIST."""

    method: str
    path: str

    @property
    def key(self) -> str:
        return self.path.partition("?")[0].removeprefix("/perenne").removeprefix("/")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the client is told, whatever happened. forward: let the server do what was asked first."""

    status: int
    body: bytes = b""
    forward: bool = False


@dataclass(frozen=True, slots=True)
class LoseReply:
    """The server does what was asked, and the client hears nothing."""


@dataclass(frozen=True, slots=True)
class Hold:
    """The request waits until `release` is set, and is then done, whoever still listens. done: it was."""

    release: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, slots=True)
class CutBody:
    """The server gets half of the body; `then` is called; both ends are closed."""

    then: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Alter:
    """The server's answer with another status or body."""

    change: Callable[[int, bytes], tuple[int, bytes]]


Action = Answer | LoseReply | Hold | CutBody | Alter | None
SLOW_DOWN = Answer(503, b"<Error><Code>SlowDown</Code><Message>later</Message></Error>")


class Proxy:
    """`rule` says what becomes of a request; None lets it pass. seen: every request that came, in order."""

    def __init__(self, port: int, rule: Callable[[Request], Action]) -> None:
        self.rule = rule
        self.seen: list[Request] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, port))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> "Proxy":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"


def _handler(proxy: Proxy, port: int) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            request = Request(self.command, self.path)
            proxy.seen.append(request)
            action = proxy.rule(request)
            match action:
                case CutBody():
                    self._forward(body, len(body) // 2)
                    action.then()
                    self.close_connection = True
                case LoseReply():
                    self._forward(body)
                    self.close_connection = True
                case Hold():
                    action.release.wait(30)
                    self._forward(body)
                    action.done.set()
                    self.close_connection = True
                case Answer():
                    if action.forward:
                        self._forward(body)
                    self._tell(action.status, action.body, {})
                case Alter() | None:
                    status, said, headers = self._forward(body)
                    if action is not None:
                        status, said = action.change(status, said)
                    self._tell(status, said, headers)

        def _forward(self, body: bytes, most: int | None = None) -> tuple[int, bytes, dict[str, str]]:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            try:
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    connection.putheader(name, value)
                connection.endheaders()
                connection.send(body[:most])
                if most is not None:
                    return 0, b"", {}
                answer = connection.getresponse()
                return answer.status, answer.read(), dict(answer.getheaders())
            finally:
                connection.close()

        def _tell(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response_only(status)
            length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
            for name, value in headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", length)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = serve

    return Handler
