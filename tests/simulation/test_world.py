"""The loop of a simulated process, where it differs from asyncio's."""

import gc
from typing import cast

import pytest

from tests.simulation.network import Network, Transport
from tests.simulation.world import Net, ProcessLoop, World


def test_what_a_coroutine_asks_for_at_its_end_is_ended_too(recwarn: pytest.WarningsRecorder) -> None:
    """A process dies while one of its coroutines stands in a `try`: what its `finally` begins never runs, nor warns."""
    ran: list[str] = []
    world = World(1)
    loop = ProcessLoop(world, 1, "n1", cast("Net", None))

    async def later() -> None:
        ran.append("later")

    async def standing() -> None:
        try:
            await loop.create_future()
        finally:
            ran.append("its end")
            loop.create_task(later())

    loop.create_task(standing())
    world.run(1_000)
    loop.bury()
    world.run(2_000)
    gc.collect()
    assert ran == ["its end"]
    assert not recwarn.list


def test_a_connection_that_breaks_before_it_was_accepted_is_nobodys_loss() -> None:
    """The process that listens stands still meanwhile (seed 5200015631)."""
    world = World(1)
    net = Network(world)
    loop = ProcessLoop(world, 1, "n1", net)
    transport = Transport(net, loop, 2)
    transport.fall(ConnectionResetError("reset"))
    world.run(1_000)
    assert transport.is_closing()
