"""Goal: `perenne node retire` and `replace` come to an end and touch no disk but the one that is meant, also typed in
the wrong order, twice, or with the wrong name.

Method: the verbs against a real ZooKeeper; nodes are played by sessions that announce themselves, and do nothing.
"""

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer

from perenne.cli import members
from perenne.config import Config
from perenne.membership import NotPossible, Place, check_add
from perenne.survey import Reach
from replication.coordination.port import LiveNode, NodeRegistration, Operation
from replication.coordination.surgery import Found, Surgery
from replication.coordination.zookeeper import ZooKeeperCoordination
from replication.core.values import Change, Identity, Member, ReplicaId
from storage.position import GENESIS
from tests.coordination.test_surgery import CLUSTER, STATE, connected, hosts

__all__ = ["hosts"]
STATUS: dict[str, Any] = {"tier": None, "copies_required": 2, "positions": {"end": 9}, "lags": []}


def member(name: str, disk: str = "disk-1") -> Member:
    return Member(ReplicaId(name), f"{name}-{disk}")


class Played:
    """A cluster in ZooKeeper: n1 leads, everybody else is in sync."""

    def __init__(self, hosts: str, root: str, silent: set[str]) -> None:
        self.hosts, self.root, self.silent = hosts, root, silent
        self.nodes: dict[str, ZooKeeperCoordination] = {}

    def surgery(self) -> Surgery:
        return Surgery(self.hosts, root=self.root)

    async def begin(self, names: Sequence[str]) -> None:
        in_sync = frozenset(member(name) for name in names)
        for name in names:
            await self.start(name)
        with self.surgery() as surgery:
            surgery.write(surgery.look(), cluster=CLUSTER, state=replace(STATE, in_sync=in_sync), left_out=())
        seen = await self.nodes["n1"].read_state()
        assert seen is not None
        await self.nodes["n1"].recreate_leader(seen.version, Identity(ReplicaId("n1"), member("n1").incarnation, "b"))

    async def start(self, name: str, disk: str = "disk-1") -> None:
        who = Identity(ReplicaId(name), member(name, disk).incarnation, secrets.token_hex(4))
        session = self.nodes[name] = await connected(self.hosts, self.root)
        await session.register(NodeRegistration(who.id, who.incarnation, GENESIS))
        await session.announce(LiveNode(who, "127.0.0.1", 1, 2, 3, "PERENNE", "0", GENESIS))

    async def stop(self, name: str) -> None:
        await self.nodes.pop(name).close()

    async def in_sync(self, *names: str) -> None:
        """As the leader writes it."""
        seen = await self.nodes["n1"].read_state()
        assert seen is not None
        change = Change(seen.state.change.counter + 1, secrets.token_hex(4))
        new = replace(seen.state, change=change, in_sync=frozenset(member(name) for name in names))
        await self.nodes["n1"].write_state(new, seen.version)

    async def close(self) -> None:
        for name in list(self.nodes):
            await self.stop(name)


Told = dict[str, Any]
Typed = Callable[..., Awaitable[tuple[int, Told]]]


def played(
    hosts: str,
    monkeypatch: pytest.MonkeyPatch,
    names: Sequence[str],
    body: Callable[[Played, Typed], Awaitable[None]],
) -> None:
    """Run `body` with a cluster of these nodes, and with what runs a verb on it."""
    root = f"/members-{secrets.token_hex(4)}"

    def surgery_there(_: Reach) -> Surgery:
        return Surgery(hosts, root=root)

    silent: set[str] = set()

    def fetched(_: Reach, node: LiveNode, path: str) -> Told | None:
        return STATUS if node.identity.id not in silent else None

    monkeypatch.setattr(Reach, "surgery", surgery_there)
    monkeypatch.setattr(Reach, "fetched", fetched)

    async def main() -> None:
        cluster = Played(hosts, root, silent)
        try:
            await cluster.begin(names)
            await body(cluster, typed)
        finally:
            await cluster.close()

    async def typed(verb: Callable[..., None], name: str, **more: Any) -> tuple[int, Told]:
        """Exit code and what was said; of a refusal, under "refused"."""
        said: list[str] = []
        monkeypatch.setattr(typer, "echo", said.append)

        def fail(text: str, code: int = 1) -> typer.Exit:
            said.append(json.dumps({"refused": text}))
            return typer.Exit(code)

        monkeypatch.setattr(members, "fail", fail)

        def run() -> int:
            with pytest.raises(typer.Exit) as ended:
                verb(Reach(hosts=hosts), name, **{"seconds": 0.3, "dry_run": False, "as_json": True, **more})
            return ended.value.exit_code

        code = await asyncio.to_thread(run)
        return code, json.loads(said[-1]) if said[-1].startswith("{") else {"said": said}

    asyncio.run(main())


