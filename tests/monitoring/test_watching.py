"""Goal: what people look at shows data, and what wakes them up reaches them, and goes away again.

Method: a real cluster under load, with TLS between nodes and a tier, watched by Debian's Prometheus and Alertmanager;
the rules are the real ones with a shorter `for`. Times are measured by `script/prove-watching`, not here.
"""

import contextlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from perenne.authority import AUTHORITY, CERTIFICATE, KEY, authority_in
from perenne.config import TierConfig
from perenne.config_tier import blocking_store
from perenne.local.cluster import LocalCluster, LocalNode
from perenne.local.processes import DidNotStart
from perenne.local.prometheus import CLUSTER, RULES
from tests.integration import rig
from tests.monitoring.chain import Chain, watching
from tests.monitoring.dashboard import BOARD, panels, substituted

SCALE = 120
"""The `for` of two minutes of PerenneNodeDown is a second."""
ONLY_WHEN_UNWELL = {"Alerts firing", "Last drill that passed"}
"""Tiles whose number comes from their fallback while all is well."""


@dataclass
class Watched:
    """san: the directory that is the tier."""

    cluster: LocalCluster
    chain: Chain
    san: Path


def sending(node: LocalNode, stop: threading.Event) -> None:
    """Stores, without pause."""
    number = 0
    while not stop.is_set():
        number += 20
        rig.store(node, *(rig.made(n, filler=bytes(2000)) for n in range(number, number + 20)))


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Three nodes that speak TLS to each other and keep a tier, and everything that watches them."""
    directory = tmp_path_factory.mktemp("watched")
    mount = directory / "san"
    mount.mkdir()
    blocking_store(TierConfig(kind="directory", directory=mount), {}).prepare()
    authority = authority_in(directory / "ca")
    cluster = LocalCluster(directory / "cluster")
    cluster.session_timeout_ms = 2000
    cluster.extra = f'[tier]\nkind = "directory"\ndirectory = "{mount}"\n{rig.SMALL}'
    cluster.plan(3)
    for node in cluster.nodes:
        own = authority.issue(node.id, (), 30)
        node.extra = (
            f'[tls]\nauthority_file = "{own / AUTHORITY}"\ncertificate_file = "{own / CERTIFICATE}"\n'
            f'key_file = "{own / KEY}"\n'
        )
    with ExitStack() as stack:
        stack.callback(cluster.kill)
        chain = stack.enter_context(watching(cluster, directory / "watching", SCALE))
        cluster.start(3)
        cluster.wait_for(lambda: len(rig.in_sync(cluster)) >= 3, "all nodes are in sync")
        yield Watched(cluster, chain, mount)


def test_every_panel_has_data_while_a_cluster_works(watched: Watched) -> None:
    chain, stop = watched.chain, threading.Event()
    load = threading.Thread(target=sending, args=(rig.follower(watched.cluster), stop))
    load.start()
    try:
        asked = [
            # A fallback such as `or vector(0)` always has data, also where the metric's name is wrong.
            (panel, substituted(expression, CLUSTER).removesuffix(" or vector(0)").removesuffix(" or vector(-1)"))
            for panel in panels()
            for expression in panel.expressions
            if panel.title not in ONLY_WHEN_UNWELL
        ]
        assert len(asked) > 80
        # Each is asked until it has its answer: rates come with the second scrape.
        waiting = list(asked)

        def all_have() -> bool:
            waiting[:] = [one for one in waiting if not chain.has_data(one[1])]
            return not waiting

        with contextlib.suppress(DidNotStart):
            watched.cluster.wait_for(all_have, "every panel has data", 15)
        assert [f"{panel.title}: {expression}" for panel, expression in waiting] == []
    finally:
        stop.set()
        load.join()
    every = [substituted(expression, CLUSTER) for panel in panels() for expression in panel.expressions]
    assert all(chain.has_data(expression) for expression in every)
    assert not [one for one in every if "$" in one]
    for annotation in json.loads(BOARD.read_text())["annotations"]["list"]:
        assert chain.has_data(substituted(annotation["expr"], CLUSTER).removesuffix(" > 0"))


def test_every_stage_of_a_store_and_what_storage_does_is_timed(watched: Watched) -> None:
    """Each instance that was stored has a time, and each stage has some."""
    chain, cluster = watched.chain, watched.cluster
    rig.store(rig.follower(cluster), *(rig.made(n) for n in range(30_000_000, 30_000_010)))
    whole = 'sum(perenne_durable_seconds_count{stage="commit"}) == sum(perenne_stored_total) > 0'
    cluster.wait_for(lambda: chain.has_data(whole), "each stored instance was timed", 15)
    expected = [
        f'sum(perenne_durable_seconds_sum{{stage="{one}"}}) > 0' for one in ("local_fsync", "peer_ack", "tier_put")
    ]
    expected += [
        f'sum(perenne_storage_operation_seconds_sum{{place="{place}", op="{op}"}}) > 0'
        for place, op in (("local", "fsync"), ("tier", "put"), ("tier", "list"))
    ]
    expected += [
        f'time() - max(perenne_replica_last_success_timestamp_seconds{{replica="{name}"}}) < 60'
        for name in ("tier", *(node.id for node in cluster.nodes if node is not rig.leader(cluster)))
    ]
    for one in expected:  # the scrape that has it may be the next one
        cluster.wait_for(lambda one=one: chain.has_data(one), one, 15)  # type: ignore[misc]


def test_tiles_say_what_is_so(watched: Watched) -> None:
    """Numbers, and not only that there are some."""
    tiles = {panel.title: substituted(panel.expressions[0], CLUSTER) for panel in panels() if panel.kind == "stat"}

    def shows(title: str, value: float) -> bool:
        (series,) = watched.chain.prometheus.query(tiles[title])
        return float(series["value"][1]) == value

    for title, value in {
        "Leaders": 1,
        "Copies of a new instance": 3,
        "Nodes that are gone": 0,
        "Nodes that take stores": 3,
        "Damaged records": 0,
        "Contradictions": 0,
        "Last drill that passed": -1,
    }.items():
        watched.cluster.wait_for(lambda title=title, value=value: shows(title, value), f"{title} is {value}", 15)  # type: ignore[misc]


def test_every_name_in_panels_and_rules_is_scraped(watched: Watched) -> None:
    known = set(watched.chain.prometheus.ask("label/__name__/values"))
    rules: Any = yaml.safe_load(RULES.read_text())
    texts = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    texts += [expression for panel in panels() for expression in panel.expressions]
    named = {name for text in texts for name in re.findall(r"\b(?:perenne|process)_\w+", text)}
    assert len(named) > 60
    assert named - known == set()


def test_followers_are_replicas_and_the_leader_is_none(watched: Watched) -> None:
    cluster = watched.cluster
    leader = rig.leader(cluster)
    assert leader.get("/replica?max_lag=1000") == (503, b"this node leads\n")
    for node in cluster.nodes:
        if node is not leader:
            cluster.wait_for(lambda node=node: node.get("/replica?max_lag=0") == (200, b"ok\n"), "it has everything")  # type: ignore[misc]
            assert node.get("/replica?max_lag=many")[0] == 400


def test_a_killed_node_is_told_of_and_its_return_as_well(watched: Watched) -> None:
    cluster, chain = watched.cluster, watched.chain
    node = rig.follower(cluster)
    # While the nodes started, it may have fired for each of them.
    cluster.wait_for(lambda: not chain.has_data('ALERTS{alertname="PerenneNodeDown"}'), "nobody is missed", 15)
    alert = {"node": node.id, "cluster": CLUSTER, "severity": "critical"}
    before = time.monotonic()
    rig.signalled(node.running).kill()
    fired = chain.told("PerenneNodeDown", before, alert)
    gone_alert = {"replica": node.id, "cluster": CLUSTER, "severity": "critical"}
    gone = chain.told("PerenneNodeGone", before, gone_alert)
    tile = next(panel for panel in panels() if panel.title == "Nodes that are gone")
    (shown,) = chain.prometheus.query(substituted(tile.expressions[0], CLUSTER))
    assert float(shown["value"][1]) == 1
    assert chain.has_data('ALERTS{alertname="PerenneNodeDown", alertstate="firing"}')
    for reason in ("connection-lost", "unreachable"):
        seen = f'perenne_replica_errors_total{{replica="{node.id}", reason="{reason}"}} > 0'
        cluster.wait_for(lambda seen=seen: chain.has_data(seen), f"{reason} is counted", 15)  # type: ignore[misc]
    cluster.start_node(node)
    chain.told("PerenneNodeDown", fired.at, alert, firing=False)
    chain.told("PerenneNodeGone", gone.at, gone_alert, firing=False)
    others = {
        (one.name, one.labels["node" if one.name == "PerenneNodeDown" else "replica"])
        for one in chain.webhook.told
        if one.name in ("PerenneNodeDown", "PerenneNodeGone") and one.at > before and one.firing
    }
    assert others == {("PerenneNodeDown", node.id), ("PerenneNodeGone", node.id)}


def test_a_leader_that_lost_its_tier_and_then_its_lead_is_no_alarm_for_ever(watched: Watched) -> None:
    """Found by `script/prove-watching`: who follows asks the tier nothing, and said "fails" ever after."""
    cluster, away = watched.cluster, watched.san.with_name("away")
    first = rig.leader(cluster)
    failing = f'perenne_tier_failed{{node="{first.id}"}} == 1'
    watched.san.rename(away)
    try:
        rig.store(first, rig.made(20_000_000))
        cluster.wait_for(lambda: watched.chain.has_data(failing), "the leader says that the tier fails", 20)
        done = rig.perenne("switchover", "--cluster", str(cluster.directory / "cluster.json"))
        assert done.returncode == 0, done.stderr
        cluster.wait_for(lambda: cluster.leader() not in (None, first), "another leads")
        took_over = 'perenne_failover_seconds_count{phase="detect"} > 0'
        cluster.wait_for(lambda: watched.chain.has_data(took_over), "its successor counts the change", 15)
        vain = f'sum(perenne_storage_operation_errors_total{{node="{first.id}", place="tier"}}) > 0'
        cluster.wait_for(lambda: watched.chain.has_data(vain), "what the tier did not do is counted", 15)
        cluster.wait_for(lambda: not watched.chain.has_data(failing), "it says so no more", 15)
    finally:
        away.rename(watched.san)
    cluster.wait_for(lambda: not watched.chain.has_data("perenne_tier_failed == 1"), "nobody says so any more", 20)
