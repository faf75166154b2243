"""Which part of the protocol a fault strikes, as seen from outside: what is most delicate comes first.

What strikes one node's request is counted by what that node does; everything else by what the cluster does.
"""

from replication.core.values import Phase
from tests.simulation.cluster import Cluster
from tests.simulation.process import Process

OF_A_FORMER_LEADER = "after the lead"
"""Of a write or put alone that a node began when it led, or was about to: no cluster is in this phase."""
OF_A_NODE = "following"
"""Of one node alone as well."""
WRITES = "a write"
PUTS = ("a put", "a delete")
"""What strikes requests that only an active leader makes; others write as well, as they are about to lead."""
OF_WRITERS = frozenset({"starting", "taking the lead"})
"""The phases of those who do not lead yet, and write all the same."""
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
    OF_A_FORMER_LEADER,
    OF_A_NODE,
    "no leader",
)


LEADING = frozenset(
    {"filling the tier", "handing over", "changing the set", "catching up", "records uncommitted", "idle"}
)
RECOVERING = frozenset({"rebuilding from the tier", "leader recovering"})
REQUESTS = (WRITES, *PUTS, "a listing", "a read", "a watch")
"""What strikes one node's request, and is counted by what that node does."""
AT_START = ("crash while starting", "starting")


def can_occur(kind: str, phase: str) -> bool:
    """Whether a fault of this kind is ever counted in this phase: where it is not, it cannot be missed."""
    if kind == AT_START[0]:
        return phase == AT_START[1]
    if not kind.startswith(REQUESTS):
        without_a_leader = kind == "depose" and phase == "no leader"
        return phase not in (OF_A_FORMER_LEADER, OF_A_NODE) and not without_a_leader
    if kind.startswith(PUTS):
        return phase in LEADING or phase == OF_A_FORMER_LEADER
    if kind.startswith(WRITES):
        return phase in LEADING | RECOVERING | OF_WRITERS or phase == OF_A_FORMER_LEADER
    return phase != OF_A_FORMER_LEADER


def phase_of(cluster: Cluster) -> str:
    """Name the present phase of the cluster."""
    found: set[str] = set()
    for machine in cluster.machines.values():
        if machine.running is not None:
            found |= _phases(machine.running)
    return next((phase for phase in PHASES if phase in found), "no leader")


def phase_at(cluster: Cluster, node: int, kind: str = "") -> str:
    """Name the present phase of one node; of the cluster, where it is none of its nodes. kind: of the fault there."""
    machine = cluster.machines.get(node)
    if machine is None or machine.process is None:
        return phase_of(cluster)
    found = _phases(machine.process)
    if _after_its_lead(machine.process, kind, found):
        return OF_A_FORMER_LEADER
    if machine.process.core.leader is not None:
        found.add(OF_A_NODE)
    return next((phase for phase in PHASES if phase in found), "no leader")


def _after_its_lead(process: Process, kind: str, found: set[str]) -> bool:
    """Whether a node begins no such request in what it does now: it began this one when it led."""
    leadership = process.core.leadership
    if kind.startswith(WRITES):
        return leadership is None and not found & OF_WRITERS
    return kind.startswith(PUTS) and (leadership is None or leadership.phase is Phase.RECOVERING)


def _phases(process: Process) -> set[str]:
    found: set[str] = set()
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
        return found
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
    return found
