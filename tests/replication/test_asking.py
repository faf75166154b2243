"""Goal: what another node has is had from it however large it is, and one that falls silent keeps nobody waiting.

Method: two networks on real sockets, a payload that comes slowly, and little patience.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from replication import lookup, mender
from replication.api import InstanceUnavailable
from replication.lookup import Lookups
from replication.mender import Mender
from replication.messages import Fetch, Fetched, Lookup, LookupAnswer, to_point, to_record
from storage.digest import digests_of
from storage.position import GENESIS, LogPosition, RecordHeader, RecordKind
from tests.replication.test_peers import Side, running

PIECE = 100_000
PIECES = 12
PATIENCE_S = 0.4
CONTENT = bytes(range(250)) * (PIECES * PIECE // 250)
DIGESTS = digests_of(RecordKind.INSTANCE, [CONTENT])
HEADER = RecordHeader(
    LogPosition(1, 1), RecordKind.INSTANCE, DIGESTS.dataset, DIGESTS.digest, 0, "1/2/3.dcm", len(CONTENT)
)
Scene = Callable[[Any, int], Awaitable[None]]


class Slow:
    """A payload that takes three times as long as anybody is patient. pauses: in the middle it does not come at all."""

    size = len(CONTENT)

    def __init__(self, *, pauses: bool) -> None:
        self._pauses = pauses

    def parts(self) -> Iterator[memoryview]:
        for number in range(PIECES):
            time.sleep(3 * PATIENCE_S if self._pauses and number == PIECES // 2 else PATIENCE_S / 4)
            yield memoryview(CONTENT)[number * PIECE : (number + 1) * PIECE]


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "TIMEOUT_S", PATIENCE_S)
    monkeypatch.setattr(mender, "FETCH_S", PATIENCE_S)


def played(directory: Path, part: Callable[[Any], Any], scene: Scene, *, pauses: bool = False, size: int = 0) -> None:
    """Node a asks node b, which answers slowly, with the same instance whatever it is asked. size: of the record, as
    node a knows it.
    """

    async def both(a: Side, b: Side) -> None:
        def entry(_: int) -> Any:
            return SimpleNamespace(length=size) if size else None

        asks = part(SimpleNamespace(network=a.network, log=SimpleNamespace(entry=entry)))

        def answer(link: int, _: object, message: object, __: object) -> None:
            assert isinstance(message, Lookup | Fetch)
            said = (
                LookupAnswer(message.nonce, "present", DIGESTS.digest, 0)
                if isinstance(message, Lookup)
                else Fetched(message.nonce, to_point(GENESIS), to_record(HEADER, bytes(32)))
            )
            b.network.send(link, said, Slow(pauses=pauses))

        def arrived(_: int, __: object, message: Any, payload: Any) -> None:
            asks.answered(message, payload)

        vars(b)["message"], vars(a)["message"] = answer, arrived
        a.dial(b)
        await a.until(lambda: bool(a.up))
        await scene(asks, a.dialled())

    running(directory, both)


def test_an_instance_that_takes_long_to_come_is_waited_for_while_it_comes(tmp_path: Path) -> None:
    async def scene(lookups: Lookups, link: int) -> None:
        found = await lookups._ask(link, "1.2.3")  # pyright: ignore[reportPrivateUsage]
        assert b"".join(found.parts()) == CONTENT

    played(tmp_path, Lookups, scene)


def test_a_node_that_falls_silent_within_an_instance_is_given_up(tmp_path: Path) -> None:
    async def scene(lookups: Lookups, link: int) -> None:
        began = asyncio.get_running_loop().time()
        with pytest.raises(InstanceUnavailable):
            await lookups._ask(link, "1.2.3")  # pyright: ignore[reportPrivateUsage]
        waited = asyncio.get_running_loop().time() - began
        assert waited < 4 * PATIENCE_S, "it would have come in the end"

    played(tmp_path, Lookups, scene, pauses=True)


@pytest.mark.parametrize("pauses", [False, True])
def test_a_record_that_takes_long_to_come_is_repaired_with_all_the_same(tmp_path: Path, pauses: bool) -> None:
    """Whoever is asked may first have to read all of it, for as long as its size tells."""

    async def scene(mends: Mender, link: int) -> None:
        found = await mends._fetch(link, GENESIS, 1)  # pyright: ignore[reportPrivateUsage]
        assert found is not None, "asked again and again, it would come in vain each time"
        payload: Any = found[1]
        assert b"".join(payload.parts()) == CONTENT
        payload.release()

    played(tmp_path, Mender, scene, pauses=pauses, size=mender.SLOWEST * 2 if pauses else 0)
