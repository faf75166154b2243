"""Which part of the protocol a fault strikes, as seen from outside: what is most delicate comes first."""

from replication.core.values import Phase
from tests.simulation.cluster import Cluster

PHASES = (
    "truncating or installing",
    "taking the lead",
    "rebuilding from the tier",
    "filling the tier",
    "promising",
    "leader recovering",
    "handing over",
    "changing the set",
    "standing for election",
    "starting",
    "catching up",
    "records uncommitted",
    "idle",
    "no leader",
)


def phase_of(cluster: Cluster) -> str:
    """Name the present phase of the cluster."""
    found: set[str] = set()
    for machine in cluster.machines.values():
        process = machine.running
        if process is None:
            continue
        core = process.core
        if not core.situation.admitted:
            found.add("starting")
        if core.following.working:
            found.add("truncating or installing")
        if core.candidacy is not None:
            stage = core.candidacy.stage.value
            found.add({"promising": "promising", "taking": "taking the lead"}.get(stage, "standing for election"))
        leadership = core.leadership
        if leadership is None:
            continue
        rebuilding = leadership.recovery.rebuilding
        if leadership.phase is Phase.RECOVERING:
            found.add("rebuilding from the tier" if rebuilding else "leader recovering")
        elif leadership.tier.entering is not None:
            found.add("filling the tier")
        elif leadership.handover is not None:
            found.add("handing over")
        elif getattr(leadership, "_writer").busy:  # noqa: B009 - no part of production asks for it
            found.add("changing the set")
        elif any(stream.stage.value != "streaming" for stream in leadership.streams.by_link.values()):
            found.add("catching up")
        elif leadership.uncommitted:
            found.add("records uncommitted")
        else:
            found.add("idle")
    return next((phase for phase in PHASES if phase in found), "no leader")