def retiring(cluster: Played) -> Operation | None:
    with cluster.surgery() as surgery:
        return surgery.operation("retire")


def test_a_node_that_died_while_it_retired_keeps_nobody_else_from_it(
    hosts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(cluster: Played, typed: Typed) -> None:
        code, said = await typed(members.retire, "n3")
        assert (code, "has not left" in said["result"]) == (1, True)
        code, said = await typed(members.retire, "n4")
        assert "n3 is being retired" in said["refused"], "one at a time"
        # It dies before it is done, and the others go on without it.
        await cluster.stop("n3")
        await cluster.in_sync("n1", "n2", "n4")
        code, said = await typed(members.retire, "n3")
        assert (code, said["result"]) == (0, "n3 is retired; it did not run")
        code, said = await typed(members.retire, "n4")
        asked = retiring(cluster)
        assert asked is not None and asked.arguments["node"] == "n4", said

    played(hosts, monkeypatch, ["n1", "n2", "n3", "n4"], body)


def test_a_request_to_the_disk_before_is_no_request_to_this_one(hosts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(cluster: Played, typed: Typed) -> None:
        await typed(members.retire, "n3")
        await cluster.stop("n3")
        await cluster.start("n3", "disk-2")  # its disk was lost meanwhile
        await cluster.in_sync("n1", "n2", "n4")
        _, said = await typed(members.retire, "n3")
        asked = retiring(cluster)
        assert asked is not None and asked.arguments["incarnation"] == member("n3", "disk-2").incarnation, said

    played(hosts, monkeypatch, ["n1", "n2", "n3", "n4"], body)


def test_a_node_that_runs_is_not_told_to_start_with_an_empty_disk(hosts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """n2's disk is lost, and somebody types n1, whose disk is the last one that is whole."""

    async def body(cluster: Played, typed: Typed) -> None:
        await cluster.stop("n2")
        code, said = await typed(members.replace, "n1", as_json=False)
        assert (code, said["said"][-1]) == (0, "n1 is in sync")
        assert "empty" not in " ".join(said["said"])
        assert "n1-disk-1: no disk is barred; if this disk is to go, stop n1 first" in said["said"][0]

    played(hosts, monkeypatch, ["n1", "n2"], body)


def test_a_node_that_runs_out_of_reach_keeps_its_disk(hosts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "EXPIRED_S", 1.0)

    async def body(cluster: Played, typed: Typed) -> None:
        cluster.silent.add("n2")  # a firewall, a token, another machine than the ones that may ask
        code, said = await typed(members.replace, "n2")
        assert (code, "keeps its session at ZooKeeper" in said.get("refused", "")) == (1, True), said
        assert not (await cluster.nodes["n1"].registrations())[ReplicaId("n2")].retired
        await cluster.stop("n2")
        code, said = await typed(members.replace, "n2")
        assert (code, "n2 is not in sync after" in said["result"]) == (1, True), said
        assert (await cluster.nodes["n1"].registrations())[ReplicaId("n2")].retired

    played(hosts, monkeypatch, ["n1", "n2"], body)


def test_who_was_retired_can_be_added_again(tmp_path: Path) -> None:
    """`node replace`, which the refusal named, writes no configuration."""
    model = Config()
    place = Place(tmp_path / "n4", "n4.example", {}, here=False)
    known = NodeRegistration(ReplicaId("n4"), "disk-1", GENESIS)
    found = Found(
        cluster=CLUSTER, state=None, tier_floor=None, leader=None, registrations={known.id: known}, live={}, versions={}
    )
    with pytest.raises(NotPossible, match="registered already"):
        check_add(found, "n4", model, place)
    check_add(replace(found, registrations={known.id: known.retiring("disk-1")}), "n4", model, place)


def test_ctrl_c_while_a_node_leaves_says_that_it_goes_on(hosts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    async def body(cluster: Played, typed: Typed) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Surgery, "wait_for", pressed)
            code, said = await typed(members.retire, "n3")
        assert (code, said["result"]) == (130, "n3 goes on leaving by itself; type this again to watch")
        asked = retiring(cluster)
        assert asked is not None and asked.result is None

    played(hosts, monkeypatch, ["n1", "n2", "n3"], body)
