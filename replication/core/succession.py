"""Whether somebody could lead after the one who leads now. Pure."""

from collections.abc import Collection

from replication.core.values import ReplicaId


def why_no_failover(
    leader: ReplicaId, in_sync: Collection[ReplicaId], others: Collection[ReplicaId], tier: ReplicaId
) -> str:
    """Why nobody could take over, and what to do; empty when somebody could.

    others: nodes that are registered and not retired. A node outside the set leads only through the tier.

    >>> why_no_failover("n1", {"n1", "tier"}, (), "tier")
    'no failover is possible: no other node is registered, or each is retired; add one (perenne node add)'
    >>> why_no_failover("n1", {"n1"}, ("n2",), "tier")
    'no failover is possible now: neither n2 nor the tier is in sync; start what is down, or add a node'
    >>> why_no_failover("n1", {"n1", "tier"}, ("n2",), "tier"), why_no_failover("n1", {"n1", "n2"}, ("n2",), "tier")
    ('', '')
    """
    if not others:
        return "no failover is possible: no other node is registered, or each is retired; add one (perenne node add)"
    if tier in in_sync or set(others) & set(in_sync) - {leader}:
        return ""
    return (
        f"no failover is possible now: neither {', '.join(sorted(others))} nor the tier is in sync;"
        " start what is down, or add a node"
    )
