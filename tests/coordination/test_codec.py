"""The znode `state` as bytes: what one version writes another reads."""

import json
from dataclasses import replace

from replication.coordination.codec import decode_state, encode_state
from replication.core.values import (
    TIER_MEMBER,
    Change,
    ClusterState,
    Identity,
    Member,
    Phase,
    ReplicaId,
    TierClaim,
)
from storage.position import GENESIS, LogPoint, LogPosition

A = Member(ReplicaId("a"), "disk")
STATE = ClusterState(
    change=Change(7, "id"),
    epoch=3,
    leader=Identity(A.id, A.incarnation, "boot"),
    phase=Phase.ACTIVE,
    in_sync=frozenset({A, TIER_MEMBER}),
    tier=TierClaim(5, b"\x04" * 32, LogPoint(LogPosition(2, 9), b"\x09" * 32)),
)


def test_a_claim_comes_back_with_what_may_have_been_committed_before_it() -> None:
    assert decode_state(encode_state(STATE)) == STATE


def test_a_claim_of_an_earlier_version_says_nothing_of_it() -> None:
    facts = json.loads(encode_state(STATE))
    del facts["tier"]["upto"]
    assert STATE.tier is not None
    assert decode_state(json.dumps(facts).encode()).tier == replace(STATE.tier, upto=GENESIS)
