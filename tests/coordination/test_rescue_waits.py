"""Goal: a rescue is possible although somebody is elected again and again, who can never begin to lead, since he waits
for a tier that is gone for good; it is refused while somebody does lead, and what was agreed to is what is written.

Method: a real ZooKeeper; the lead is held, let go and taken again at the very moments that matter.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import typer

from perenne import rescue
from perenne.cli import rescuing
from perenne.rescue import Seen
from perenne.survey import Reach
from replication.coordination.surgery import Surgery
from replication.coordination.zookeeper import ZooKeeperCoordination
from replication.core.rescue import Loss, Plan, Refused
from replication.core.values import Change, ClusterState, Phase
from tests.coordination.test_surgery import CLUSTER, ME, STATE, connected, hosts

__all__ = ["hosts"]
WAITS = replace(STATE, leader=ME)
RESCUED = replace(STATE, change=Change(9, "b"), epoch=8)


class Scene:
    """A cluster in ZooKeeper of which one node holds the lead."""

    def __init__(self, hosts: str, root: str, coordination: ZooKeeperCoordination) -> None:
        self.root, self.reach, self.coordination = root, Reach(hosts=hosts), coordination
        self.loop = asyncio.get_running_loop()
        self.lost = 12

    def hold(self) -> None:
        asyncio.run_coroutine_threadsafe(self.held(), self.loop).result(10)

    def let_go(self) -> None:
        asyncio.run_coroutine_threadsafe(self.coordination.resign(ME), self.loop).result(10)

    async def held(self) -> None:
        seen = await self.coordination.read_state()
        assert seen is not None
        await self.coordination.recreate_leader(seen.version, ME)

    def plan(self, seen: Seen) -> Plan | Refused:
        """What the core decides, as far as it matters here."""
        if seen.found.leader is not None:
            return Refused((f"{seen.found.leader.id} leads: see `perenne status`",))
        return Plan(chosen=None, state=RESCUED, left_out=(), loss=Loss(first=10, last=self.lost, unsure=True))


async def played(
    hosts: str,
    root: str,
    state: ClusterState,
    monkeypatch: pytest.MonkeyPatch,
    at: Mapping[str, Callable[[Scene], None]],
) -> tuple[int, ClusterState]:
    """Run the verb while somebody holds the lead. at: what happens when it waits, and when a person agrees."""
    coordination = await connected(hosts, root)
    scene = Scene(hosts, root, coordination)
    with Surgery(hosts, root=root) as surgery:
        surgery.write(surgery.look(), cluster=CLUSTER, state=state, left_out=())
    await scene.held()

    def surgery_there(_: Reach) -> Surgery:
        return Surgery(hosts, root=root)

    monkeypatch.setattr(Reach, "surgery", surgery_there)
    waiting = Surgery.wait_for

    def wait_for(surgery: Surgery, met: Callable[..., bool], seconds: float, every: float = 0.2) -> object:
        if "waits" in at and met is not rescue.leads:
            at["waits"](scene)
        return waiting(surgery, met, 0.0 if met is rescue.leads else seconds, every)

    def agreed(seen: Seen, yes: str) -> None:
        assert seen.cluster is not None and yes == "yes"
        if "agrees" in at:
            at["agrees"](scene)

    monkeypatch.setattr(Surgery, "wait_for", wait_for)
    monkeypatch.setattr(rescuing, "_agreed", agreed)

    def verb() -> int:
        with pytest.raises(typer.Exit) as ended:
            rescuing.run(scene.reach, [], scene.plan, dry_run=False, yes="yes", seconds=1.0, as_json=False)
        return ended.value.exit_code

    code = await asyncio.to_thread(verb)
    seen = await coordination.read_state()
    await coordination.close()
    assert seen is not None
    return code, seen.state


def test_it_waits_until_who_cannot_lead_lets_go(hosts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    code, state = asyncio.run(played(hosts, "/waits", WAITS, monkeypatch, {"waits": Scene.let_go}))
    assert state == RESCUED
    assert code == 1, "nobody is there to lead afterwards, and that is said"


def test_an_election_while_a_person_types_is_waited_for_and_the_same_is_written(
    hosts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = {"waits": Scene.let_go, "agrees": Scene.hold}
    assert asyncio.run(played(hosts, "/types", WAITS, monkeypatch, at))[1] == RESCUED


def test_what_was_not_agreed_to_is_not_written(
    hosts: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def more_is_lost(scene: Scene) -> None:
        scene.lost = 13
        scene.hold()

    at = {"waits": Scene.let_go, "agrees": more_is_lost}
    code, state = asyncio.run(played(hosts, "/other", WAITS, monkeypatch, at))
    assert (code, state) == (1, WAITS)
    assert "no longer what was shown" in capsys.readouterr().err


def test_what_the_nodes_hold_is_asked_for_again_once_a_person_has_agreed(
    hosts: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing moves in ZooKeeper meanwhile: a leader that was cut off goes on with a follower that it reaches again,
    and commits what the node that was chosen lacks.
    """

    def more_is_lost(scene: Scene) -> None:
        scene.lost = 13

    at = {"waits": Scene.let_go, "agrees": more_is_lost}
    code, state = asyncio.run(played(hosts, "/moved", WAITS, monkeypatch, at))
    assert (code, state) == (1, WAITS)
    assert "no longer what was shown" in capsys.readouterr().err


def test_who_leads_is_not_waited_for(
    hosts: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(_: Scene) -> None:
        raise AssertionError("it waits for a leader to go")

    leading = replace(WAITS, phase=Phase.ACTIVE)
    code, state = asyncio.run(played(hosts, "/leads", leading, monkeypatch, {"waits": never}))
    assert (code, state) == (1, leading)
    assert "n1 leads" in capsys.readouterr().out
