"""What systemd hears of a node: that it is ready, that it turns, that it stops."""

import asyncio
import os
import signal
import socket
from collections.abc import Generator
from pathlib import Path

import pytest

from perenne.notify import Notifier, notified
from tests.integration.rig import SOLO, standalone


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[socket.socket]:
    """The socket on which systemd would hear, named in the environment."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "30000")
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        yield listener


def heard(listener: socket.socket) -> str:
    return listener.recv(4096).decode()


def until(listener: socket.socket, wanted: str) -> list[str]:
    """What is heard before `wanted`."""
    before: list[str] = []
    while (text := heard(listener)) != wanted:
        before.append(text)
    return before


def test_a_node_says_when_it_is_ready_and_when_it_stops(systemd: socket.socket, tmp_path: Path) -> None:
    with standalone(tmp_path / "solo", SOLO) as node:
        assert node.running is not None
        assert until(systemd, "READY=1") == []
        assert heard(systemd) == "WATCHDOG=1\nSTATUS="
        node.running.signal(signal.SIGTERM)
        assert set(until(systemd, "STOPPING=1")) <= {"WATCHDOG=1\nSTATUS="}


def test_there_is_no_sign_of_life_while_there_is_no_life(systemd: socket.socket) -> None:
    troubles: list[str | None] = [None, "the disk does not answer"]

    async def run() -> None:
        async with notified(lambda: troubles.pop(0) if len(troubles) > 1 else troubles[0]):
            for wanted in ("READY=1", "WATCHDOG=1\nSTATUS=", *2 * ("STATUS=the disk does not answer",)):
                assert await asyncio.to_thread(heard, systemd) == wanted

    asyncio.run(run())


def test_a_watchdog_of_another_process_is_not_ours() -> None:
    environment = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "3000000"}
    assert Notifier(environment).watchdog_s == 3.0
    assert Notifier({**environment, "WATCHDOG_PID": str(os.getpid())}).watchdog_s == 3.0
    assert Notifier({**environment, "WATCHDOG_PID": "1"}).watchdog_s == 0.0
    assert Notifier({"WATCHDOG_USEC": "3000000"}).watchdog_s == 0.0


def test_nobody_who_listens_is_no_reason_to_end(caplog: pytest.LogCaptureFixture) -> None:
    Notifier({}).say("READY=1")
    assert not caplog.records
    Notifier({"NOTIFY_SOCKET": "/nowhere"}).say("READY=1")
    assert [record.message for record in caplog.records] == ["systemd cannot be told"]


def test_an_abstract_socket_is_reached() -> None:
    name = f"perenne-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{name}")
        listener.settimeout(10)
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).say("READY=1")
        assert heard(listener) == "READY=1"
