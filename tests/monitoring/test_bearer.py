"""Goal: a token is compared as the bytes that were sent. Method: the application itself, asked as a server would."""

import asyncio
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from monitoring.bearer import Bearer


async def behind(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def status(token: str, header: bytes | None, path: str = "/status") -> int:
    """What a request with this Authorization gets."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"authorization", header)] if header is not None else []
    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": headers}
    asyncio.run(Bearer(behind, lambda: token, open_metrics=False)(scope, receive, send))
    return int(sent[0]["status"])


@pytest.mark.parametrize("token", ["aZ0-._~+/==", "schlüssel", "鍵"])
def test_a_token_matches_its_own_bytes_alone(token: str) -> None:
    shown = b"Bearer " + token.encode()
    assert status(token, shown) == status(token, b"bearer  " + token.encode()) == 200
    assert status(token, shown[:-1]) == status(token, shown + b"x") == status(token, b"Basic " + token.encode()) == 401
    assert status(token, b"Bearer \xff") == status(token, None) == 401
    assert status(token, None, "/readyz") == 200


def test_no_token_at_all_fits_an_empty_one() -> None:
    assert status("", b"Bearer ") == status("", b"Bearer") == status("", None) == 401
